package engine

import (
	"errors"
	"maps"

	"github.com/patchbay-dev/patchbay/nodeagent/engine/resolve"
	"github.com/patchbay-dev/patchbay/nodeagent/firewall/program"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
	"github.com/patchbay-dev/patchbay/nodeagent/plan"
)

// A firewall that another program flushed or changed is brought back without a look at the
// kernel's other objects.

// readFirewall reads what the firewall holds, and who else drops forwarded packets.
func (e *Engine) readFirewall() error {
	held, err := e.Firewall.Inventory()
	if err != nil {
		return err
	}
	e.holdMarked(held)
	e.resolver.SetBlockers()
	return nil
}

// reloadFirewall reads the firewall anew. Owners that miss objects there, and nothing else,
// get them back without another look at the kernel; other owners are looked at.
func (e *Engine) reloadFirewall() {
	if err := e.readFirewall(); err != nil {
		e.Log.Error("read the firewall", "err", err)
		e.unread++
		e.addUnknown(err)
		return
	}
	e.unread, e.sweepDue = 0, true
	for o, u := range e.resolver.Resources {
		switch missing := e.misses(u); {
		case failedAtFirewall(u) || missing && !(u.Done && !u.Changed):
			e.resolver.Mark(o)
		case missing:
			e.flushed[o] = true
		}
	}
}

// restore brings back the firewall objects that flushed owners miss. They want what they
// wanted before, so that they are neither compiled nor observed in the kernel. Owners of
// the next batch get their objects there.
func (e *Engine) restore(next map[netstate.Owner]bool) {
	batch, desired := e.flushed, netstate.Set{}.Add(netstate.Ruleset{})
	e.flushed = map[netstate.Owner]bool{}
	maps.DeleteFunc(batch, func(o netstate.Owner, _ bool) bool { return next[o] || e.resolver.Resources[o] == nil })
	if len(batch) == 0 {
		return
	}
	e.work = work{leaving: map[netstate.Key]netstate.Owner{}}
	for o := range batch {
		u := e.resolver.Resources[o]
		u.Errs = map[netstate.Key]error{}
		for k, object := range u.Wanted() {
			if k.Kind.Firewall() {
				desired[k] = object
			}
		}
	}
	observed, _ := e.Firewall.Observe(desired.Keys())
	steps, _ := plan.Diff(desired, observed, nil)
	e.finish(batch, e.execute(batch, e.holdContested(batch, steps)))
}

// addUnknown marks the owners whose filters are not known, so that they say so, unless they
// do. A single failure is over before that is read.
func (e *Engine) addUnknown(err error) {
	if hung := (*program.NoAnswer)(nil); !errors.As(err, &hung) && e.unread == 1 {
		return
	}
	for o, u := range e.resolver.Resources {
		if usesFirewall(u) && len(u.Errs) == 0 {
			e.resolver.Mark(o)
		}
	}
}

// misses reports whether something of the owner in the firewall, or the ruleset that it
// needs, is not as it must be.
func (e *Engine) misses(u *resolve.Resource) bool {
	ruleset := netstate.Ruleset{}.Key()
	there, _ := e.Firewall.Observe(append(u.Wanted().Keys(), ruleset))
	for k, o := range u.Wanted() {
		if k.Kind.Firewall() && (there[k] != o || there[ruleset] == nil) {
			return true
		}
	}
	return false
}

// failedAtFirewall reports whether the last pass failed at something in the firewall.
func failedAtFirewall(u *resolve.Resource) bool {
	for k := range u.Errs {
		if k.Kind.Firewall() {
			return true
		}
	}
	return false
}

// usesFirewall says whether something of the owner is in the firewall.
func usesFirewall(u *resolve.Resource) bool {
	for k := range u.Wanted() {
		if k.Kind.Firewall() {
			return true
		}
	}
	return false
}
