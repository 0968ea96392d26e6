package engine

import (
	"fmt"
	"slices"
	"testing"

	"github.com/patchbay-dev/patchbay/api/v1alpha1"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
)

// podNSA is an attachment for a pod with its own name as UID.
func podNSA(name, pod, network string) *v1alpha1.NamespaceAttachment {
	a := nsa(name, network)
	a.Spec.Target = v1alpha1.AttachmentTarget{Pod: &v1alpha1.PodTarget{Name: pod}}
	a.Status.PodUID = pod
	return a
}

// runPod has one pod run, in a namespace of that name.
func (w *world) runPod(uid, netns string) {
	w.k.set.Add(netstate.Netns{Name: netns})
	w.e.SetPods([]Pod{{UID: uid, Namespace: "lab", Name: uid, Netns: netns}})
}

func (w *world) statusOf(name string) *v1alpha1.NamespaceAttachmentStatus {
	return w.r.status[own(nsa(name, ""))].Attachment
}

// TestNamesOutliveTheSandbox shows that the interfaces of a pod with two
// attachments bear the same names in its next sandbox, in whatever order they
// were made.
func TestNamesOutliveTheSandbox(t *testing.T) {
	w := newWorld(t)
	w.runPod("web", "cni-1")
	w.set(bnet("red", "10.1.0.0/24"))
	w.set(podNSA("a", "web", "blue"))
	w.set(podNSA("z", "web", "red"))
	w.turns(20)
	w.set(bnet("blue", "10.2.0.0/24"))
	w.turns(20)
	check := func(when string) {
		t.Helper()
		if a, z := w.statusOf("a").Interface, w.statusOf("z").Interface; a == nil || z == nil || a.Name != "net2" || z.Name != "net1" {
			t.Errorf("%s: lab/a has %v, lab/z has %v", when, a, z)
		}
	}
	check("first")
	w.runPod("web", "cni-2")
	w.turns(20)
	check("the sandbox was replaced")
	w.e.SetPods(nil)
	w.turns(20)
	w.runPod("web", "cni-3")
	w.turns(20)
	check("the pod was gone for a while")
}

// TestAddressOutlivesItsSubnetsLength shows that a network which grows or
// shrinks renumbers no attachment whose address is in it still.
func TestAddressOutlivesItsSubnetsLength(t *testing.T) {
	w := newWorld(t)
	w.set(bnet("red", "10.1.0.0/24", "fd00::/64"))
	w.set(nsa("a", "red"))
	w.turns(20)
	for _, next := range []struct{ subnet4, subnet6, want4, want6 string }{
		{"10.1.0.0/16", "fd00::/48", "10.1.0.2/16", "fd00::2/48"},
		{"10.1.0.0/28", "fd00::/120", "10.1.0.2/28", "fd00::2/120"},
	} {
		w.set(bnet("red", next.subnet4, next.subnet6))
		w.turns(20)
		want := []v1alpha1.Subnet{v1alpha1.Subnet(next.want4), v1alpha1.Subnet(next.want6)}
		if got := w.statusOf("a").Addresses; !slices.Equal(got, want) {
			t.Errorf("in %s and %s it has %v, want %v", next.subnet4, next.subnet6, got, want)
		}
		for _, s := range want {
			if k := (netstate.Key{Kind: netstate.KindAddress, Netns: "a", Link: "eth0", Name: string(s)}); w.k.set[k] == nil {
				t.Errorf("the kernel has no %s", s)
			}
		}
	}
}

// TestAddressIsReportedOnce shows that an address which both the record and the
// kernel have is one in the status of a pod that did not live through the
// agent's restart.
func TestAddressIsReportedOnce(t *testing.T) {
	w := newWorld(t)
	w.runPod("web", "cni-1")
	w.set(bnet("red", "10.1.0.0/24"))
	a := podNSA("a", "web", "red")
	a.Spec.Addresses = []v1alpha1.Subnet{"10.1.0.7/24"}
	w.set(a.DeepCopy())
	w.turns(20)
	a.Status.Addresses = w.statusOf("a").Addresses

	w.k.held = w.k.inventory()
	w.e = w.engine()
	w.set(bnet("red", "10.1.0.0/24"))
	w.set(a)
	w.e.Synced(true)
	w.turns(20)
	w.e.SetPods(nil)
	w.turns(20)
	if got := w.statusOf("a").Addresses; !slices.Equal(got, a.Spec.Addresses) {
		t.Errorf("status.addresses: %v", got)
	}
}

// TestBrakeWhilePodsAreNotKnown shows that many resources which are missing all at
// once stay under the brake although the container runtime does not answer.
func TestBrakeWhilePodsAreNotKnown(t *testing.T) {
	w := newWorld(t)
	w.e.Synced(true)
	w.set(bnet("red", "10.1.0.0/24"))
	w.set(podNSA("a", "web", "red"))
	var gone []netstate.Owner
	for i := range 2 * minSwept {
		n := nsa(fmt.Sprint("n", i), "red")
		w.set(n)
		gone = append(gone, own(n))
	}
	w.turns(20)
	before := len(w.k.set)
	w.e.Update(nil, gone)
	w.turns(20)
	if len(w.k.set) != before {
		t.Errorf("of %d objects %d are left", before, len(w.k.set))
	}
	w.e.SetPods(nil)
	w.turns(20)
	if len(w.k.set) != before || w.r.braked != 1 {
		t.Errorf("the runtime answered: of %d objects %d are left, and the brake was told %d times", before, len(w.k.set), w.r.braked)
	}
	w.later(w.e.SweepDelay)
	w.turns(20)
	if len(w.k.set) >= before/2 {
		t.Errorf("the brake is over: of %d objects %d are left", before, len(w.k.set))
	}
}

// TestSecondSubnetTooSmall shows that attachments which are up stay so when a
// subnet is added that has not enough for all, say what they lack, and get it when
// it is free.
func TestSecondSubnetTooSmall(t *testing.T) {
	w := newWorld(t)
	w.set(bnet("red", "10.0.0.0/24"))
	for i := range 4 {
		w.set(nsa(fmt.Sprint("a", i), "red"))
	}
	w.turns(20)
	w.set(bnet("red", "10.0.0.0/24", "fd00::/126"))
	w.turns(20)
	short := 0
	for i := range 4 {
		s := w.r.status[own(nsa(fmt.Sprint("a", i), ""))]
		if w.k.set[netstate.Link{Netns: fmt.Sprint("a", i), Name: "eth0"}.Key()] == nil || len(s.Attachment.Addresses) == 0 {
			t.Errorf("a%d is down: %s", i, s.Ready.Message)
		}
		if s.Ready.Reason == v1alpha1.ReasonAddressPoolExhausted {
			short++
		}
	}
	if short != 2 {
		t.Errorf("%d say that they lack an address, want 2", short)
	}
	w.e.Remove(yes(InputOf(nsa("a0", "red"))))
	w.e.Remove(yes(InputOf(nsa("a1", "red"))))
	w.turns(20)
	for _, name := range []string{"a2", "a3"} {
		if c := w.r.status[own(nsa(name, ""))].Ready; c.Status != "True" {
			t.Errorf("%s: %s %s", name, c.Reason, c.Message)
		}
	}
}
