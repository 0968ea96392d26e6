package claims

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/patchbay-dev/patchbay/api/v1alpha1"
	"github.com/patchbay-dev/patchbay/nodeagent/compile"
	"github.com/patchbay-dev/patchbay/nodeagent/ipam"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
)

// Pool is the addresses of one subnet of a network.
type Pool struct {
	Network string
	Subnet  netip.Prefix
}

// pool chooses addresses of a subnet.
type pool struct {
	Pool
	choice *ipam.Pool
	// full says that the pool had no address when it was asked last.
	full *compile.Problem
}

// SetPools makes a network's pools the ones of its view. The addresses of its gateways
// and of the node are never given.
func (b *Book) SetPools(v compile.NetworkView, node netstate.Node) {
	reserved := slices.Clone(v.Gateways)
	for _, a := range node.Addresses {
		reserved = append(reserved, a.Prefix.Addr())
	}
	var next []*pool
	for _, s := range v.Subnets {
		n := &pool{Pool: Pool{v.Name, s.Masked()}}
		n.choice = ipam.NewPool(s, v.Exclude, reserved...)
		for _, old := range b.networks[v.Name] {
			n.choice.Continue(old.choice)
		}
		next = append(next, n)
	}
	b.networks[v.Name] = next
}

// DropPools ends SetPools.
func (b *Book) DropPools(network string) { delete(b.networks, network) }

// Pooled reports whether an address is in the subnet of a network.
func (b *Book) Pooled(a netip.Addr) bool {
	for _, pools := range b.networks {
		if slices.ContainsFunc(pools, func(p *pool) bool { return p.Subnet.Contains(a) }) {
			return true
		}
	}
	return false
}

// Keep reserves, of the addresses that an owner has or had, one of each subnet that can
// still be had, with the subnet's length: the length may have changed.
func (b *Book) Keep(o netstate.Owner, network string, had []netip.Prefix) (kept []netip.Prefix) {
	for _, p := range b.networks[network] {
		i := slices.IndexFunc(had, func(h netip.Prefix) bool {
			return p.choice.Usable(h.Addr()) && b.Reserve(o, compile.AddressClaim(network, h.Addr()))
		})
		if i >= 0 {
			kept = append(kept, netip.PrefixFrom(had[i].Addr(), p.Subnet.Bits()))
		}
	}
	return kept
}

// Allocate reserves an address for an owner in each subnet where the owner has none yet.
// With a problem the owner waits for a free address of that pool.
func (b *Book) Allocate(o netstate.Owner, network string, kept []netip.Prefix) ([]netip.Prefix, *compile.Problem) {
	for _, p := range b.networks[network] {
		if slices.ContainsFunc(kept, func(have netip.Prefix) bool { return p.Subnet.Contains(have.Addr()) }) {
			continue
		}
		if p.full == nil || !b.exhausted(p.Pool) {
			addr, err := b.next(o, p)
			if err == nil {
				kept = append(kept, netip.PrefixFrom(addr, p.Subnet.Bits()))
				continue
			}
			p.full = &compile.Problem{Reason: v1alpha1.ReasonAddressPoolExhausted, Message: fmt.Sprintf("network %s: %v: %s: delete some, exclude less, or use a larger subnet", network, err, b.usersOf(p.Pool))}
		}
		b.awaitPool(o, p.Pool)
		return nil, p.full
	}
	return kept, nil
}

// next reserves the next address of a pool. A process that does not know which address
// was given last goes on after the highest that an attachment has.
func (b *Book) next(o netstate.Owner, p *pool) (netip.Addr, error) {
	if !p.choice.Started() {
		highest := p.Subnet.Addr()
		for a := range b.Addresses(p.Pool) {
			if highest.Less(a) {
				highest = a
			}
		}
		p.choice.StartAfter(highest)
	}
	return p.choice.Next(func(a netip.Addr) bool { return !b.Reserve(o, compile.AddressClaim(p.Network, a)) })
}

// usersOf says how many addresses of a pool are in use, and by which attachments.
func (b *Book) usersOf(p Pool) string {
	var names []string
	for _, o := range b.Addresses(p) {
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

// queue is the owners that wait for an address of a pool, and how many addresses came
// free since it was found to have none.
type queue struct {
	owners map[netstate.Owner]bool
	freed  int
}

// awaitPool has an owner wait for an address of a pool that has none.
func (b *Book) awaitPool(o netstate.Owner, p Pool) {
	if b.pools[p] == nil {
		b.pools[p] = &queue{owners: map[netstate.Owner]bool{}}
	}
	b.pools[p].owners[o], b.pools[p].freed = true, 0
	b.account(o).pool = p
}

// exhausted reports whether owners wait for an address of a pool, and none came free since.
func (b *Book) exhausted(p Pool) bool { return b.pools[p] != nil && b.pools[p].freed == 0 }

// first returns as many owners of the queue, in order, as addresses came free.
func (q *queue) first(order func(a, b netstate.Owner) int) (owners []netstate.Owner) {
	if q.freed == 0 {
		return nil
	}
	for o := range q.owners {
		owners = append(owners, o)
	}
	if q.freed == 1 {
		return []netstate.Owner{slices.MinFunc(owners, order)}
	}
	slices.SortFunc(owners, order)
	return owners[:min(q.freed, len(owners))]
}
