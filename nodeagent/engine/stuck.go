package engine

import (
	"github.com/patchbay-dev/patchbay/nodeagent/engine/failure"
	"github.com/patchbay-dev/patchbay/nodeagent/engine/resolve"
	"github.com/patchbay-dev/patchbay/nodeagent/engine/schedule"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
)

// Failures that only other programs can end are not tried again by the clock: the kernel tells
// when a name, a route or a port becomes free, a namespace appears, or a mount changes.
// It does not tell when a security module allows more.

// pause sets when an owner is looked at again after a pass.
func (e *Engine) pause(u *resolve.Resource) {
	delete(e.stuck, u.Owner)
	next := e.endFights(u)
	switch {
	case u.Done:
		e.calm(u)
	case e.isStuck(u):
		e.calm(u)
		e.stuck[u.Owner] = true
	default:
		e.backOff(u)
	}
	if !next.IsZero() {
		e.alarms.By(alarm{owner: u.Owner}, next)
	}
}

// isStuck reports whether all failures of an owner end by what the kernel will tell. A
// namespace that was not listened to before is looked at once more.
func (e *Engine) isStuck(u *resolve.Resource) bool {
	for k, err := range u.Errs {
		if u.In != nil && failure.EndsByMount(err) {
			e.Kernel.ListenMounts()
			continue
		}
		if u.In == nil || !failure.EndIsTold(err) {
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
		for _, err := range e.resolver.Resources[o].Errs {
			if failure.EndsByMount(err) {
				e.resolver.Mark(o)
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
		for k := range e.resolver.Resources[o].Errs {
			same := k.Kind == changed.Kind && k.Netns == changed.Netns
			if same && (k.Kind == netstate.KindRoute && k.Name == changed.Name || k.Kind == netstate.KindLink && k.Netns != "") {
				e.resolver.Mark(o)
			}
		}
	}
}

// final reports whether only another program can mend the failures: waiting here
// makes no sense.
func final(u *resolve.Resource) bool {
	for k, err := range u.Errs {
		if !failure.OnlyByOthers(k, err) {
			return false
		}
	}
	return len(u.Errs) > 0
}

// backOff sets when to try a failing owner again.
func (e *Engine) backOff(u *resolve.Resource) {
	e.alarms.At(alarm{owner: u.Owner}, e.Now().Add(schedule.BackOff(firstRetry, lastRetry, u.Attempts)))
	u.Attempts++
}

func (e *Engine) calm(u *resolve.Resource) {
	u.Attempts = 0
	e.alarms.Clear(alarm{owner: u.Owner})
}

// forget drops an owner that holds nothing.
func (e *Engine) forget(u *resolve.Resource) {
	delete(e.stuck, u.Owner)
	e.fights.Forget(u.Owner)
	e.calm(u)
	e.resolver.Forget(u)
}
