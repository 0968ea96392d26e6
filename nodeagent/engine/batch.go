package engine

import (
	"fmt"
	"maps"
	"runtime/debug"
	"slices"

	"github.com/patchbay-dev/patchbay/api/v1alpha1"
	"github.com/patchbay-dev/patchbay/nodeagent/compile"
	"github.com/patchbay-dev/patchbay/nodeagent/engine/resolve"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
)

// receive stores what came in about an owner.
func (e *Engine) receive(o netstate.Owner, in *Input) {
	u := e.resolver.Receive(o, in)
	if u.In != nil {
		u.Repairs = max(u.Repairs, in.Repairs)
	}
	e.sweepDue = e.sweepDue || !u.Accepted()
	e.calm(u)
}

// hold leaves out owners that are not known yet, and owners that must not be removed
// now: gone ones while nothing can be swept, and while the brake is on also owners that are
// no longer accepted, since the resource that they refer to may be the missing one. Owners
// that wait like this are braked. hold adds swept owners.
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
		u := e.resolver.Resource(o)
		if u.In == nil && !u.ByCommand && !sweepable || !e.brake.IsZero() && u.Going() {
			delete(batch, o)
			e.calm(u)
			if len(u.Wanted()) > 0 {
				e.braked[o] = true
			}
		}
	}
}

// addAll has everything looked at.
func (e *Engine) addAll() {
	e.soon(readNode)
	e.resolver.ForgetRoutings()
	e.sweepDue = true
	e.resolver.Mark(slices.Collect(maps.Keys(e.resolver.Resources))...)
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
	if due[returnMemory] {
		debug.FreeOSMemory()
	}
}

// settled reports whether nothing is left to do or to wait for.
func (e *Engine) settled() bool {
	e.mu.Lock()
	pending := len(e.inputs) > 0 || e.lost || e.firewall || e.unread > 0 || e.resolver.Dirty()
	e.mu.Unlock()
	for _, w := range []what{readNode, readRouting} {
		pending = pending || e.alarms.Has(alarm{what: w})
	}
	for _, u := range e.resolver.Resources {
		pending = pending || len(u.Errs) > 0 && (u.In == nil || !u.In.Background) && !final(u)
	}
	return !pending
}

// start reads what bears our mark, once, before the first pass.
func (e *Engine) start() error {
	if e.started {
		return nil
	}
	if err := e.readFirewall(); err != nil {
		return fmt.Errorf("read the firewall: %w", err)
	}
	return e.startKernel()
}

// startKernel reads the kernel. The firewall was read before, where it can be read.
func (e *Engine) startKernel() error {
	held, err := e.Kernel.Inventory()
	if err != nil {
		return fmt.Errorf("read what bears our mark: %w", err)
	}
	e.holdMarked(held)
	node, err := e.readNode()
	if err != nil {
		return fmt.Errorf("read the node's own links and routes: %w", err)
	}
	e.resolver.SetNode(node)
	for k := range e.resolver.Resource(orphans).Held() {
		if k.Kind == netstate.KindForeignBridge {
			e.resolver.Bridged = append(e.resolver.Bridged, k)
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
		e.resolver.Resource(h.Owner).Hold(k)
		owners[h.Owner] = true
	}
	for o := range owners {
		e.resolver.HoldMarked(o)
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

// awaitPods leaves out, while nothing is known of the pods, the owners that need one, and
// reports whether there is any. No other owner gets their addresses and ports meanwhile.
func (e *Engine) awaitPods(batch map[netstate.Owner]bool) (waits bool) {
	if e.resolver.PodsKnown() {
		return false
	}
	for o := range batch {
		if u := e.resolver.Resources[o]; e.resolver.Unknown(u) {
			delete(batch, o)
			e.resolver.Remember(*u.In)
			e.tellUnknown(u)
		}
	}
	return e.resolver.PodsAwaited()
}

// tellUnknown reports an attachment without objects that waits for the container runtime to
// list the pods.
func (e *Engine) tellUnknown(u *resolve.Resource) {
	if !u.ForPod() || !u.Empty() {
		return
	}
	u.Problem = &compile.Problem{Reason: v1alpha1.ReasonPending, Message: "waits for the container runtime of node " + e.resolver.Node.Name + " to answer"}
	e.Reporter.Report(e.status(u))
}
