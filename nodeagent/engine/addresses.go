package engine

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/patchbay-dev/patchbay/api/v1alpha1"
	"github.com/patchbay-dev/patchbay/nodeagent/compile"
	"github.com/patchbay-dev/patchbay/nodeagent/engine/claims"
	"github.com/patchbay-dev/patchbay/nodeagent/ipam"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
)

// Who has an address is a claim like any other. What an attachment has, or had
// last, is unit.given: without a claim no more than a wish to have it again.

// pools are the subnets of each network, to choose addresses from.
type pools map[string][]*pool

type pool struct {
	*ipam.Pool
	of claims.Pool
	// full says that the pool had no address when it was asked last.
	full *compile.Problem
}

// sync makes a network's pools those of its view. The gateways' and the node's
// own addresses are never given.
func (p pools) sync(v compile.NetworkView, node netstate.Node) {
	taken := slices.Clone(v.Gateways)
	for _, a := range node.Addresses {
		taken = append(taken, a.Prefix.Addr())
	}
	var next []*pool
	for _, s := range v.Subnets {
		n := &pool{Pool: ipam.NewPool(s, v.Exclude, taken...)}
		n.of = claims.Pool{Network: v.Name, Subnet: n.Subnet()}
		for _, old := range p[v.Name] {
			n.Continue(old.Pool)
		}
		next = append(next, n)
	}
	p[v.Name] = next
}

// static sets the addresses aside that an attachment names, before any is
// chosen for others; who gets them is decided with its other claims.
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
			e.keep(u, u.in.Attachment.Spec.Network)
		}
	}
	for _, u := range attached {
		for _, c := range compile.AllowedClaims(u.in.Attachment) {
			e.claims.Reserve(u.owner, c)
		}
	}
}

// grantNamed gives attachments those of the addresses they name that they have
// already.
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

// keep sets aside, of what an attachment has or had, one address of each subnet
// that can still be had, with the subnet's length: that may have changed.
func (e *Engine) keep(u *unit, network string) []netip.Prefix {
	had := u.had()
	var kept []netip.Prefix
	for _, pool := range e.pools[network] {
		i := slices.IndexFunc(had, func(p netip.Prefix) bool {
			return pool.Usable(p.Addr()) && e.claims.Reserve(u.owner, compile.AddressClaim(network, p.Addr()))
		})
		if i >= 0 {
			kept = append(kept, netip.PrefixFrom(had[i].Addr(), pool.Subnet().Bits()))
		}
	}
	return kept
}

// had are the addresses that an attachment has or had, the surest first.
func (u *unit) had() []netip.Prefix {
	return slices.Concat(u.given, compile.Prefixes(u.in.Attachment.Status.Addresses), u.marked())
}

// allocate adds an address of each subnet of which there is none yet. With a problem the
// attachment waits for an address of the pool that has none.
func (e *Engine) allocate(u *unit, network string, kept []netip.Prefix) ([]netip.Prefix, *compile.Problem) {
	for _, p := range e.pools[network] {
		if slices.ContainsFunc(kept, func(have netip.Prefix) bool { return p.Subnet().Contains(have.Addr()) }) {
			continue
		}
		if p.full == nil || !e.claims.Exhausted(p.of) {
			addr, err := e.next(u, p)
			if err == nil {
				kept = append(kept, netip.PrefixFrom(addr, p.Subnet().Bits()))
				continue
			}
			p.full = &compile.Problem{Reason: v1alpha1.ReasonAddressPoolExhausted, Message: fmt.Sprintf("network %s: %v: %s: delete some, exclude less, or use a larger subnet", network, err, e.usersOf(p))}
		}
		e.claims.AwaitPool(u.owner, p.of)
		return nil, p.full
	}
	return kept, nil
}

// next reserves the next address of a pool. A process that does not know which address
// was given last goes on after the highest that an attachment has.
func (e *Engine) next(u *unit, p *pool) (netip.Addr, error) {
	if !p.Started() {
		highest := p.Subnet().Addr()
		for a := range e.claims.Addresses(p.of) {
			if highest.Less(a) {
				highest = a
			}
		}
		p.StartAfter(highest)
	}
	return p.Next(func(a netip.Addr) bool { return !e.claims.Reserve(u.owner, compile.AddressClaim(p.of.Network, a)) })
}

// usersOf says how many addresses of a pool are in use, and by whom.
func (e *Engine) usersOf(p *pool) string {
	var names []string
	for _, o := range e.claims.Addresses(p.of) {
		names = append(names, o.Namespace+"/"+o.Name)
	}
	if len(names) == 0 {
		return "it has none to give"
	}
	slices.Sort(names)
	count, who := len(names), slices.Compact(names)
	const shown = 5
	if n := len(who) - shown; n > 1 {
		who = append(who[:shown], fmt.Sprintf("%d more", n))
	}
	return fmt.Sprintf("%d in use, by %s", count, strings.Join(who, ", "))
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
