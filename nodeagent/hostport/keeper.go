package hostport

import (
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
)

// Sockets is what a Keeper needs of Ports.
type Sockets interface {
	Listeners([]netstate.Publish) (map[netstate.Key][]Listener, error)
	Hold([]netstate.Publish) map[netstate.Key]error
	Held(netstate.Publish) bool
	Release([]netstate.Key)
}

// None sees no listener and holds no port.
type None struct{}

// Listeners returns none.
func (None) Listeners([]netstate.Publish) (map[netstate.Key][]Listener, error) { return nil, nil }

// Hold does nothing.
func (None) Hold([]netstate.Publish) map[netstate.Key]error { return nil }

// Held returns false.
func (None) Held(netstate.Publish) bool { return false }

// Release does nothing.
func (None) Release([]netstate.Key) {}

const (
	// BusyPause is how often to look whether a port is free that was not. A socket's end
	// could be heard of (SKNLGRP_INET_TCP_DESTROY), but then the kernel tells of every
	// connection of the node that closes, for as long as one publish waits; a look
	// costs the same whatever the node does.
	BusyPause = time.Second
	// WatchPause is how often to look whether a process has come to a port that is
	// published and not held.
	WatchPause = 5 * time.Second
)

// Keeper says which processes are in the way of publishes, and holds published ports.
type Keeper struct {
	Sockets
	// Holds says that ports are held: by a process that stays, so not to apply once.
	Holds bool
	// Complain is told of an error the first time that it occurs.
	Complain func(error)

	listeners map[netstate.Key][]Listener
	owners    map[netstate.Owner]*kept
	// waiting are the owners with ports that are not held.
	waiting map[netstate.Owner]bool
	said    map[string]bool
}

// kept is what the Keeper knows of one owner.
type kept struct {
	wish Wish
	// occupied are the ports on which processes listen.
	occupied map[netstate.Key]Occupied
	// reserved are the ports that are or should be held; unheld could not be.
	reserved, unheld map[netstate.Key]bool
}

// Wish is the publishes that an owner wants, which of them are in the kernel, and whether
// their ports are to be held.
type Wish struct {
	Publishes []netstate.Publish
	InKernel  func(netstate.Key) bool
	Reserve   bool
}

// Occupied is a port of a publish on which processes listen.
type Occupied struct {
	Publish   netstate.Publish
	Listeners []Listener
}

// NewKeeper makes a Keeper that holds nothing.
func NewKeeper(s Sockets, complain func(error)) *Keeper {
	return &Keeper{Sockets: s, Complain: complain, owners: map[netstate.Owner]*kept{}, waiting: map[netstate.Owner]bool{}, said: map[string]bool{}}
}

func (k *Keeper) of(o netstate.Owner) *kept {
	if k.owners[o] == nil {
		k.owners[o] = &kept{occupied: map[netstate.Key]Occupied{}, reserved: map[netstate.Key]bool{}, unheld: map[netstate.Key]bool{}}
	}
	return k.owners[o]
}

// Look asks once who listens on the ports of publishes. Ports that are held need no
// question.
func (k *Keeper) Look(publishes []netstate.Publish) {
	k.listeners = k.listen(slices.DeleteFunc(publishes, k.Held))
}

func (k *Keeper) listen(ask []netstate.Publish) map[netstate.Key][]Listener {
	if len(ask) == 0 {
		return nil
	}
	found, err := k.Listeners(ask)
	if err != nil {
		k.complain(err)
	}
	return found
}

func (k *Keeper) complain(err error) {
	if !k.said[err.Error()] {
		k.said[err.Error()] = true
		k.Complain(err)
	}
}

// Forget forgets the listeners in an owner's way.
func (k *Keeper) Forget(o netstate.Owner) {
	if own := k.owners[o]; own != nil {
		clear(own.occupied)
	}
}

// InTheWay returns which publishes of an owner have listeners, by the last Look.
func (k *Keeper) InTheWay(o netstate.Owner, objects netstate.Set) (list []Occupied) {
	k.Forget(o)
	if len(k.listeners) == 0 {
		return nil
	}
	for _, key := range slices.SortedFunc(maps.Keys(objects), netstate.Key.Compare) {
		if listeners := k.listeners[key]; len(listeners) > 0 {
			in := Occupied{objects[key].(netstate.Publish), listeners}
			k.of(o).occupied[key] = in
			list = append(list, in)
			k.waiting[o] = true
		}
	}
	return list
}

// Keep holds the ports of owners as far as they are published, and lets other ones go.
// All let go before any port is held, so that a port may change hands.
func (k *Keeper) Keep(wishes map[netstate.Owner]Wish) {
	for o, w := range wishes {
		own := k.of(o)
		own.wish = w
		if !k.Holds {
			continue
		}
		wanted := map[netstate.Key]bool{}
		for _, p := range w.Publishes {
			wanted[p.Key()] = true
		}
		var gone []netstate.Key
		for key := range own.reserved {
			if !w.InKernel(key) || wanted[key] && !w.Reserve {
				gone = append(gone, key)
				delete(own.reserved, key)
			}
		}
		k.Release(gone)
	}
	for o := range wishes {
		own := k.owners[o]
		k.hold(own)
		if delete(k.waiting, o); len(own.unheld) > 0 || len(k.open(own)) > 0 {
			k.waiting[o] = true
		}
		if len(own.wish.Publishes)+len(own.occupied)+len(own.reserved) == 0 {
			delete(k.owners, o)
		}
	}
}

// hold holds the published ports of an owner. A port that another socket has for now is
// tried again.
func (k *Keeper) hold(own *kept) {
	clear(own.unheld)
	if !k.Holds || !own.wish.Reserve {
		return
	}
	var list []netstate.Publish
	for _, p := range own.wish.Publishes {
		if own.wish.InKernel(p.Key()) {
			list = append(list, p)
			own.reserved[p.Key()] = true
		}
	}
	for key, err := range k.Hold(list) {
		if !errors.Is(err, ErrInUse) {
			k.complain(err)
			continue
		}
		own.unheld[key] = true
	}
}

// Again looks at the ports that are not held, and returns the owners of ports with
// different listeners than before.
func (k *Keeper) Again() (changed []netstate.Owner) {
	open := map[netstate.Owner][]netstate.Publish{}
	var ask []netstate.Publish
	for o := range k.waiting {
		if list := k.open(k.owners[o]); len(list) > 0 {
			open[o], ask = list, append(ask, list...)
		}
	}
	found := k.listen(ask)
	for o, list := range open {
		own := k.owners[o]
		if slices.ContainsFunc(list, func(p netstate.Publish) bool {
			return !slices.Equal(found[p.Key()], own.occupied[p.Key()].Listeners)
		}) {
			changed = append(changed, o)
		} else if len(own.unheld) > 0 {
			k.hold(own)
		}
	}
	return changed
}

// open are the ports of an owner that a process may have or come to have.
func (k *Keeper) open(own *kept) (list []netstate.Publish) {
	for _, in := range own.occupied {
		list = append(list, in.Publish)
	}
	for _, p := range own.wish.Publishes {
		if _, known := own.occupied[p.Key()]; !known && !k.Held(p) {
			list = append(list, p)
		}
	}
	return list
}

// Pause returns when to call Again; false where no port can change.
func (k *Keeper) Pause() (pause time.Duration, any bool) {
	for o := range k.waiting {
		switch own := k.owners[o]; {
		case len(own.occupied)+len(own.unheld) > 0:
			return BusyPause, true
		case len(k.open(own)) > 0:
			pause, any = WatchPause, true
		}
	}
	return pause, any
}
