package engine

import (
	"net/netip"
	"slices"

	"github.com/patchbay-dev/patchbay/nodeagent/compile"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
)

// An address is claimed like any other thing. The addresses that an attachment has, or
// had last, are lease.given: without a claim no more than a wish to have them again.

// static sets the addresses aside that an attachment names, before any address is chosen
// for another attachment; the claims decide later which attachment gets them.
func (e *Engine) static(u *unit) []netip.Prefix {
	given := compile.Prefixes(u.in.Attachment.Spec.Addresses)
	if network := u.in.Attachment.Spec.Network; network != "" {
		for _, p := range given {
			e.claims.Reserve(u.owner, compile.AddressClaim(network, p.Addr()))
		}
	}
	return given
}

// setAside sets aside what attachments have, before any of them is given an
// address that it lacks or names, which another may have.
func (e *Engine) setAside(units []*unit) {
	for _, u := range units {
		// Their networks are known now.
		e.claims.Replace(u.owner, slices.DeleteFunc(slices.Clone(e.claims.Of(u.owner)), func(c compile.Claim) bool { return c.Sharers == compile.Marked }))
	}
	attached := slices.DeleteFunc(slices.Clone(units), func(u *unit) bool { return u.in.Attachment == nil || u.in.Attachment.Spec.Network == "" })
	e.grantNamed(attached, (*unit).marked)
	e.grantNamed(attached, func(u *unit) []netip.Prefix { return compile.Prefixes(u.in.Attachment.Status.Addresses) })
	for _, u := range attached {
		if !u.static() {
			e.claims.Keep(u.owner, u.in.Attachment.Spec.Network, u.had())
		}
	}
	for _, u := range attached {
		for _, c := range compile.AllowedClaims(u.in.Attachment) {
			e.claims.Reserve(u.owner, c)
		}
	}
	for _, u := range units {
		e.enterSiblings(u)
	}
}

// grantNamed gives attachments the addresses that they name and have already.
func (e *Engine) grantNamed(units []*unit, had func(*unit) []netip.Prefix) {
	for _, u := range units {
		if !u.fresh() || !u.static() {
			continue
		}
		list := had(u)
		for _, p := range compile.Prefixes(u.in.Attachment.Spec.Addresses) {
			if slices.ContainsFunc(list, func(h netip.Prefix) bool { return h.Addr() == p.Addr() }) {
				e.claims.Grant(u.owner, compile.AddressClaim(u.in.Attachment.Spec.Network, p.Addr()))
			}
		}
	}
}

// had are the addresses that an attachment has or had, the surest first.
func (u *unit) had() []netip.Prefix {
	return slices.Concat(u.given, compile.Prefixes(u.in.Attachment.Status.Addresses), u.marked())
}

// lease has an attachment that is not to be built keep the addresses that the kernel
// still holds of it: the sweep brake may be on, or a removal fail or be under way. Of one
// that is known by its marks alone the network is not known.
func (e *Engine) lease(u *unit) {
	had := e.claims.Of(u.owner)
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
	e.claims.Begin(u.owner)
	e.claims.Settle(u.owner, leases, false)
	e.claims.Begin(u.owner)
}

// leased are the claims of the addresses that an attachment has, and keeps
// whatever becomes of the rest of it.
func (e *Engine) leased(u *unit) (leases []compile.Claim) {
	if u.in.Attachment == nil {
		return nil
	}
	u.given = slices.DeleteFunc(slices.Clone(u.given), func(p netip.Prefix) bool {
		c := compile.AddressClaim(u.in.Attachment.Spec.Network, p.Addr())
		if e.claims.Has(u.owner, c.Thing) {
			leases = append(leases, c)
			return false
		}
		return true
	})
	return leases
}

// marked are the addresses inside a target that bear our mark in the kernel: the
// record of last resort after a crash.
func (u *unit) marked() []netip.Prefix {
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
func (u *unit) recorded() bool {
	return u.in.Attachment != nil && len(u.had()) > 0
}

// static reports whether an attachment names its addresses.
func (u *unit) static() bool {
	return u.in.Attachment != nil && len(u.in.Attachment.Spec.Addresses) > 0
}
