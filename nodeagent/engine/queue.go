package engine

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"time"

	"github.com/patchbay-dev/patchbay/nodeagent/kernel"
	"github.com/patchbay-dev/patchbay/nodeagent/nat"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
)

// take merges what came in and returns the owners to look at.
func (e *Engine) take(ctx context.Context) map[netstate.Owner]bool {
	e.mu.Lock()
	inputs, batch, events := e.inputs, e.dirty, e.events
	lost, natLost, synced, remembered, running := e.lost, e.natLost, e.synced, e.remembered, e.running
	e.inputs, e.dirty, e.events = map[netstate.Owner]*Input{}, map[netstate.Owner]bool{}, map[netstate.Key]kernel.Event{}
	e.lost, e.remembered, e.running = false, nil, nil
	e.mu.Unlock()

	if lost || natLost && !now().Before(e.natRetry) && !e.firewall.busy() {
		e.reloadNAT(ctx, batch)
	}
	if lost && synced {
		e.readMarks()
	}
	for _, o := range remembered {
		e.remember(InputOf(o))
	}
	e.followPods(running, batch)
	for o, in := range inputs {
		e.receive(o, in)
		batch[o] = true
	}
	for _, ev := range events {
		e.consider(ev, batch)
	}
	e.lookAtSilent(batch)
	e.addDue(batch, lost)
	e.followNode(batch)
	e.followRoutings(batch)
	e.followHostPorts(batch)
	// What the firewall holds of pods' attachments is nobody's until these are
	// compiled, and without a sweep there is no brake.
	sweepable := !e.awaitPods(batch) && synced
	switch {
	case sweepable:
		e.sweep(batch)
	case e.once:
		e.addStrays(batch)
	}
	e.holdBack(batch, sweepable)
	return batch
}

// receive stores what came in about an owner.
func (e *Engine) receive(o netstate.Owner, in *Input) {
	u := e.unit(o)
	u.formerly, u.byCommand = nil, in != nil && in.removed
	if in != nil && len(u.desired) == 0 {
		u.formerly = in.Before
	}
	if u.byCommand {
		in = nil
	}
	u.in, u.changed = in, true
	e.refer(u)
	if in != nil {
		u.repairs = max(u.repairs, in.Repairs)
	}
	e.sweepDue = e.sweepDue || !u.accepted()
	u.calm()
}

// holdBack leaves out what must not be removed now: owners that are gone while
// nothing can be swept, and while the brake is on also those that are no longer
// accepted, since what they refer to may be what is missing.
func (e *Engine) holdBack(batch map[netstate.Owner]bool, sweepable bool) {
	for o := range batch {
		u := e.unit(o)
		if u.in == nil && !u.byCommand && !sweepable || !e.brake.IsZero() && u.going() {
			delete(batch, o)
			u.calm()
		}
	}
}

// addDue adds the owners whose time to try again has come, or all of them.
func (e *Engine) addDue(batch map[netstate.Owner]bool, all bool) {
	e.stale = e.stale || all
	if all {
		clear(e.routings)
	}
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
	e.setNATLost(false)
	before := e.NAT.Blockers()
	if err := e.NAT.Load(ctx); err != nil {
		e.Log.Error("read the firewall", "err", err)
		e.natFailed()
		e.addUnknown(err, batch)
		return
	}
	e.sweepDue = true
	same := e.NAT.Intact() && slices.EqualFunc(before, e.NAT.Blockers(), func(a, b netstate.Blocker) bool { return reflect.DeepEqual(a, b) })
	for o, u := range e.units {
		if !same || e.misses(u) || u.unfiltered() {
			batch[o] = true
		}
	}
}

// addUnknown adds the owners of whom nobody can tell whether they are filtered, so
// that they say so, unless they do. A single failure is over before that is read.
func (e *Engine) addUnknown(err error, batch map[netstate.Owner]bool) {
	if hung := (*nat.NoAnswer)(nil); !errors.As(err, &hung) && e.natFailures == 1 {
		return
	}
	for o, u := range e.units {
		if u.filtered() && len(u.errs) == 0 {
			batch[o] = true
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

const (
	// pauseAfterError is how long to wait before the node is read again that could
	// not be read, and the longest such pause of the firewall.
	pauseAfterError = time.Second
	// firstNATPause is that pause after a first failure: whoever flushes a
	// firewall table by table is in the way of who puts it back meanwhile.
	firstNATPause = 50 * time.Millisecond
	// nodePause is the shortest time between two looks at the node's own links
	// and routes: on a busy node they change all the time.
	nodePause = 200 * time.Millisecond
)

const idle = 24 * time.Hour

// untilRetry returns how long the loop may sleep.
func (e *Engine) untilRetry() time.Duration {
	next := idle
	for _, u := range e.units {
		if !u.retryAt.IsZero() {
			next = min(next, time.Until(u.retryAt))
		}
	}
	e.mu.Lock()
	synced, natLost := e.synced, e.natLost
	e.mu.Unlock()
	if !e.brake.IsZero() && synced {
		next = min(next, time.Until(e.brake))
	}
	if !e.retired && e.retireAt.After(now()) {
		next = min(next, time.Until(e.retireAt))
	}
	if natLost && !e.firewall.busy() {
		next = min(next, time.Until(e.natRetry))
	}
	if len(e.silent.keys) > 0 {
		next = min(next, time.Until(e.silent.due))
	}
	if !e.ports.due.IsZero() {
		next = min(next, time.Until(e.ports.due))
	}
	if e.stale {
		next = min(next, time.Until(e.nodeRetry))
	}
	if len(e.astray) > 0 {
		next = min(next, time.Until(e.routingRetry))
	}
	return max(next, 0)
}

// settled reports whether nothing is left to do or to wait for.
func (e *Engine) settled() bool {
	e.mu.Lock()
	pending := len(e.inputs)+len(e.dirty) > 0 || e.lost || e.natLost
	e.mu.Unlock()
	for _, u := range e.units {
		pending = pending || len(u.errs) > 0 && (u.in == nil || !u.in.Background) && !u.final()
	}
	return !pending && !e.stale && len(e.astray) == 0
}

// start reads what bears our mark, once, before the first pass.
func (e *Engine) start(ctx context.Context) error {
	if e.started {
		return nil
	}
	if err := e.NAT.Load(ctx); err != nil {
		return fmt.Errorf("read the firewall: %w", err)
	}
	return e.startKernel()
}

func (e *Engine) startKernel() error {
	held, err := e.Kernel.Inventory()
	if err != nil {
		return fmt.Errorf("read what bears our mark: %w", err)
	}
	e.hold(held)
	if e.node, err = e.readNode(); err != nil {
		return fmt.Errorf("read the node's own links and routes: %w", err)
	}
	for k := range e.NAT.Held() {
		if k.Kind == netstate.KindForeignBridge {
			e.bridged = append(e.bridged, k)
		}
	}
	e.started, e.sweepDue = true, true
	return nil
}

func (e *Engine) hold(held []kernel.Held) {
	for _, h := range held {
		e.unit(h.Owner).held[h.Object.Key()] = true
	}
}

// readMarks looks again for what bears our mark and has no owner.
func (e *Engine) readMarks() {
	held, err := e.Kernel.Inventory()
	if err != nil {
		e.Log.Error("read what bears our mark", "err", err)
		return
	}
	e.hold(held)
}

// natFailed has the firewall read again, soon and then less and less so.
func (e *Engine) natFailed() {
	e.setNATLost(true)
	e.natRetry = now().Add(min(firstNATPause<<min(e.natFailures, 16), pauseAfterError))
	e.natFailures++
}

func (e *Engine) setNATLost(lost bool) {
	e.mu.Lock()
	e.natLost = lost
	e.mu.Unlock()
}
