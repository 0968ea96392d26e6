package engine

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/patchbay-dev/patchbay/api/v1alpha1"
	"github.com/patchbay-dev/patchbay/nodeagent/compile"
	"github.com/patchbay-dev/patchbay/nodeagent/ipam"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
)

// Who has an address is a claim like any other. What an attachment has, or had
// last, is unit.given: without a claim no more than a wish to have it again.

// pools are the subnets of each network, to choose addresses from.
type pools map[string][]*ipam.Pool

// sync makes a network's pools those of its view. The gateways' and the node's
// own addresses are never given.
func (p pools) sync(v compile.NetworkView, node netstate.Node) {
	taken := slices.Clone(v.Gateways)
	for _, a := range node.Addresses {
		taken = append(taken, a.Prefix.Addr())
	}
	var next []*ipam.Pool
	for _, s := range v.Subnets {
		n := ipam.NewPool(s, v.Exclude, taken...)
		for _, old := range p[v.Name] {
			n.Continue(old)
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
			e.claims.choose(u.owner, compile.AddressClaim(network, p.Addr()))
		}
	}
	return given
}

// setAside sets aside what attachments have, before any of them is given an
// address that it lacks or names, which another may have.
func (e *Engine) setAside(units []*unit) {
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
			e.claims.choose(u.owner, c)
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
				e.claims.grant(u.owner, compile.AddressClaim(u.in.Attachment.Spec.Network, p.Addr()))
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
			return pool.Usable(p.Addr()) && e.claims.choose(u.owner, compile.AddressClaim(network, p.Addr()))
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

// allocate adds an address of each subnet of which there is none yet.
func (e *Engine) allocate(u *unit, network string, kept []netip.Prefix) ([]netip.Prefix, *compile.Problem) {
	for _, pool := range e.pools[network] {
		if slices.ContainsFunc(kept, func(p netip.Prefix) bool { return pool.Subnet().Contains(p.Addr()) }) {
			continue
		}
		if p := e.exhausted[pool]; p != nil && len(e.claims.letGo) == 0 {
			return nil, p
		}
		if !pool.Started() {
			pool.StartAfter(e.highest(network, pool.Subnet()))
		}
		addr, err := pool.Next(func(a netip.Addr) bool {
			c := compile.AddressClaim(network, a)
			_, left := e.left(c)
			return left || !e.claims.choose(u.owner, c)
		})
		if errors.Is(err, ipam.ErrExhausted) {
			e.exhausted[pool] = &compile.Problem{Reason: v1alpha1.ReasonAddressPoolExhausted, Message: fmt.Sprintf("network %s: %v: %s: delete some, exclude less, or use a larger subnet", network, err, e.usersOf(network, pool.Subnet()))}
			return nil, e.exhausted[pool]
		}
		kept = append(kept, netip.PrefixFrom(addr, pool.Subnet().Bits()))
	}
	return kept, nil
}

// left returns whose address the kernel still holds although it is not to be built:
// the sweep brake may be on, a removal fail, or be under way.
func (e *Engine) left(c compile.Claim) (netstate.Owner, bool) {
	l, ok := e.leftovers()[c.Resource]
	if !ok && c.Address.IsValid() {
		l, ok = e.leftovers()[compile.AddressClaim("", c.Address).Resource]
	}
	return l.owner, ok
}

// leftover is an address that the kernel still holds of somebody.
type leftover struct {
	owner   netstate.Owner
	address netip.Addr
}

// leftovers, by the resource of their claim, are computed once a pass. Of an
// attachment that is gone altogether the network is not known.
func (e *Engine) leftovers() map[string]leftover {
	if e.leftover != nil {
		return e.leftover
	}
	e.leftover = map[string]leftover{}
	for _, o := range slices.SortedFunc(maps.Keys(e.removing), netstate.Owner.Compare) {
		u := e.units[o]
		if len(e.claims.of[o]) > 0 {
			continue
		}
		network := ""
		if u.in != nil {
			network = u.in.Attachment.Spec.Network
		}
		for _, p := range u.marked() {
			e.leftover[compile.AddressClaim(network, p.Addr()).Resource] = leftover{o, p.Addr()}
		}
	}
	return e.leftover
}

// usersOf says how many addresses of a subnet are in use, and by whom.
func (e *Engine) usersOf(network string, subnet netip.Prefix) string {
	var names []string
	for _, owners := range e.claims.held {
		for o, c := range owners {
			if c.Address.IsValid() && subnet.Contains(c.Address) && c.Resource == compile.AddressClaim(network, c.Address).Resource {
				names = append(names, o.Namespace+"/"+o.Name)
			}
		}
	}
	for _, l := range e.leftovers() {
		if subnet.Contains(l.address) {
			names = append(names, l.owner.Namespace+"/"+l.owner.Name)
		}
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

// highest is the highest address of a subnet that somebody has: where a process
// that does not know which was given last goes on.
func (e *Engine) highest(network string, subnet netip.Prefix) netip.Addr {
	best := subnet.Addr()
	for _, owners := range e.claims.held {
		for _, c := range owners {
			if c.Address.IsValid() && subnet.Contains(c.Address) && best.Less(c.Address) && c.Resource == compile.AddressClaim(network, c.Address).Resource {
				best = c.Address
			}
		}
	}
	return best
}

// leased are the claims of the addresses that an attachment has, and keeps
// whatever becomes of the rest of it.
func (e *Engine) leased(u *unit) []compile.Claim {
	if u.in.Attachment == nil {
		return nil
	}
	var out []compile.Claim
	var mine []netip.Prefix
	for _, p := range u.given {
		c := compile.AddressClaim(u.in.Attachment.Spec.Network, p.Addr())
		if _, ok := e.claims.held[c.Resource][u.owner]; ok {
			out, mine = append(out, c), append(mine, p)
		}
	}
	u.given = mine
	return out
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
