package engine

import (
	"slices"

	"github.com/patchbay-dev/patchbay/api/v1alpha1"
	"github.com/patchbay-dev/patchbay/nodeagent/compile"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
)

// Pod is a pod that runs on this node, as its container runtime says.
type Pod struct {
	UID, Namespace, Name string
	// Netns is the name of its network namespace under /run/netns.
	Netns string
	// HostNetwork pods have none.
	HostNetwork bool
	// Problem says why its namespace cannot be used; empty where it can.
	Problem string
}

// SetPods tells which pods run, all of them. Before the first call nothing is
// known of them, and the objects that were built for some stay as they are.
func (e *Engine) SetPods(list []Pod) {
	running := map[string]Pod{}
	for _, p := range list {
		running[p.UID] = p
	}
	e.mu.Lock()
	e.running = running
	e.mu.Unlock()
	e.signal()
}

// followPods notes which pods came, went or got another namespace.
func (e *Engine) followPods(running map[string]Pod) {
	if running == nil {
		return
	}
	for uid := range e.pods {
		if _, runs := running[uid]; !runs {
			e.facts.Set(named(podFact, uid), nil)
		}
	}
	for uid, pod := range running {
		e.facts.Set(named(podFact, uid), pod)
	}
	e.pods = running
	e.facts.Set(fact{kind: podsFact}, true)
}

// awaitPods leaves out, while nothing is known of the pods, the owners that need one, and
// reports whether there is any. No other owner gets their addresses and ports meanwhile.
func (e *Engine) awaitPods(batch map[netstate.Owner]bool) (waits bool) {
	if e.pods != nil {
		return false
	}
	for o := range batch {
		if u := e.units[o]; e.unknown(u) {
			delete(batch, o)
			e.remember(*u.in)
			e.tellUnknown(u)
		}
	}
	for o := range e.facts.PeekMembers(fact{kind: podsFact}) {
		waits = waits || e.units[o].accepted()
	}
	return waits
}

// forPod reports whether an owner is an attachment that names a pod.
func (u *unit) forPod() bool {
	return u.in != nil && u.in.Attachment != nil && u.in.Attachment.Spec.Target.Pod != nil
}

// unknown reports whether an owner is, or leads to, an attachment of a pod that
// is not known yet. The owner hears of the pods then.
func (e *Engine) unknown(u *unit) bool {
	if e.pods != nil || !u.accepted() {
		return false
	}
	unknown := u.forPod()
	if u.in.Publish != nil {
		unknown = slices.ContainsFunc(e.candidates(u), func(a netstate.Owner) bool { return e.units[a].forPod() })
	}
	if unknown {
		e.facts.Get(u.owner, fact{kind: podsFact})
	}
	return unknown
}

// tellUnknown reports an attachment that has no object yet and waits for its pod.
func (e *Engine) tellUnknown(u *unit) {
	if !u.forPod() || !u.Empty() {
		return
	}
	u.problem = &compile.Problem{Reason: v1alpha1.ReasonPending, Message: "waits for the container runtime of node " + e.node.Name + " to answer"}
	e.Reporter.Report(e.status(u))
}
