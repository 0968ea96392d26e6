package engine

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/patchbay-dev/patchbay/nodeagent/firewall/program"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
)

// receive stores what came in about an owner.
func (e *Engine) receive(o netstate.Owner, in *Input) {
	u := e.unit(o)
	next := input{changed: true, byCommand: in != nil && in.removed, recalled: u.recalled}
	if in != nil && len(u.Wanted()) == 0 {
		next.formerly = in.Before
	}
	if !next.byCommand {
		next.in = in
	}
	e.enter(u, next.in)
	u.input = next
	e.facts.Mark(o)
	e.show(u)
	if u.in != nil {
		u.repairs = max(u.repairs, in.Repairs)
	}
	e.sweepDue = e.sweepDue || !u.accepted()
	e.calm(u)
}

// hold leaves out owners that are not known yet, and owners that must not be removed
// now: gone ones while nothing can be swept, and while the brake is on also owners that are
// no longer accepted, since the resource that they refer to may be the missing one. It adds
// swept owners.
func (e *Engine) hold(batch map[netstate.Owner]bool, synced bool) {
	// Objects that the firewall holds of pods' attachments have no owner until these are
	// compiled, and without a sweep there is no brake.
	sweepable := !e.awaitPods(batch) && synced
	switch {
	case sweepable:
		e.sweep(batch)
	case e.once:
		e.addStrays(batch)
	}
	for o := range batch {
		u := e.unit(o)
		if u.in == nil && !u.byCommand && !sweepable || !e.brake.IsZero() && u.going() {
			delete(batch, o)
			e.calm(u)
		}
	}
}

// addAll has everything looked at.
func (e *Engine) addAll() {
	e.soon(readNode)
	e.facts.Forget(func(f fact) bool { return f.kind == routingFact })
	e.sweepDue = true
	e.facts.Mark(slices.Collect(maps.Keys(e.units))...)
}

// follow reads again what an alarm asks for.
func (e *Engine) follow(due map[what]bool) {
	if due[lookAtSilent] {
		e.lookAtSilent()
	}
	if due[readNode] {
		e.followNode()
	}
	if due[readRouting] {
		e.followRoutings()
	}
	if due[lookAtPorts] {
		e.followHostPorts()
	}
}

// reloadFirewall reads the firewall anew. Owners that miss objects there, and nothing else,
// get them back without another look at the kernel; others are looked at.
func (e *Engine) reloadFirewall() {
	held, err := e.Firewall.Inventory()
	if err != nil {
		e.Log.Error("read the firewall", "err", err)
		e.unread++
		e.addUnknown(err)
		return
	}
	e.unread, e.sweepDue = 0, true
	e.holdMarked(held)
	e.facts.Set(fact{kind: blockersFact}, e.Firewall.Blockers())
	for o, u := range e.units {
		switch missing := e.misses(u); {
		case u.unfiltered() || missing && !(u.done && !u.changed):
			e.facts.Mark(o)
		case missing:
			e.flushed[o] = true
		}
	}
}

// addUnknown marks the owners whose filters are not known, so that they say so, unless they
// do. A single failure is over before that is read.
func (e *Engine) addUnknown(err error) {
	if hung := (*program.NoAnswer)(nil); !errors.As(err, &hung) && e.unread == 1 {
		return
	}
	for o, u := range e.units {
		if u.filtered() && len(u.errs) == 0 {
			e.facts.Mark(o)
		}
	}
}

// unfiltered reports whether the last pass failed at something in the firewall.
func (u *unit) unfiltered() bool {
	for k := range u.errs {
		if k.Kind.Firewall() {
			return true
		}
	}
	return false
}

// misses reports whether something of the owner in the firewall, or the ruleset that it
// needs, is not as it must be.
func (e *Engine) misses(u *unit) bool {
	keys := []netstate.Key{netstate.Ruleset{}.Key()}
	for k := range u.Wanted() {
		if k.Kind.Firewall() {
			keys = append(keys, k)
		}
	}
	there, _ := e.Firewall.Observe(keys)
	for _, k := range keys[1:] {
		if there[keys[0]] == nil || there[k] != u.Wanted()[k] {
			return true
		}
	}
	return false
}

// dirty reports whether owners are to be looked at in the next turn.
func (e *Engine) dirty() bool { return len(e.again) > 0 || !e.facts.Clean() }

// settled reports whether nothing is left to do or to wait for.
func (e *Engine) settled() bool {
	e.mu.Lock()
	pending := len(e.inputs) > 0 || e.lost || e.firewall || e.unread > 0 || e.dirty()
	e.mu.Unlock()
	for _, w := range []what{readNode, readRouting} {
		pending = pending || e.alarms.Has(alarm{what: w})
	}
	for _, u := range e.units {
		pending = pending || len(u.errs) > 0 && (u.in == nil || !u.in.Background) && !u.final()
	}
	return !pending
}

// start reads what bears our mark, once, before the first pass.
func (e *Engine) start() error {
	if e.started {
		return nil
	}
	rules, err := e.Firewall.Inventory()
	if err != nil {
		return fmt.Errorf("read the firewall: %w", err)
	}
	return e.startBeside(rules)
}

// startBeside reads the kernel beside what is known of the firewall.
func (e *Engine) startBeside(rules []netstate.Held) error {
	held, err := e.Kernel.Inventory()
	if err != nil {
		return fmt.Errorf("read what bears our mark: %w", err)
	}
	e.holdMarked(append(held, rules...))
	e.facts.Set(fact{kind: blockersFact}, e.Firewall.Blockers())
	node, err := e.readNode()
	if err != nil {
		return fmt.Errorf("read the node's own links and routes: %w", err)
	}
	e.setNode(node)
	for _, h := range rules {
		if k := h.Object.Key(); k.Kind == netstate.KindForeignBridge {
			e.bridged = append(e.bridged, k)
		}
	}
	e.started, e.sweepDue = true, true
	return nil
}

// holdMarked notes for each owner the objects that bear its mark. The firewall's bear no
// owner's.
func (e *Engine) holdMarked(held []netstate.Held) {
	owners := map[netstate.Owner]bool{}
	for _, h := range held {
		k := h.Object.Key()
		if k.Kind.Firewall() && e.ledger.Holders(k).Len() > 0 {
			continue
		}
		e.unit(h.Owner).Hold(k)
		owners[h.Owner] = true
	}
	for o := range owners {
		if u := e.units[o]; o.Kind == netstate.OwnerAttachment && !u.accepted() && len(e.claims.Of(o)) == 0 {
			e.lease(u)
		}
	}
}

// readMarks looks again for what bears our mark and has no owner.
func (e *Engine) readMarks() {
	held, err := e.Kernel.Inventory()
	if err != nil {
		e.Log.Error("read what bears our mark", "err", err)
		return
	}
	e.holdMarked(held)
}
