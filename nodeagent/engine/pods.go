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
// known of them, and what was built for some stays as it is.
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

// followPods adds the attachments whose pod came, went or got another namespace.
func (e *Engine) followPods(running map[string]Pod, batch map[netstate.Owner]bool) {
	if running == nil {
		return
	}
	for o, u := range e.units {
		uid, ok := u.pod()
		if ok && (e.pods == nil || e.pods[uid] != running[uid]) {
			batch[o] = true
			if e.pods == nil {
				// Their publishes waited too.
				e.add(batch, e.dependents(o))
			}
		}
	}
	e.pods = running
}

func (e *Engine) add(batch map[netstate.Owner]bool, owners []netstate.Owner) {
	for _, o := range owners {
		batch[o] = true
	}
}

// pod is the UID of the pod that an attachment is for.
func (u *unit) pod() (uid string, ok bool) {
	if u.in == nil || u.in.Attachment == nil || u.in.Attachment.Spec.Target.Pod == nil {
		return "", false
	}
	return u.in.Attachment.Status.PodUID, true
}

// awaitPods leaves out, while nothing is known of the pods, what is for some, and
// reports whether there is any. No other owner gets its addresses and ports meanwhile.
func (e *Engine) awaitPods(batch map[netstate.Owner]bool) (waits bool) {
	if e.pods != nil {
		return false
	}
	for o, u := range e.units {
		_, forPod := u.pod()
		waits = waits || forPod && u.accepted()
		if !batch[o] || !e.unknown(u) {
			continue
		}
		delete(batch, o)
		e.remember(*u.in)
		if forPod {
			e.tellUnknown(u)
		}
	}
	return waits
}

// unknown reports whether an owner is, or leads to, an attachment of a pod of which
// nothing is known yet.
func (e *Engine) unknown(u *unit) bool {
	if e.pods != nil || !u.accepted() {
		return false
	}
	if u.in.Publish == nil {
		_, forPod := u.pod()
		return forPod
	}
	return slices.ContainsFunc(e.candidates(u.in.Publish), func(a *unit) bool {
		_, forPod := a.pod()
		return forPod
	})
}

// tellUnknown reports an attachment of which nothing is built and nothing is
// known.
func (e *Engine) tellUnknown(u *unit) {
	if !u.Empty() {
		return
	}
	u.problem = &compile.Problem{Reason: v1alpha1.ReasonPending, Message: "waits for the container runtime of node " + e.node.Name + " to answer"}
	e.Reporter.Report(e.status(u))
}
