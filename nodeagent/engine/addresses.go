package engine

import (
	"errors"
	"fmt"
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

// keep sets aside, of what an attachment has or had, one address of each subnet
// that can still be had.
func (e *Engine) keep(u *unit, network string) []netip.Prefix {
	had := slices.Concat(u.given, compile.Prefixes(u.in.Attachment.Status.Addresses), u.marked())
	var kept []netip.Prefix
	for _, pool := range e.pools[network] {
		i := slices.IndexFunc(had, func(p netip.Prefix) bool {
			return pool.Subnet().Bits() == p.Bits() && pool.Usable(p.Addr()) && e.claims.choose(u.owner, compile.AddressClaim(network, p.Addr()))
		})
		if i >= 0 {
			kept = append(kept, had[i])
		}
	}
	return kept
}

// allocate adds an address of each subnet of which there is none yet.
func (e *Engine) allocate(u *unit, network string, kept []netip.Prefix) ([]netip.Prefix, *compile.Problem) {
	for _, pool := range e.pools[network] {
		if slices.ContainsFunc(kept, func(p netip.Prefix) bool { return pool.Subnet().Contains(p.Addr()) }) {
			continue
		}
		addr, err := pool.Next(func(a netip.Addr) bool {
			_, left := e.left()[a]
			return left || !e.claims.choose(u.owner, compile.AddressClaim(network, a))
		})
		if errors.Is(err, ipam.ErrExhausted) {
			return nil, &compile.Problem{Reason: v1alpha1.ReasonAddressPoolExhausted, Message: fmt.Sprintf("network %s: %v: %s: delete some, exclude less, or use a larger subnet", network, err, e.usersOf(network, pool.Subnet()))}
		}
		kept = append(kept, netip.PrefixFrom(addr, pool.Subnet().Bits()))
	}
	return kept, nil
}

// left are the addresses that the kernel holds of attachments that are not to be
// built: after a restart the verdict on one may be out, the sweep brake be on, or
// a removal fail. They are computed once a pass.
func (e *Engine) left() map[netip.Addr]netstate.Owner {
	if e.leftover != nil {
		return e.leftover
	}
	e.leftover = map[netip.Addr]netstate.Owner{}
	for o, u := range e.units {
		if o.Kind != netstate.OwnerAttachment || u.accepted() {
			continue
		}
		for _, p := range u.marked() {
			e.leftover[p.Addr()] = o
		}
	}
	return e.leftover
}

// usersOf says how many addresses of a subnet are in use, and by whom.
func (e *Engine) usersOf(network string, subnet netip.Prefix) string {
	var names []string
	for o, list := range e.claims.of {
		for _, c := range list {
			if c.Address.IsValid() && subnet.Contains(c.Address) && c.Resource == compile.AddressClaim(network, c.Address).Resource {
				names = append(names, o.Namespace+"/"+o.Name)
			}
		}
	}
	for a, o := range e.left() {
		if subnet.Contains(a) {
			names = append(names, o.Namespace+"/"+o.Name)
		}
	}
	slices.Sort(names)
	names = slices.Compact(names)
	const shown = 5
	if n := len(names) - shown; n > 1 {
		names = append(names[:shown], fmt.Sprintf("%d more", n))
	}
	if len(names) == 0 {
		return "it has none to give"
	}
	return fmt.Sprintf("in use by %s", strings.Join(names, ", "))
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

// remember claims the addresses of the record of an attachment that is not
// judged yet, so that nobody else gets them meanwhile.
func (e *Engine) remember(a *v1alpha1.NamespaceAttachment) {
	u := e.unit(InputOf(a).Owner())
	u.given = compile.Prefixes(a.Status.Addresses)
	var list []compile.Claim
	for _, p := range u.given {
		if c := compile.AddressClaim(a.Spec.Network, p.Addr()); a.Spec.Network != "" && e.claims.choose(u.owner, c) {
			list = append(list, c)
		}
	}
	if e.claims.take(u.owner, list) {
		e.requeueWaiting()
	}
}

// marked are the addresses inside a target that bear our mark in the kernel: the
// record of last resort after a crash.
func (u *unit) marked() []netip.Prefix {
	var out []netip.Prefix
	for k := range u.held {
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

// remembers reports whether an attachment's addresses are fixed before any are
// allocated: static, recorded, or found in the kernel.
func (u *unit) remembers() bool {
	if u.in == nil || u.in.Attachment == nil {
		return true
	}
	return len(u.in.Attachment.Spec.Addresses)+len(u.in.Attachment.Status.Addresses)+len(u.given)+len(u.marked()) > 0
}
