package resolve

import (
	"net/netip"
	"slices"

	"github.com/patchbay-dev/patchbay/nodeagent/compile"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
)

// An address is claimed like any other thing. The addresses that an attachment has, or
// had last, are lease.Given: without a claim no more than a wish to have them again.

// static sets the addresses aside that an attachment names, before any address is chosen
// for another attachment; the claims decide later which attachment gets them.
func (rv *Resolver) static(u *Resource) []netip.Prefix {
	given := compile.Prefixes(u.In.Attachment.Spec.Addresses)
	if network := u.In.Attachment.Spec.Network; network != "" {
		for _, p := range given {
			rv.claims.Reserve(u.Owner, compile.AddressClaim(network, p.Addr()))
		}
	}
	return given
}

// setAside sets aside what attachments have, before any of them is given an
// address that it lacks or names, which another may have.
func (rv *Resolver) setAside(units []*Resource) {
	for _, u := range units {
		// Their networks are known now.
		rv.claims.Replace(u.Owner, slices.DeleteFunc(slices.Clone(rv.claims.Of(u.Owner)), func(c compile.Claim) bool { return c.Sharers == compile.Marked }))
	}
	attached := slices.DeleteFunc(slices.Clone(units), func(u *Resource) bool { return u.In.Attachment == nil || u.In.Attachment.Spec.Network == "" })
	rv.grantNamed(attached, (*Resource).marked)
	rv.grantNamed(attached, func(u *Resource) []netip.Prefix { return compile.Prefixes(u.In.Attachment.Status.Addresses) })
	for _, u := range attached {
		if !u.static() {
			rv.claims.Keep(u.Owner, u.In.Attachment.Spec.Network, u.had())
		}
	}
	for _, u := range attached {
		for _, c := range compile.AllowedClaims(u.In.Attachment) {
			rv.claims.Reserve(u.Owner, c)
		}
	}
	for _, u := range units {
		rv.enterSiblings(u)
	}
}

// grantNamed gives attachments the addresses that they name and have already.
func (rv *Resolver) grantNamed(units []*Resource, had func(*Resource) []netip.Prefix) {
	for _, u := range units {
		if !u.fresh() || !u.static() {
			continue
		}
		list := had(u)
		for _, p := range compile.Prefixes(u.In.Attachment.Spec.Addresses) {
			if slices.ContainsFunc(list, func(h netip.Prefix) bool { return h.Addr() == p.Addr() }) {
				rv.claims.Grant(u.Owner, compile.AddressClaim(u.In.Attachment.Spec.Network, p.Addr()))
			}
		}
	}
}

// had are the addresses that an attachment has or had, the surest first.
func (u *Resource) had() []netip.Prefix {
	return slices.Concat(u.Given, compile.Prefixes(u.In.Attachment.Status.Addresses), u.marked())
}

// lease has an attachment that is not to be built keep the addresses that the kernel
// still holds of it: the sweep brake may be on, or a removal fail or be under way. Of one
// that is known by its marks alone the network is not known.
func (rv *Resolver) lease(u *Resource) {
	had := rv.claims.Of(u.Owner)
	var leases []compile.Claim
	for _, p := range u.marked() {
		c := compile.MarkedClaim(p.Addr())
		if i := slices.IndexFunc(had, func(h compile.Claim) bool {
			return h.Thing.Kind == compile.NetworkAddress && h.Thing.Address == p.Addr() && h.Sharers == ""
		}); i >= 0 {
			c = had[i]
		}
		leases = append(leases, c)
	}
	rv.claims.Begin(u.Owner)
	rv.claims.Settle(u.Owner, leases, false)
	rv.claims.Begin(u.Owner)
}

// leased are the claims of the addresses that an attachment has, and keeps
// whatever becomes of the rest of it.
func (rv *Resolver) leased(u *Resource) (leases []compile.Claim) {
	if u.In.Attachment == nil {
		return nil
	}
	u.Given = slices.DeleteFunc(slices.Clone(u.Given), func(p netip.Prefix) bool {
		c := compile.AddressClaim(u.In.Attachment.Spec.Network, p.Addr())
		if rv.claims.Has(u.Owner, c.Thing) {
			leases = append(leases, c)
			return false
		}
		return true
	})
	return leases
}

// marked are the addresses inside a target that bear our mark in the kernel: the
// record of last resort after a crash.
func (u *Resource) marked() []netip.Prefix {
	var out []netip.Prefix
	for k := range u.Held() {
		if k.Kind != netstate.KindAddress || k.Netns == "" {
			continue
		}
		if p, err := netip.ParsePrefix(k.Name); err == nil {
			out = append(out, p)
		}
	}
	slices.SortFunc(out, func(a, b netip.Prefix) int { return a.Addr().Compare(b.Addr()) })
	return out
}

// recorded reports whether an attachment has addresses, by the record or in the
// kernel.
func (u *Resource) recorded() bool {
	return u.In.Attachment != nil && len(u.had()) > 0
}

// static reports whether an attachment names its addresses.
func (u *Resource) static() bool {
	return u.In.Attachment != nil && len(u.In.Attachment.Spec.Addresses) > 0
}
