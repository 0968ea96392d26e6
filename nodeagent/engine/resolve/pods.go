package resolve

import (
	"slices"

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

// SetPods notes which pods came, went or got another namespace.
func (rv *Resolver) SetPods(running map[string]Pod) {
	if running == nil {
		return
	}
	for uid := range rv.pods {
		if _, runs := running[uid]; !runs {
			rv.facts.Set(named(podFact, uid), nil)
		}
	}
	for uid, pod := range running {
		rv.facts.Set(named(podFact, uid), pod)
	}
	rv.pods = running
	rv.facts.Set(fact{kind: podsFact}, true)
}

// PodsKnown reports whether SetPods told which pods run.
func (rv *Resolver) PodsKnown() bool { return rv.pods != nil }

// PodsAwaited reports whether an attachment that names a pod is to be built.
func (rv *Resolver) PodsAwaited() bool {
	for o := range rv.facts.PeekMembers(fact{kind: podsFact}) {
		if rv.Resources[o].Accepted() {
			return true
		}
	}
	return false
}

// ForPod reports whether an owner is an attachment that names a pod.
func (u *Resource) ForPod() bool {
	return u.In != nil && u.In.Attachment != nil && u.In.Attachment.Spec.Target.Pod != nil
}

// Unknown reports whether an owner is, or leads to, an attachment of a pod that
// is not known yet. The owner hears of the pods then.
func (rv *Resolver) Unknown(u *Resource) bool {
	if rv.pods != nil || !u.Accepted() {
		return false
	}
	unknown := u.ForPod()
	if u.In.Publish != nil {
		unknown = slices.ContainsFunc(rv.candidates(u), func(a netstate.Owner) bool { return rv.Resources[a].ForPod() })
	}
	if unknown {
		rv.facts.Get(u.Owner, fact{kind: podsFact})
	}
	return unknown
}
