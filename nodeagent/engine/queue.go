package engine

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"reflect"
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
	e.lost = false
	e.mu.Unlock()

	if lost || natLost && !now().Before(e.natRetry) {
		e.reloadNAT(ctx, batch)
	}
	if lost && synced {
		e.readMarks()
	}
	for o, in := range inputs {
		e.receive(o, in)
		batch[o] = true
	}
	for _, ev := range events {
		e.consider(ev, batch)
	}
	e.addDue(batch, lost)
	e.followNode(batch)
	if synced {
		e.sweep(batch)
	}
	e.holdBack(batch, synced)
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
	e.sweepDue = e.sweepDue || !u.accepted()
	u.calm()
}

// holdBack leaves out what must not be removed now: owners that are gone while
// the source is not in sync, and while the brake is on also those that are no
// longer accepted, since what they refer to may be what is missing.
func (e *Engine) holdBack(batch map[netstate.Owner]bool, synced bool) {
	for o := range batch {
		u := e.unit(o)
		if u.in == nil && !u.byCommand && !synced || !e.brake.IsZero() && u.going() {
			delete(batch, o)
			u.calm()
		}
	}
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
	e.setNATLost(false)
	if err := e.NAT.Load(ctx); err != nil {
		e.Log.Error("read the firewall", "err", err)
		e.setNATLost(true)
		e.natRetry = now().Add(pauseAfterError)
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
		e.stale = e.stale || ev.Key.Link == "" && ev.Key.Netns == ""
	case netstate.KindRoute:
		e.considerRoute(ev, batch)
	case netstate.KindNetns:
		e.mark(ev.Key, batch, func(u *unit) bool { return ev.Gone || !u.done })
	default:
		if want := e.wantedAt(ev.Key); want != nil && (ev.Gone || ev.Object == nil || !plan.Same(want, ev.Object)) {
			e.mark(ev.Key, batch, nil)
		}
	}
	ours := len(e.wanted[netstate.Key{Kind: netstate.KindLink, Netns: ev.Key.Netns, Link: ev.Key.Link}]) > 0
	e.stale = e.stale || !ours && ev.Key.Netns == ""
}

// considerRoute handles a route of ours, and the connected route that comes
// with an address of ours.
func (e *Engine) considerRoute(ev kernel.Event, batch map[netstate.Owner]bool) {
	if want := e.wantedAt(ev.Key); want != nil && (ev.Gone || ev.Object == nil || !plan.Same(want, ev.Object)) {
		e.mark(ev.Key, batch, nil)
	}
	if !ev.Gone {
		return
	}
	var connected []netstate.Key
	for k := range e.links[place(ev.Key)] {
		if p, err := netip.ParsePrefix(k.Name); k.Kind == netstate.KindAddress && err == nil && p.Masked().String() == ev.Key.Name {
			connected = append(connected, k)
		}
	}
	e.recheck(connected, batch)
}

// considerLink handles a link's own state and its place in a bridge, of which
// the kernel speaks in the same message.
func (e *Engine) considerLink(ev kernel.Event, batch map[netstate.Owner]bool) {
	if want := e.wantedAt(ev.Key); want != nil && (ev.Gone || ev.Object == nil || !plan.Same(want, ev.Object)) {
		e.mark(ev.Key, batch, nil)
	}
	e.considerStray(ev, batch)
	var ports []netstate.Key
	for _, kind := range []netstate.Kind{netstate.KindPort, netstate.KindHairpin} {
		if k := (netstate.Key{Kind: kind, Link: ev.Key.Link}); e.wantedAt(k) != nil {
			ports = append(ports, k)
		}
	}
	if len(ports) > 0 && ev.Key.Netns == "" {
		e.recheck(ports, batch)
	}
}

// considerStray has the owner of a link that bears its mark and is none that it
// wants look again: somebody renamed it.
func (e *Engine) considerStray(ev kernel.Event, batch map[netstate.Owner]bool) {
	l, ok := ev.Object.(netstate.Link)
	if !ok || e.wantedAt(ev.Key) != nil || l.Type == netstate.Loopback {
		return
	}
	source, owner, marked := netstate.ParseMark(l.Mark)
	if u := e.units[owner]; marked && source == e.Source && u != nil {
		u.held[ev.Key] = true
		batch[owner] = true
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
		if observed[k] == nil || !plan.Same(e.wantedAt(k), observed[k]) {
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

const (
	// pauseAfterError is how long to wait before the node or the firewall is
	// read again that could not be read.
	pauseAfterError = time.Second
	// nodePause is the shortest time between two looks at the node's own links
	// and routes: on a busy node they change all the time.
	nodePause = 200 * time.Millisecond
)

// followNode reads the node's own state anew when something of it changed, and
// adds the owners that may depend on it: what is built on it, and what failed.
func (e *Engine) followNode(batch map[netstate.Owner]bool) {
	if !e.stale || now().Before(e.nodeRetry) {
		return
	}
	node, err := e.Kernel.Node()
	if err != nil {
		e.Log.Error("read the node's own links and routes", "err", err)
		e.nodeRetry = now().Add(pauseAfterError)
		return
	}
	before := facts(e.node)
	e.node, e.stale, e.nodeRetry = node, false, now().Add(nodePause)
	if reflect.DeepEqual(before, facts(node)) {
		return
	}
	for o, u := range e.units {
		if u.in != nil && (u.dependsOnNode() || u.problem != nil || len(u.errs) > 0) {
			batch[o] = true
		}
	}
}

// facts are what of a node others made.
func facts(n netstate.Node) netstate.Node {
	n.Links = maps.Clone(n.Links)
	maps.DeleteFunc(n.Links, func(_ string, l netstate.NodeLink) bool { return l.Ours })
	return n
}

// dependsOnNode reports whether compile looks at the node for the owner.
func (u *unit) dependsOnNode() bool {
	return u.in.Network != nil || u.in.Publish != nil || u.in.Attachment != nil && u.in.Attachment.Spec.PointToPoint != nil
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
	e.mu.Lock()
	synced, natLost := e.synced, e.natLost
	e.mu.Unlock()
	if !e.brake.IsZero() && synced {
		next = min(next, time.Until(e.brake))
	}
	if natLost {
		next = min(next, time.Until(e.natRetry))
	}
	if e.stale {
		next = min(next, time.Until(e.nodeRetry))
	}
	return max(next, 0)
}

// settled reports whether nothing is left to do or to wait for.
func (e *Engine) settled() bool {
	e.mu.Lock()
	pending := len(e.inputs)+len(e.dirty) > 0 || e.lost || e.natLost
	e.mu.Unlock()
	for _, u := range e.units {
		pending = pending || !u.retryAt.IsZero() && (u.in == nil || !u.in.Background) && !u.final()
	}
	return !pending && !e.stale
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
	e.hold(held)
	if e.node, err = e.Kernel.Node(); err != nil {
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

func (e *Engine) setNATLost(lost bool) {
	e.mu.Lock()
	e.natLost = lost
	e.mu.Unlock()
}
