// Package kube feeds an engine from a cluster: what the API server says is bound
// to this node. It promises to hand over only what the controller has judged in
// its current generation, to keep the last judged state meanwhile, and never to
// take the absence of an object for its deletion before everything was listed.
package kube

import (
	"slices"
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/patchbay-dev/patchbay/api/v1alpha1"
	"github.com/patchbay-dev/patchbay/nodeagent/engine"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
)

// Engine is what a Feed hands objects to.
type Engine interface {
	Update(set []engine.Input, gone []netstate.Owner)
	Remove(engine.Input)
	Remember(v1alpha1.Object)
	Synced(bool)
}

// Feed turns the objects that a watch brings into the engine's inputs.
type Feed struct {
	Engine Engine

	mu sync.Mutex
	// networks are all there are; a network is built here while bridges has
	// this node's NodeBridge of it.
	networks map[string]*v1alpha1.BridgeNetwork
	bridges  map[string]*v1alpha1.NodeBridge
	// bound are the attachments and publishes of this node.
	bound map[netstate.Owner]v1alpha1.Object
	// given is what the engine has.
	given map[netstate.Owner]engine.Input
	// waiting are bound here, but were not judged since this process started. Their
	// kernel objects are not known, and so nothing may be swept.
	waiting map[netstate.Owner]bool
	listed  bool
}

// NewFeed makes a feed. It hands over nothing before Listed.
func NewFeed(e Engine) *Feed {
	return &Feed{
		Engine:   e,
		networks: map[string]*v1alpha1.BridgeNetwork{},
		bridges:  map[string]*v1alpha1.NodeBridge{},
		bound:    map[netstate.Owner]v1alpha1.Object{},
		given:    map[netstate.Owner]engine.Input{},
		waiting:  map[netstate.Owner]bool{},
	}
}

// Listed says that every object was Set once. The engine gets all of them
// together: only then does it know every address that is taken.
func (f *Feed) Listed() {
	f.mu.Lock()
	defer f.mu.Unlock()
	var all []engine.Input
	for _, in := range f.given {
		all = append(all, in)
	}
	slices.SortFunc(all, func(a, b engine.Input) int { return a.Owner().Compare(b.Owner()) })
	for o := range f.waiting {
		if b := f.bound[o]; b != nil {
			f.Engine.Remember(b)
		}
	}
	f.listed = true
	f.Engine.Update(all, nil)
	f.Engine.Synced(len(f.waiting) == 0)
}

// Set takes an object as the watch shows it.
func (f *Feed) Set(o v1alpha1.Object) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch o := o.(type) {
	case *v1alpha1.BridgeNetwork:
		f.networks[o.Name] = o
		f.network(o.Name)
	case *v1alpha1.NodeBridge:
		if canonical(o) {
			f.bridges[o.Spec.Network] = o
			f.network(o.Spec.Network)
		}
	default:
		in := engine.InputOf(o)
		f.bound[in.Owner()] = o
		f.judge(in)
	}
}

// Gone takes an object away. It is sure where the watch brought the deletion,
// or the object's binding to another node; it is not where the object was
// merely missing when everything was listed anew.
func (f *Feed) Gone(o v1alpha1.Object, sure bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch o := o.(type) {
	case *v1alpha1.BridgeNetwork:
		delete(f.networks, o.Name)
		f.remove(engine.InputOf(o), sure)
	case *v1alpha1.NodeBridge:
		// One of the same name that was made since is another.
		if b := f.bridges[o.Spec.Network]; !canonical(o) || b == nil || b.UID != o.UID {
			return
		}
		delete(f.bridges, o.Spec.Network)
		f.remove(engine.Input{Network: &v1alpha1.BridgeNetwork{ObjectMeta: metav1.ObjectMeta{Name: o.Spec.Network}}}, sure)
	default:
		in := engine.InputOf(o)
		delete(f.bound, in.Owner())
		f.remove(in, sure)
	}
}

// canonical is false for a NodeBridge that was made by hand.
func canonical(b *v1alpha1.NodeBridge) bool {
	return b.Name == v1alpha1.NodeBridgeName(b.Spec.Network, b.Spec.NodeName)
}

// Current returns the object that bears an owner's status; nil where there is
// none.
func (f *Feed) Current(o netstate.Owner) v1alpha1.Object {
	f.mu.Lock()
	defer f.mu.Unlock()
	if o.Kind != netstate.OwnerNetwork {
		return f.bound[o]
	}
	if b := f.bridges[o.Name]; b != nil {
		return b
	}
	return nil
}

// network judges a network that has a bridge here. The record of what this
// node holds is the NodeBridge's.
func (f *Feed) network(name string) {
	n, b := f.networks[name], f.bridges[name]
	if n == nil || b == nil {
		return
	}
	n = n.DeepCopy()
	n.Status.Conditions = append(slices.DeleteFunc(n.Status.Conditions, func(c metav1.Condition) bool {
		return c.Type != v1alpha1.ConditionAccepted
	}), b.Status.Conditions...)
	f.judge(engine.Input{Network: n, Repairs: b.Status.Repairs})
}

// judge hands an input over if the verdict on it is of its current generation,
// and something of it changed.
func (f *Feed) judge(in engine.Input) {
	o := in.Owner()
	old, known := f.given[o]
	accepted, ok := verdict(in)
	if !ok {
		if !known || old.Object().GetUID() != in.Object().GetUID() {
			f.wait(o, true)
		}
		return
	}
	in.Accepted = accepted
	f.wait(o, false)
	if known && same(old, in) {
		return
	}
	f.given[o] = in
	if f.listed {
		f.Engine.Update([]engine.Input{in}, nil)
	}
}

func (f *Feed) wait(o netstate.Owner, waits bool) {
	before := len(f.waiting)
	delete(f.waiting, o)
	if waits {
		f.waiting[o] = true
	}
	if f.listed && (before == 0) != (len(f.waiting) == 0) {
		f.Engine.Synced(len(f.waiting) == 0)
	}
}

func (f *Feed) remove(in engine.Input, sure bool) {
	o := in.Owner()
	f.wait(o, false)
	old, known := f.given[o]
	if known {
		in = old
	}
	delete(f.given, o)
	switch {
	case !f.listed:
	case sure:
		f.Engine.Remove(in)
	default:
		f.Engine.Update(nil, []netstate.Owner{o})
	}
}

// verdict is the Accepted condition, and whether it speaks of what the object
// is now.
func verdict(in engine.Input) (metav1.Condition, bool) {
	for _, c := range in.Conditions() {
		if c.Type == v1alpha1.ConditionAccepted {
			return c, c.Status != metav1.ConditionUnknown && c.ObservedGeneration == in.Object().GetGeneration()
		}
	}
	return metav1.Condition{}, false
}

// identity is what of an input the engine acts upon.
type identity struct {
	uid             types.UID
	generation      int64
	pod             string
	status          metav1.ConditionStatus
	reason, message string
}

func same(a, b engine.Input) bool { return identityOf(a) == identityOf(b) }

func identityOf(in engine.Input) identity {
	pod := ""
	if in.Attachment != nil {
		pod = in.Attachment.Status.PodUID
	}
	return identity{in.Object().GetUID(), in.Object().GetGeneration(), pod, in.Accepted.Status, in.Accepted.Reason, in.Accepted.Message}
}
