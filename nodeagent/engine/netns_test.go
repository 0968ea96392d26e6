package engine

import (
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/patchbay-dev/patchbay/api/v1alpha1"
	"github.com/patchbay-dev/patchbay/nodeagent/kernel"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
	"github.com/patchbay-dev/patchbay/nodeagent/plan"
)

// twoNames is a world with the namespace one, which is also named two, and its
// attachments by either name.
func twoNames(t *testing.T) (w *world, one, two *v1alpha1.NamespaceAttachment) {
	w = newWorld(t)
	w.k.second = map[string]string{"two": "one"}
	w.k.set.Add(netstate.Netns{Name: "one"}, netstate.Netns{Name: "two"})
	w.set(bnet("red", "10.0.0.0/24"))
	one, two = nsa("one", "red", "10.0.0.11/24"), nsa("two", "red", "10.0.0.12/24")
	one.Spec.Target.Netns.Lifecycle, two.Spec.Target.Netns.Lifecycle = v1alpha1.External, v1alpha1.External
	w.e.Synced(true)
	return w, one, two
}

func (w *world) expectConflict(o v1alpha1.Object, texts ...string) {
	w.t.Helper()
	c := w.r.status[own(o)].Ready
	if c.Reason != v1alpha1.ReasonInterfaceConflict {
		w.t.Errorf("%s is %s: %s", own(o), c.Reason, c.Message)
	}
	for _, text := range texts {
		if !strings.Contains(c.Message, text) {
			w.t.Errorf("%s: %q lacks %q", own(o), c.Message, text)
		}
	}
}

func (w *world) expectProgrammed(o v1alpha1.Object) {
	w.t.Helper()
	if c := w.r.status[own(o)].Ready; c.Status != metav1.ConditionTrue {
		w.t.Errorf("%s is %s: %s", own(o), c.Reason, c.Message)
	}
}

// TestNamespaceWithTwoNames: the second name is a conflict that names the first and
// its user, also after a restart, whatever it is named for and by; when the first
// goes, the second takes over.
func TestNamespaceWithTwoNames(t *testing.T) {
	w, one, two := twoNames(t)
	w.set(two)
	w.turns(20)
	w.expectProgrammed(two)
	w.set(one)
	w.turns(20)
	w.expectConflict(one, "spec.target.netns: network namespace one has the name two too, by which NamespaceAttachment lab/two uses it")
	// Not even with another interface, in another namespace of the cluster, or as peer.
	one.Namespace, one.Spec.Interface = "other", "eth7"
	w.set(one)
	peer := nsa("peer", "", "10.3.0.1/24")
	peer.Spec.PointToPoint = &v1alpha1.PointToPoint{Netns: &v1alpha1.NetnsEnd{Name: "one", Interface: "eth8", Lifecycle: v1alpha1.External}}
	w.set(peer)
	w.turns(20)
	w.expectConflict(one, "lab/two")
	w.expectConflict(peer, "spec.pointToPoint.netns", "lab/two")
	w.k.held = w.k.inventory()
	w.e = w.engine()
	w.k.appErr = func(s plan.Step) error { t.Errorf("changed after a restart: %s", s.Key); return nil }
	for _, o := range []v1alpha1.Object{bnet("red", "10.0.0.0/24"), one, two, peer} {
		w.set(o)
	}
	w.e.Synced(true)
	w.turns(20)
	w.k.appErr = nil
	w.expectProgrammed(two)
	w.expectConflict(one, "lab/two")
	w.e.Remove(yes(InputOf(two)))
	w.turns(20)
	if a, b := w.r.status[own(one)].Ready.Status, w.r.status[own(peer)].Ready.Status; a != "True" && b != "True" {
		t.Errorf("nobody took over: %s, %s", a, b)
	}
}

// TestPeersOfOneNamespace joins a namespace to itself by two names.
func TestPeersOfOneNamespace(t *testing.T) {
	w, _, _ := twoNames(t)
	a := nsa("a", "", "10.3.0.1/24")
	a.Spec.Target.Netns = &v1alpha1.NetnsTarget{Name: "one", Lifecycle: v1alpha1.External}
	a.Spec.PointToPoint = &v1alpha1.PointToPoint{Netns: &v1alpha1.NetnsEnd{Name: "two", Interface: "eth8", Lifecycle: v1alpha1.External}}
	w.set(a)
	w.turns(20)
	w.expectConflict(a, "spec.pointToPoint.netns: network namespace two has the name one too, by which this attachment uses it")
}

// TestSecondNameGetsItsOwnNamespace: a second name that comes to lead to another
// namespace is wired as soon as the kernel tells of it, as target and as peer.
func TestSecondNameGetsItsOwnNamespace(t *testing.T) {
	w, one, two := twoNames(t)
	join := nsa("join", "", "10.3.0.1/24")
	join.Spec.Target.Netns = &v1alpha1.NetnsTarget{Name: "one", Lifecycle: v1alpha1.External}
	join.Spec.PointToPoint = &v1alpha1.PointToPoint{Netns: &v1alpha1.NetnsEnd{Name: "two", Interface: "eth8", Lifecycle: v1alpha1.External}}
	join.Spec.Interface = "eth7"
	for _, o := range []v1alpha1.Object{one, two, join} {
		w.set(o)
	}
	w.turns(20)
	w.expectConflict(two, "lab/one")
	w.expectConflict(join, "this attachment")
	w.k.second = nil
	w.k.fn(kernel.Event{Key: netstate.Netns{Name: "two"}.Key()})
	w.turns(20)
	for _, o := range []v1alpha1.Object{one, two, join} {
		w.expectProgrammed(o)
	}
}

// TestPodByNamespaceName: the namespace of a pod, named by a bind mount.
func TestPodByNamespaceName(t *testing.T) {
	w, _, two := twoNames(t)
	p := nsa("p", "red", "10.0.0.13/24")
	p.Spec.Target = v1alpha1.AttachmentTarget{Pod: &v1alpha1.PodTarget{Name: "p"}}
	p.Status.PodUID = "uid"
	w.set(p)
	w.e.SetPods([]Pod{{UID: "uid", Namespace: "lab", Name: "p", Netns: "one"}})
	w.turns(20)
	w.expectProgrammed(p)
	w.set(two)
	w.turns(20)
	w.expectConflict(two, "has the name one too, by which NamespaceAttachment lab/p uses it")
}

// TestManagedNamespaceGetsAnotherName: a namespace that Patchbay made in the same
// process is known under the name that it gets later.
func TestManagedNamespaceGetsAnotherName(t *testing.T) {
	w, _, two := twoNames(t)
	delete(w.k.set, netstate.Netns{Name: "one"}.Key())
	delete(w.k.set, netstate.Netns{Name: "two"}.Key())
	one := nsa("one", "red", "10.0.0.11/24")
	one.Spec.Target.Netns.Lifecycle = v1alpha1.Managed
	w.set(one)
	w.set(two)
	w.turns(20)
	w.expectProgrammed(one)
	w.k.set.Add(netstate.Netns{Name: "two"})
	w.k.fn(kernel.Event{Key: netstate.Netns{Name: "two"}.Key()})
	w.turns(20)
	w.expectConflict(two, "has the name one too, by which NamespaceAttachment lab/one uses it")
}

// TestEventsUnderTheOtherName: what the kernel tells of a namespace under another name
// than the used one is about the used one; nothing is taken for a stray.
func TestEventsUnderTheOtherName(t *testing.T) {
	w, one, _ := twoNames(t)
	w.set(one)
	w.turns(20)
	link := netstate.Link{Netns: "one", Name: "eth0"}.Key()
	told := w.k.set[link].(netstate.Link)
	told.Netns = "two"
	w.k.appErr = func(s plan.Step) error { t.Errorf("changed for an event: %s", s.Key); return nil }
	w.k.fn(kernel.Event{Key: told.Key(), Object: told})
	w.turns(20)
	w.k.held = []netstate.Held{{Owner: own(one), Object: told}}
	w.e.everything()
	w.turns(20)
	w.k.appErr = nil
	w.k.remove(link)
	w.k.fn(kernel.Event{Key: told.Key(), Gone: true})
	w.turns(20)
	if w.k.set[link] == nil {
		t.Error("the link is not put back that was told gone under the other name")
	}
}
