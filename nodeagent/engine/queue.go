package engine

import (
	"context"
	"fmt"
	"time"

	"github.com/patchbay-dev/patchbay/nodeagent/kernel"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
	"github.com/patchbay-dev/patchbay/nodeagent/plan"
)

// event notes what the kernel said, for the next turn. Of several about one
// object the last counts, but that it was gone for a moment is not forgotten.
func (e *Engine) event(ev kernel.Event) {
	e.mu.Lock()
	if ev.Lost {
		e.lost = true
	} else {
		ev.Gone = ev.Gone || e.events[ev.Key].Gone
		e.events[ev.Key] = ev
	}
	e.mu.Unlock()
	e.signal()
}

// take merges what came in and returns the owners to look at.
func (e *Engine) take(ctx context.Context) map[netstate.Owner]bool {
	e.mu.Lock()
	inputs, batch, events := e.inputs, e.dirty, e.events
	lost, natLost, synced := e.lost, e.natLost, e.synced
	e.inputs, e.dirty, e.events = map[netstate.Owner]*Input{}, map[netstate.Owner]bool{}, map[netstate.Key]kernel.Event{}
	e.lost, e.natLost = false, false
	e.mu.Unlock()

	if natLost || lost {
		e.reloadNAT(ctx, batch)
	}
	for o, in := range inputs {
		e.accept(o, in)
		batch[o] = true
	}
	for _, ev := range events {
		e.consider(ev, batch)
	}
	e.addDue(batch, lost)
	if synced {
		e.sweep(batch)
	}
	for o := range batch {
		if u := e.unit(o); u.in == nil && !u.trusted && (!synced || !e.brake.IsZero()) {
			delete(batch, o)
		}
	}
	return batch
}

// accept stores what came in about an owner.
func (e *Engine) accept(o netstate.Owner, in *Input) {
	u := e.unit(o)
	u.before, u.trusted = nil, in != nil && in.removed
	if in != nil && len(u.desired) == 0 {
		u.before = in.Before
	}
	if u.trusted {
		in = nil
	}
	e.sweepDue = e.sweepDue || in == nil
	u.in, u.changed = in, true
	u.calm()
}

// addDue adds the owners whose time to try again has come, or all of them.
func (e *Engine) addDue(batch map[netstate.Owner]bool, all bool) {
	e.stale = e.stale || all
	e.sweepDue = e.sweepDue || all
	for o, u := range e.units {
		if all || !u.retryAt.IsZero() && !now().Before(u.retryAt) {
			batch[o] = true
		}
	}
}

// reloadNAT reads the firewall anew and adds the owners who miss something
// there.
func (e *Engine) reloadNAT(ctx context.Context, batch map[netstate.Owner]bool) {
	if err := e.NAT.Load(ctx); err != nil {
		e.Log.Error("read the firewall", "err", err)
		e.mu.Lock()
		e.natLost = true
		e.mu.Unlock()
		return
	}
	e.sweepDue = true
	intact := e.NAT.Intact()
	for o, u := range e.units {
		if !intact || e.misses(u) {
			batch[o] = true
		}
	}
}

func (e *Engine) misses(u *unit) bool {
	var keys []netstate.Key
	for k := range u.desired {
		if k.Kind.Firewall() {
			keys = append(keys, k)
		}
	}
	there := e.NAT.Observe(keys)
	for _, k := range keys {
		if there[k] != u.desired[k] {
			return true
		}
	}
	return false
}

// consider adds the owners whose objects an event says are not as wanted.
func (e *Engine) consider(ev kernel.Event, batch map[netstate.Owner]bool) {
	switch ev.Key.Kind {
	case netstate.KindLink:
		e.considerLink(ev, batch)
	case netstate.KindSysctl:
		e.recheck(e.sysctls(ev.Key), batch)
	case netstate.KindNetns:
		e.mark(ev.Key, batch, func(u *unit) bool { return ev.Gone || !u.done })
	default:
		if want := e.wish(ev.Key); want != nil && (ev.Gone || ev.Object == nil || !plan.Same(want, ev.Object)) {
			e.mark(ev.Key, batch, nil)
		}
	}
	if len(e.links[place(ev.Key)]) == 0 && ev.Key.Netns == "" {
		e.considerForeign(batch)
	}
	e.considerForeignBridge(ev, batch)
}

// considerLink handles a link's own state and its place in a bridge, of which
// the kernel speaks in the same message.
func (e *Engine) considerLink(ev kernel.Event, batch map[netstate.Owner]bool) {
	if want := e.wish(ev.Key); want != nil && (ev.Gone || ev.Object == nil || !plan.Same(want, ev.Object)) {
		e.mark(ev.Key, batch, nil)
	}
	var ports []netstate.Key
	for _, kind := range []netstate.Kind{netstate.KindPort, netstate.KindHairpin} {
		if k := (netstate.Key{Kind: kind, Link: ev.Key.Link}); e.wish(k) != nil {
			ports = append(ports, k)
		}
	}
	if len(ports) > 0 && ev.Key.Netns == "" {
		e.recheck(ports, batch)
	}
}

// sysctls returns the wanted sysctls that a configuration change may concern:
// those of its interface and those of the whole node.
func (e *Engine) sysctls(k netstate.Key) []netstate.Key {
	var keys []netstate.Key
	for _, p := range []netstate.End{place(k), {}} {
		for key := range e.links[p] {
			if key.Kind == netstate.KindSysctl || key.Kind == netstate.KindSysctlNode {
				keys = append(keys, key)
			}
		}
	}
	return keys
}

// recheck reads a few objects and adds the owners of those that differ.
func (e *Engine) recheck(keys []netstate.Key, batch map[netstate.Owner]bool) {
	if len(keys) == 0 {
		return
	}
	observed, _ := e.Kernel.Observe(keys)
	for _, k := range keys {
		if observed[k] == nil || !plan.Same(e.wish(k), observed[k]) {
			e.mark(k, batch, nil)
		}
	}
}

func (e *Engine) mark(k netstate.Key, batch map[netstate.Owner]bool, which func(*unit) bool) {
	for o := range e.wanted[k] {
		if which == nil || which(e.units[o]) {
			batch[o] = true
		}
	}
}

// considerForeignBridge has the owners of forward guards look again when a
// bridge of somebody else comes or goes.
func (e *Engine) considerForeignBridge(ev kernel.Event, batch map[netstate.Owner]bool) {
	known := len(e.wanted[netstate.ForeignBridge{Link: ev.Key.Link}.Key()]) > 0
	l, isLink := ev.Object.(netstate.Link)
	came := isLink && l.Type == netstate.Bridge && l.Mark == "" && ev.Key.Netns == "" && !known
	went := ev.Gone && ev.Key.Kind == netstate.KindLink && known
	if !came && !went {
		return
	}
	e.stale = true
	for _, f := range []netstate.Family{netstate.IPv4, netstate.IPv6} {
		e.mark(netstate.ForwardGuard{Family: f}.Key(), batch, nil)
	}
}

// considerForeign lets owners that failed for the node's own state look again
// when something of the node changed.
func (e *Engine) considerForeign(batch map[netstate.Owner]bool) {
	e.stale = true
	for o, u := range e.units {
		if u.in != nil && (u.problem != nil || len(u.errs) > 0) {
			batch[o] = true
		}
	}
}

const idle = 24 * time.Hour

// untilRetry returns how long the loop may sleep.
func (e *Engine) untilRetry() time.Duration {
	next := idle
	for _, u := range e.units {
		if !u.retryAt.IsZero() {
			next = min(next, time.Until(u.retryAt))
		}
	}
	if !e.brake.IsZero() {
		next = min(next, time.Until(e.brake))
	}
	return max(next, 0)
}

// settled reports whether nothing is left to do or to wait for.
func (e *Engine) settled() bool {
	e.mu.Lock()
	pending := len(e.inputs)+len(e.dirty) > 0 || e.lost || e.natLost
	e.mu.Unlock()
	for _, u := range e.units {
		pending = pending || !u.retryAt.IsZero() && (u.in == nil || !u.in.Background)
	}
	return !pending
}

// start reads what bears our mark, once, before the first pass.
func (e *Engine) start(ctx context.Context) error {
	if e.started {
		return nil
	}
	if err := e.NAT.Load(ctx); err != nil {
		return fmt.Errorf("read the firewall: %w", err)
	}
	held, err := e.Kernel.Inventory()
	if err != nil {
		return fmt.Errorf("read what bears our mark: %w", err)
	}
	for _, h := range held {
		e.unit(h.Owner).held[h.Object.Key()] = true
	}
	e.started, e.sweepDue = true, true
	return nil
}
