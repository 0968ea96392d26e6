package engine

import (
	"net/netip"
	"slices"

	"github.com/patchbay-dev/patchbay/api/v1alpha1"
	"github.com/patchbay-dev/patchbay/nodeagent/compile"
	"github.com/patchbay-dev/patchbay/nodeagent/ipam"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
)

// pools holds the address pools by network name.
type pools map[string][]*ipam.Pool

// sync makes a network's pools those of its view, keeping the holders. The
// gateways' and the node's own addresses are never given.
func (p pools) sync(v compile.NetworkView, node netstate.Node) {
	taken := slices.Clone(v.Gateways)
	for _, a := range node.Addresses {
		taken = append(taken, a.Prefix.Addr())
	}
	var next []*ipam.Pool
	for _, s := range v.Subnets {
		n := ipam.NewPool(s, v.Exclude, taken...)
		for _, old := range p[v.Name] {
			n.Inherit(old)
		}
		next = append(next, n)
	}
	p[v.Name] = next
}

// release frees all that an owner holds, and reports whether that was anything.
func (p pools) release(o netstate.Owner) (freed bool) {
	for _, list := range p {
		for _, pool := range list {
			freed = pool.Release(o.String()) || freed
		}
	}
	return freed
}

// reserve notes what an owner has by claim, so that it is not allocated.
func (p pools) reserve(network string, o netstate.Owner, list []netip.Prefix) {
	for _, pool := range p[network] {
		for _, a := range list {
			pool.Reserve(a.Addr(), o.String())
		}
	}
}

// reserveMarked notes what the kernel, or the record, holds of attachments that
// are not to be built, so that nobody else gets it: after a restart the verdict
// on one may be out, or the sweep brake be on.
func (e *Engine) reserveMarked(network string) {
	for o, u := range e.units {
		if o.Kind != netstate.OwnerAttachment || u.accepted() {
			continue
		}
		e.pools.reserve(network, o, u.recorded)
		for k := range u.held {
			if p, err := netip.ParsePrefix(k.Name); err == nil && k.Kind == netstate.KindAddress {
				e.pools.reserve(network, o, []netip.Prefix{p})
			}
		}
	}
}

// addresses decides what an attachment's interface gets: what the spec says,
// else what it has by the record or the kernel, else one of each subnet.
func (e *Engine) addresses(u *unit, network *compile.NetworkView) ([]netip.Prefix, *compile.Problem) {
	a := u.in.Attachment
	had := slices.Concat(u.given, compile.Prefixes(a.Status.Addresses), e.marked(u), u.last)
	e.pools.release(u.owner)
	if network == nil || len(a.Spec.Addresses) > 0 {
		given := compile.Prefixes(a.Spec.Addresses)
		if network != nil {
			// Before any is allocated; the claim decides.
			e.pools.reserve(network.Name, u.owner, given)
		}
		return given, nil
	}
	kept := e.keep(network.Name, u.owner, had)
	for _, pool := range e.pools[network.Name] {
		if slices.ContainsFunc(kept, func(p netip.Prefix) bool { return pool.Subnet().Contains(p.Addr()) }) {
			continue
		}
		addr, err := pool.Allocate(u.owner.String())
		if err != nil {
			e.pools.release(u.owner)
			return nil, &compile.Problem{Reason: v1alpha1.ReasonAddressPoolExhausted, Message: "network " + network.Name + ": " + err.Error() + ": delete some, exclude less, or use a larger subnet"}
		}
		kept = append(kept, netip.PrefixFrom(addr, pool.Subnet().Bits()))
	}
	u.last = kept
	return kept, nil
}

// keep reserves at most one address of each subnet from those an owner had.
func (e *Engine) keep(network string, o netstate.Owner, had []netip.Prefix) []netip.Prefix {
	var kept []netip.Prefix
	for _, pool := range e.pools[network] {
		for _, p := range had {
			if pool.Subnet().Bits() == p.Bits() && pool.Subnet().Contains(p.Addr()) && pool.Reserve(p.Addr(), o.String()) {
				kept = append(kept, p)
				break
			}
		}
	}
	return kept
}

// marked are the addresses of the attachment's interface that bear our mark in
// the kernel: the record of last resort after a crash.
func (e *Engine) marked(u *unit) []netip.Prefix {
	var out []netip.Prefix
	for k := range u.held {
		if k.Kind != netstate.KindAddress || k.Netns != string(u.in.Attachment.Spec.Target.Netns.Name) {
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
	if len(u.in.Attachment.Spec.Addresses)+len(u.in.Attachment.Status.Addresses)+len(u.given)+len(u.last) > 0 {
		return true
	}
	for k := range u.held {
		if k.Kind == netstate.KindAddress {
			return true
		}
	}
	return false
}
