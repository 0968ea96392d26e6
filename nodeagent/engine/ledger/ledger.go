// Package ledger says who wants and who holds each kernel object. It promises that what
// concerns one object or one owner is found without a look at all. It is pure.
package ledger

import (
	"iter"
	"maps"
	"slices"

	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
)

// Ledger is the accounts of all owners, and the same by object and by interface.
type Ledger struct {
	accounts map[netstate.Owner]*Account
	wants    map[netstate.Key]*Owners
	holds    map[netstate.Key]*Owners
	links    map[netstate.End]map[netstate.Key]bool
}

// New makes an empty ledger.
func New() *Ledger {
	return &Ledger{
		accounts: map[netstate.Owner]*Account{},
		wants:    map[netstate.Key]*Owners{},
		holds:    map[netstate.Key]*Owners{},
		links:    map[netstate.End]map[netstate.Key]bool{},
	}
}

// Account returns an owner's account, which is opened with the first call.
func (l *Ledger) Account(o netstate.Owner) *Account {
	a := l.accounts[o]
	if a == nil {
		a = &Account{ledger: l, owner: o, wanted: netstate.Set{}, held: map[netstate.Key]bool{}, changed: true}
		l.accounts[o] = a
	}
	return a
}

// Close ends an owner's account: the owner wants and holds nothing.
func (l *Ledger) Close(o netstate.Owner) {
	if a := l.accounts[o]; a != nil {
		a.Want(nil)
		a.DropIf(func(netstate.Key) bool { return true })
		delete(l.accounts, o)
	}
}

// Owners returns the owners that want an object.
func (l *Ledger) Owners(k netstate.Key) *Owners { return l.wants[k] }

// Holders returns the owners for whose sake an object may be in the kernel.
func (l *Ledger) Holders(k netstate.Key) *Owners { return l.holds[k] }

// Wanted returns the object that is wanted under a key; nil for none.
func (l *Ledger) Wanted(k netstate.Key) netstate.Object {
	for o := range l.wants[k].All() {
		return l.accounts[o].wanted[k]
	}
	return nil
}

// At returns the keys of the wanted objects on an interface. Objects of the firewall are on
// none.
func (l *Ledger) At(e netstate.End) iter.Seq[netstate.Key] { return maps.Keys(l.links[e]) }

// On returns the interface that a key is about.
func On(k netstate.Key) netstate.End { return netstate.End{Netns: k.Netns, Name: k.Link} }

// Account is what one owner wants, and what may be in the kernel because of it.
type Account struct {
	ledger *Ledger
	owner  netstate.Owner
	wanted netstate.Set
	held   map[netstate.Key]bool
	// changed says that Keys may return other keys than when KeysChanged was called last.
	changed bool
}

// Keys returns the keys of the objects that the owner wants or holds, in building order.
func (a *Account) Keys() []netstate.Key {
	keys := maps.Clone(a.held)
	for k := range a.wanted {
		keys[k] = true
	}
	return slices.SortedFunc(maps.Keys(keys), netstate.Key.Compare)
}

// KeysChanged reports whether Keys changed since the last call; the first call reports true.
func (a *Account) KeysChanged() bool {
	changed := a.changed
	a.changed = false
	return changed
}

// Wanted returns the objects that the owner wants. The caller does not change them.
func (a *Account) Wanted() netstate.Set { return a.wanted }

// Want replaces what the owner wants. It returns the keys that no owner wanted before,
// and the keys that no owner wants any more.
func (a *Account) Want(objects netstate.Set) (came, went []netstate.Key) {
	l := a.ledger
	for k := range a.wanted {
		if objects[k] != nil {
			continue
		}
		a.changed = a.changed || !a.held[k]
		if take(l.wants, k, a.owner) {
			went = append(went, k)
			delete(l.links[On(k)], k)
			if len(l.links[On(k)]) == 0 {
				delete(l.links, On(k))
			}
		}
	}
	for k := range objects {
		if a.wanted[k] != nil {
			continue
		}
		a.changed = a.changed || !a.held[k]
		if put(l.wants, k, a.owner) {
			came = append(came, k)
			if k.Kind.Firewall() {
				continue
			}
			if l.links[On(k)] == nil {
				l.links[On(k)] = map[netstate.Key]bool{}
			}
			l.links[On(k)][k] = true
		}
	}
	if a.wanted = objects; objects == nil {
		a.wanted = netstate.Set{}
	}
	return came, went
}

// Holds reports whether an object may be in the kernel because of the owner.
func (a *Account) Holds(k netstate.Key) bool { return a.held[k] }

// Held returns the keys of what the owner holds. Dropping keys meanwhile is safe.
func (a *Account) Held() iter.Seq[netstate.Key] { return maps.Keys(a.held) }

// Empty reports whether the owner holds nothing.
func (a *Account) Empty() bool { return len(a.held) == 0 }

// Hold notes that an object may be in the kernel because of the owner.
func (a *Account) Hold(k netstate.Key) {
	if !a.held[k] {
		a.held[k] = true
		a.changed = a.changed || a.wanted[k] == nil
		put(a.ledger.holds, k, a.owner)
	}
}

// Drop ends Hold.
func (a *Account) Drop(k netstate.Key) {
	if a.held[k] {
		delete(a.held, k)
		a.changed = a.changed || a.wanted[k] == nil
		take(a.ledger.holds, k, a.owner)
	}
}

// DropIf ends Hold for the keys that a function chooses.
func (a *Account) DropIf(drop func(netstate.Key) bool) {
	for k := range a.held {
		if drop(k) {
			a.Drop(k)
		}
	}
}

// Owners are a few owners; nil has none. The first stands apart, since nearly every
// object has one.
type Owners struct {
	first netstate.Owner
	more  map[netstate.Owner]bool
}

// Len returns the number of owners.
func (s *Owners) Len() int {
	if s == nil {
		return 0
	}
	return 1 + len(s.more)
}

// Has reports whether an owner is one of them.
func (s *Owners) Has(o netstate.Owner) bool { return s != nil && (s.first == o || s.more[o]) }

// All returns the owners in no order.
func (s *Owners) All() iter.Seq[netstate.Owner] {
	return func(yield func(netstate.Owner) bool) {
		if s == nil || !yield(s.first) {
			return
		}
		for o := range s.more {
			if !yield(o) {
				return
			}
		}
	}
}

// First returns the first owner in order; false for none.
func (s *Owners) First() (first netstate.Owner, ok bool) {
	for o := range s.All() {
		if !ok || o.Compare(first) < 0 {
			first, ok = o, true
		}
	}
	return first, ok
}

// put adds an owner and reports whether the key had none.
func put(index map[netstate.Key]*Owners, k netstate.Key, o netstate.Owner) bool {
	s := index[k]
	if s == nil {
		index[k] = &Owners{first: o}
		return true
	}
	if s.more == nil {
		s.more = map[netstate.Owner]bool{}
	}
	s.more[o] = true
	return false
}

// take removes an owner and reports whether the key has none left.
func take(index map[netstate.Key]*Owners, k netstate.Key, o netstate.Owner) bool {
	s := index[k]
	if s.first != o {
		delete(s.more, o)
		return false
	}
	for next := range s.more {
		s.first = next
		delete(s.more, next)
		return false
	}
	delete(index, k)
	return true
}
