package engine

import (
	"errors"

	"github.com/patchbay-dev/patchbay/nodeagent/engine/failure"
)

// retire removes the objects of a former firewall once the firewall of this node holds
// everything: before, it may be all that isolates or publishes something.
func (e *Engine) retire() {
	if e.Retire == nil || e.retired || e.alarms.Has(alarm{what: retryRetire}) || !e.complete() {
		return
	}
	if err := e.Retire(); err != nil {
		e.Log.Error("remove what another firewall held", "err", err)
		e.alarms.At(alarm{what: retryRetire}, e.Now().Add(pauseAfterError))
		return
	}
	e.retired = true
}

// complete reports whether the source is in sync and the firewall holds what it
// wants, but for what waits for something that is not the firewall's.
func (e *Engine) complete() bool {
	e.mu.Lock()
	pending := !e.synced || e.firewall || e.lost || e.unread > 0 || len(e.inputs) > 0 || e.resolver.Dirty()
	e.mu.Unlock()
	if pending || !e.brake.IsZero() || !e.resolver.PodsKnown() && e.resolver.PodsAwaited() {
		return false
	}
	for _, u := range e.resolver.Resources {
		there, _ := e.Firewall.Observe(u.Wanted().Keys())
		for k, o := range u.Wanted() {
			if k.Kind.Firewall() && there[k] != o && !errors.Is(u.Errs[k], failure.ErrWaits) {
				return false
			}
		}
	}
	return true
}
