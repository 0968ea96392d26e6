// Package claims says who has what only one owner may have, or a few: names, addresses,
// subnets, host ports, the ports of a bridge. It promises that an owner keeps what it has
// as long as it wants it, that no two owners ever have what conflicts, and that an owner
// that lost hears when it would have it or when another one has it now. It is pure.
package claims

import (
	"iter"
	"net/netip"
	"slices"
	"strings"

	"github.com/patchbay-dev/patchbay/nodeagent/compile"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
)

// Book is the one book of claims.
type Book struct {
	// held by thing, then owner: several owners share some things.
	held    map[compile.Thing]map[netstate.Owner]compile.Claim
	ports   portBook
	subnets map[netstate.Owner][]compile.Claim
	// addresses are the held things by their address.
	addresses map[netip.Addr][]compile.Thing
	accounts  map[netstate.Owner]*account
	// waiting are the owners that lost claims, by class; touched are the classes in
	// which a claim came or went since Woken.
	waiting map[compile.Thing]map[netstate.Owner]bool
	touched map[compile.Thing]bool
	// networks are the pools of each network, pools the owners that wait for one.
	networks map[string][]*pool
	pools    map[Pool]*queue
	rooms    map[compile.Thing]*room
}

// account is what one owner has and lacks.
type account struct {
	// kept are claims that the owner was granted, chosen are claims that are reserved
	// while it is compiled.
	kept, chosen []compile.Claim
	lost         []Loss
	pool         Pool
}

// Loss is a claim that an owner lost, and the holder: the zero Owner of a thing that many
// may have.
type Loss struct {
	Claim  compile.Claim
	Holder netstate.Owner
}

// room is how many owners may have a thing. Which network it is about, and whether owners
// came or went since that was asked.
type room struct {
	limit   int
	about   netstate.Owner
	changed bool
}

// New makes an empty book.
func New() *Book {
	return &Book{
		held:      map[compile.Thing]map[netstate.Owner]compile.Claim{},
		ports:     portBook{},
		subnets:   map[netstate.Owner][]compile.Claim{},
		addresses: map[netip.Addr][]compile.Thing{},
		accounts:  map[netstate.Owner]*account{},
		waiting:   map[compile.Thing]map[netstate.Owner]bool{},
		touched:   map[compile.Thing]bool{},
		networks:  map[string][]*pool{},
		pools:     map[Pool]*queue{},
		rooms:     map[compile.Thing]*room{},
	}
}

// Holder returns another owner whose claim conflicts: the zero Owner for a thing of
// which all are used.
func (b *Book) Holder(o netstate.Owner, want compile.Claim) (netstate.Owner, bool) {
	switch want.Thing.Kind {
	case compile.HostPort:
		return b.ports.holder(o, want.Thing.Ports)
	case compile.BridgePort:
		return netstate.Owner{}, b.full(o, want.Thing)
	case compile.NetworkAddress:
		// The network of some addresses is not known: they are of every one.
		for _, t := range b.addresses[want.Thing.Address] {
			if t.Name != "" && want.Thing.Name != "" && t.Name != want.Thing.Name {
				continue
			}
			if h, taken := b.holderAmong(o, want, t); taken {
				return h, true
			}
		}
		return netstate.Owner{}, false
	case compile.Subnet, compile.LinkAddress:
		return b.holderOfSubnet(o, want)
	}
	return b.holderAmong(o, want, want.Thing)
}

func (b *Book) holderAmong(o netstate.Owner, want compile.Claim, thing compile.Thing) (first netstate.Owner, taken bool) {
	for h, have := range b.held[thing] {
		shared := want.Sharers != "" && want.Sharers == have.Sharers
		if h != o && !shared && (!taken || h.Compare(first) < 0) {
			first, taken = h, true
		}
	}
	return first, taken
}

func (b *Book) holderOfSubnet(o netstate.Owner, want compile.Claim) (first netstate.Owner, taken bool) {
	for h, list := range b.subnets {
		if h != o && (!taken || h.Compare(first) < 0) && slices.ContainsFunc(list, want.Conflicts) {
			first, taken = h, true
		}
	}
	return first, taken
}

// Has reports whether an owner has a thing, for good or while it is compiled.
func (b *Book) Has(o netstate.Owner, t compile.Thing) bool {
	_, ok := b.held[t][o]
	return ok
}

// Holders returns the owners that have a thing, and their claims.
func (b *Book) Holders(t compile.Thing) map[netstate.Owner]compile.Claim { return b.held[t] }

// Of returns what an owner has for good.
func (b *Book) Of(o netstate.Owner) []compile.Claim {
	if a := b.accounts[o]; a != nil {
		return a.kept
	}
	return nil
}

// Addresses returns which owner has which address of a pool. Addresses that several owners
// may share are left out, addresses of an unknown network are included.
func (b *Book) Addresses(p Pool) iter.Seq2[netip.Addr, netstate.Owner] {
	return func(yield func(netip.Addr, netstate.Owner) bool) {
		for t, owners := range b.held {
			if t.Kind != compile.NetworkAddress || t.Name != p.Network && t.Name != "" || !p.Subnet.Contains(t.Address) {
				continue
			}
			for o, c := range owners {
				if (c.Sharers == "" || c.Sharers == compile.Marked) && !yield(t.Address, o) {
					return
				}
			}
		}
	}
}

func (b *Book) account(o netstate.Owner) *account {
	a := b.accounts[o]
	if a == nil {
		a = &account{}
		b.accounts[o] = a
	}
	return a
}

// Reserve sets something aside for an owner that is being compiled, and reports false if
// another has it. Unless the owner claims it, Settle drops it.
func (b *Book) Reserve(o netstate.Owner, want compile.Claim) bool {
	if _, taken := b.Holder(o, want); taken {
		return false
	}
	if a := b.account(o); !has(a.kept, want) && !has(a.chosen, want) {
		a.chosen = append(a.chosen, want)
		b.add(o, want)
	}
	return true
}

// Grant gives an owner what it had before this process began, unless another has it.
func (b *Book) Grant(o netstate.Owner, had compile.Claim) {
	if _, taken := b.Holder(o, had); taken || has(b.account(o).kept, had) {
		return
	}
	b.account(o).kept = append(b.account(o).kept, had)
	b.add(o, had)
}

// Replace lets go of what an owner does not want any more. Owners that swap all replace
// their wishes before any of them settles.
func (b *Book) Replace(o netstate.Owner, wishes []compile.Claim) {
	a := b.account(o)
	b.put(o, slices.DeleteFunc(slices.Clone(a.kept), func(have compile.Claim) bool { return !has(wishes, have) }))
}

// Settle gives an owner its wishes as far as no other owner has them, in place of what it
// had, and returns what it lost, for which it waits from now on. One that fails, or that loses a claim without a Key,
// keeps only addresses that it has already.
func (b *Book) Settle(o netstate.Owner, wishes []compile.Claim, fails bool) (lost []Loss) {
	a := b.account(o)
	var won []compile.Claim
	for _, c := range wishes {
		if fails {
			break
		}
		if h, taken := b.Holder(o, c); taken {
			lost = append(lost, Loss{c, h})
			fails = c.Key == (netstate.Key{})
			continue
		}
		won = append(won, c)
	}
	if fails {
		won = slices.DeleteFunc(slices.Clone(wishes), func(c compile.Claim) bool {
			return c.Thing.Kind != compile.NetworkAddress || c.Sharers != "" || !b.Has(o, c.Thing)
		})
	}
	chosen := a.chosen
	a.chosen = nil
	for _, c := range chosen {
		if !has(won, c) && !has(a.kept, c) {
			b.remove(o, c)
		}
	}
	b.put(o, won)
	a.lost = lost
	for _, l := range lost {
		class := l.Claim.Thing.Class()
		if b.waiting[class] == nil {
			b.waiting[class] = map[netstate.Owner]bool{}
		}
		b.waiting[class][o] = true
	}
	if len(a.kept)+len(a.lost) == 0 && a.pool == (Pool{}) {
		delete(b.accounts, o)
	}
	return lost
}

// put replaces what an owner has for good.
func (b *Book) put(o netstate.Owner, list []compile.Claim) {
	a := b.account(o)
	for _, c := range a.kept {
		if !has(list, c) {
			b.remove(o, c)
		}
	}
	for _, c := range list {
		b.add(o, c)
	}
	a.kept = list
}

func (b *Book) add(o netstate.Owner, c compile.Claim) {
	if old, is := b.held[c.Thing][o]; is {
		if b.held[c.Thing][o] = c; old.Sharers != c.Sharers {
			b.touch(c.Thing)
		}
		return
	}
	if b.held[c.Thing] == nil {
		b.held[c.Thing] = map[netstate.Owner]compile.Claim{}
		if a := c.Thing.Address; a.IsValid() {
			b.addresses[a] = append(b.addresses[a], c.Thing)
			slices.SortFunc(b.addresses[a], func(a, b compile.Thing) int { return strings.Compare(a.Name, b.Name) })
		}
	}
	b.held[c.Thing][o] = c
	b.touch(c.Thing)
	b.ports.add(o, c.Thing.Ports)
	if c.Thing.Subnet.IsValid() {
		b.subnets[o] = append(b.subnets[o], c)
	}
}

func (b *Book) remove(o netstate.Owner, c compile.Claim) {
	if delete(b.held[c.Thing], o); len(b.held[c.Thing]) == 0 {
		delete(b.held, c.Thing)
		if a := c.Thing.Address; a.IsValid() {
			b.addresses[a] = slices.DeleteFunc(b.addresses[a], func(t compile.Thing) bool { return t == c.Thing })
			if len(b.addresses[a]) == 0 {
				delete(b.addresses, a)
			}
		}
	}
	b.touch(c.Thing)
	b.ports.remove(o, c.Thing.Ports)
	b.subnets[o] = slices.DeleteFunc(b.subnets[o], func(have compile.Claim) bool { return have.Thing == c.Thing })
	if len(b.subnets[o]) == 0 {
		delete(b.subnets, o)
	}
	for p, q := range b.pools {
		if t := c.Thing; t.Kind == compile.NetworkAddress && (t.Name == p.Network || t.Name == "") && p.Subnet.Contains(t.Address) {
			q.freed++
		}
	}
}

func (b *Book) touch(t compile.Thing) {
	if class := t.Class(); len(b.waiting[class]) > 0 {
		b.touched[class] = true
	}
	if r := b.rooms[t]; r != nil {
		r.changed = true
	}
}

// Begin ends all waiting of an owner, which asks anew.
func (b *Book) Begin(o netstate.Owner) {
	a := b.accounts[o]
	if a == nil {
		return
	}
	for _, l := range a.lost {
		class := l.Claim.Thing.Class()
		if delete(b.waiting[class], o); len(b.waiting[class]) == 0 {
			delete(b.waiting, class)
			delete(b.touched, class)
		}
	}
	if q := b.pools[a.pool]; q != nil {
		if delete(q.owners, o); len(q.owners) == 0 {
			delete(b.pools, a.pool)
		}
	}
	a.lost, a.pool = nil, Pool{}
}

// Woken returns the owners to ask again: owners whose lost claim is free now or has
// another holder, and as many of a pool's queue, in order, as addresses came free.
func (b *Book) Woken(order func(a, b netstate.Owner) int) (owners []netstate.Owner) {
	for class := range b.touched {
		for o := range b.waiting[class] {
			if slices.ContainsFunc(b.account(o).lost, func(l Loss) bool {
				h, taken := b.Holder(o, l.Claim)
				return !taken || h != l.Holder
			}) {
				owners = append(owners, o)
			}
		}
	}
	clear(b.touched)
	for _, q := range b.pools {
		owners = append(owners, q.first(order)...)
	}
	return owners
}

// Limit sets for how many owners there is room in a thing, and what that is about.
func (b *Book) Limit(t compile.Thing, about netstate.Owner, limit int) {
	b.rooms[t] = &room{limit: limit, about: about}
	b.touch(t)
	b.rooms[t].changed = false
}

// Unlimit ends Limit.
func (b *Book) Unlimit(t compile.Thing, about netstate.Owner) {
	if b.rooms[t] != nil && b.rooms[t].about == about {
		delete(b.rooms, t)
	}
}

// Room returns for how many owners there is room in a thing, and how many have it; false
// if the limit is about another owner.
func (b *Book) Room(t compile.Thing, about netstate.Owner) (limit, used int, ok bool) {
	r := b.rooms[t]
	if r == nil || r.about != about {
		return 0, 0, false
	}
	return r.limit, len(b.held[t]), true
}

// Crowds returns what limits are about of things that owners got or lost since the last
// call.
func (b *Book) Crowds() (about []netstate.Owner) {
	for _, r := range b.rooms {
		if r.changed {
			about = append(about, r.about)
		}
		r.changed = false
	}
	return about
}

// full reports whether a thing has no room for an owner. An owner that has it keeps it,
// also where ports of other programs have taken room since.
func (b *Book) full(o netstate.Owner, t compile.Thing) bool {
	r := b.rooms[t]
	return !b.Has(o, t) && r != nil && len(b.held[t]) >= r.limit
}

func has(list []compile.Claim, c compile.Claim) bool {
	return slices.ContainsFunc(list, func(have compile.Claim) bool { return have.Thing == c.Thing })
}
