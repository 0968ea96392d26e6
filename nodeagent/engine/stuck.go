package engine

import (
	"github.com/patchbay-dev/patchbay/nodeagent/engine/failure"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
)

// Failures that only other programs can end are not tried again by the clock: the kernel tells
// when a name, a route or a port becomes free, a namespace appears, or a mount changes.
// It does not tell when a security module allows more.

// pause sets when an owner is looked at again after a pass.
func (e *Engine) pause(u *unit) {
	delete(e.stuck, u.owner)
	next := e.endFights(u)
	switch {
	case u.done:
		e.calm(u)
	case e.isStuck(u):
		e.calm(u)
		e.stuck[u.owner] = true
	default:
		e.backOff(u)
	}
	if !next.IsZero() {
		e.alarms.By(alarm{owner: u.owner}, next)
	}
}

// isStuck reports whether all failures of an owner end by what the kernel will tell. A
// namespace that was not listened to before is looked at once more.
func (e *Engine) isStuck(u *unit) bool {
	for k, err := range u.errs {
		if u.in != nil && failure.EndsByMount(err) {
			e.Kernel.ListenMounts()
			continue
		}
		if u.in == nil || !failure.EndIsTold(err) {
			return false
		}
		if k.Netns == "" || k.Kind == netstate.KindNetns {
			continue
		}
		news, refused := e.Kernel.Listen(k.Netns)
		if news || refused != nil && !failure.EndIsTold(refused) {
			return false
		}
	}
	return true
}

// remounted marks the stuck owners whose failures a mount may have ended.
func (e *Engine) remounted() {
	for o := range e.stuck {
		for _, err := range e.units[o].errs {
			if failure.EndsByMount(err) {
				e.facts.Mark(o)
			}
		}
	}
}

// freed marks the stuck owners of objects for which another one may have been in the
// way that has changed: a route to the same destination on whatever interface, and in a
// namespace any link, whose alternative names count as well. Names of the node's
// links are among its facts (followNode).
func (e *Engine) freed(changed netstate.Key) {
	for o := range e.stuck {
		for k := range e.units[o].errs {
			same := k.Kind == changed.Kind && k.Netns == changed.Netns
			if same && (k.Kind == netstate.KindRoute && k.Name == changed.Name || k.Kind == netstate.KindLink && k.Netns != "") {
				e.facts.Mark(o)
			}
		}
	}
}
