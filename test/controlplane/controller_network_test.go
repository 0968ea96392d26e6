package controlplane

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/patchbay-dev/patchbay/api/v1alpha1"
)

// bridges are the NodeBridges of a network, by node.
func (l *lab) bridges(n *v1alpha1.BridgeNetwork) map[string]*v1alpha1.NodeBridge {
	l.Helper()
	var list v1alpha1.NodeBridgeList
	if err := l.List(testContext(l.T), &list); err != nil {
		l.Fatal(err)
	}
	out := map[string]*v1alpha1.NodeBridge{}
	for i, b := range list.Items {
		if b.Spec.Network == n.Name {
			out[b.Spec.NodeName] = &list.Items[i]
		}
	}
	return out
}

// builtOn waits until a network has NodeBridges on just these nodes.
func (l *lab) builtOn(n *v1alpha1.BridgeNetwork, nodes ...string) map[string]*v1alpha1.NodeBridge {
	l.Helper()
	var got map[string]*v1alpha1.NodeBridge
	l.until("NodeBridges of "+n.Name, func() string {
		got = l.bridges(n)
		for _, node := range nodes {
			if got[node] == nil {
				return fmt.Sprintf("none on %s", node)
			}
		}
		if len(got) != len(nodes) {
			return fmt.Sprintf("%d, want %d", len(got), len(nodes))
		}
		return ""
	})
	return got
}

// TestControllerNodeBridges: they follow labels, nodes and networks.
func TestControllerNodeBridges(t *testing.T) {
	l := newLab(t, "bridges")
	w1, w2, w3 := l.node("w1", "ssd"), l.node("w2", "ssd"), l.node("w3")
	n := l.network("red", "ssd")
	all := l.network("blue")
	b := l.builtOn(n, w1.Name, w2.Name)[w1.Name]
	l.builtOn(all, w1.Name, w2.Name, w3.Name)
	if b.Name != "bridges-red.bridges-w1" || b.Labels["patchbay.dev/network-uid"] != string(n.UID) || len(b.OwnerReferences) > 0 {
		t.Errorf("NodeBridge %s: %+v", b.Name, b.ObjectMeta)
	}
	l.edit(w3, func() { w3.Labels["ssd"] = "yes" })
	l.builtOn(n, w1.Name, w2.Name, w3.Name)
	l.edit(w1, func() { delete(w1.Labels, "ssd") })
	l.builtOn(n, w2.Name, w3.Name)
	l.remove(w2)
	l.builtOn(n, w3.Name)
	l.remove(l.bridges(n)[w3.Name])
	w4 := l.node("w4", "ssd")
	l.builtOn(n, w3.Name, w4.Name)
	l.builtOn(all, w1.Name, w3.Name, w4.Name)
	l.edit(n, func() { n.Spec.NodeSelector.MatchLabels["ssd"] = "no" })
	l.builtOn(n)
	l.remove(all)
	l.builtOn(all)
}

func (l *lab) bridgeReady(b *v1alpha1.NodeBridge, generation int64, ready, reason string) {
	l.Helper()
	l.agent(b, map[string]any{"observedGeneration": generation}, ready, reason)
}

// TestControllerRollup: counts, failing nodes and Ready follow the NodeBridges.
func TestControllerRollup(t *testing.T) {
	l := newLab(t, "rollup")
	n := l.network("red", "ssd")
	l.wants(n, "Ready", "False Pending")
	w1, w2 := l.node("w1", "ssd").Name, l.node("w2", "ssd").Name
	b := l.builtOn(n, w1, w2)
	l.wants(n, "Ready", "Unknown Pending")
	if want := (v1alpha1.NodeCounts{Selected: 2}); n.Status.Nodes != want || n.Status.ObservedGeneration != 1 {
		t.Errorf("waiting: %+v", n.Status)
	}
	l.bridgeReady(b[w1], 1, "True", "Programmed")
	l.bridgeReady(b[w2], 1, "False", "UplinkNotFound")
	l.wants(n, "Ready", "False UplinkNotFound")
	failing := []v1alpha1.FailingNode{{Node: w2, Reason: "UplinkNotFound", Message: "because"}}
	if diff := gocmp.Diff(failing, n.Status.FailingNodes); diff != "" || n.Status.Nodes.Ready != 1 {
		t.Errorf("%+v, failing want -, got +:\n%s", n.Status.Nodes, diff)
	}
	if got, want := message(n, "Ready"), "on 1 of 2 nodes, failing on 1; rollup-w2: because"; got != want {
		t.Errorf("message %q, want %q", got, want)
	}
	l.bridgeReady(b[w2], 1, "True", "Programmed")
	l.wants(n, "Ready", "True Programmed")
	if want := (v1alpha1.NodeCounts{Selected: 2, Ready: 2}); n.Status.Nodes != want || len(n.Status.FailingNodes) > 0 {
		t.Errorf("ready: %+v", n.Status)
	}
	l.edit(n, func() { n.Spec.Isolation.Ports = true })
	l.wants(n, "Ready", "Unknown Pending")
	l.bridgeReady(b[w1], 2, "True", "Programmed")
	l.bridgeReady(b[w2], 2, "True", "Programmed")
	l.wants(n, "Ready", "True Programmed")
	if n.Status.ObservedGeneration != 2 {
		t.Errorf("observedGeneration %d", n.Status.ObservedGeneration)
	}
	l.edit(n, func() { n.Spec.IPAM = &v1alpha1.NetworkIPAM{Exclude: []v1alpha1.AddressRange{"10.68.0.9-10.68.0.1"}} })
	l.wants(n, "Accepted", "False Unsupported")
	l.wants(n, "Ready", "False Pending")
}

// TestControllerRollupLimit: a storm of NodeBridge updates costs a network one
// write per interval, and the last word is in it.
func TestControllerRollupLimit(t *testing.T) {
	l := newLab(t, "storm")
	var nodes []string
	for i := range 12 {
		nodes = append(nodes, l.node(fmt.Sprintf("w%02d", i)).Name)
	}
	n := l.network("red")
	b := l.builtOn(n, nodes...)
	l.wants(n, "Accepted", "True Accepted")
	began := time.Now()
	before := len(l.writes.of("bridgenetworks/" + n.Name + "/status"))
	for round := 0; time.Since(began) < 3*quick.RollupInterval; round++ {
		for i, node := range nodes {
			l.bridgeReady(b[node], 1, "False", []string{"UplinkNotFound", "SubnetOverlap"}[(round+i)%2])
		}
	}
	storm := time.Since(began)
	written := len(l.writes.of("bridgenetworks/"+n.Name+"/status")) - before
	if most := int(storm/quick.RollupInterval) + 1; written < 2 || written > most {
		t.Errorf("%d writes in %v, want 2 to %d", written, storm, most)
	}
	for _, node := range nodes {
		l.bridgeReady(b[node], 1, "False", "UplinkNotFound")
	}
	l.until("the last word", func() string {
		_ = l.Get(testContext(t), client.ObjectKeyFromObject(n), n)
		reasons := ""
		for _, f := range n.Status.FailingNodes {
			reasons += f.Reason + " "
		}
		if reasons != strings.Repeat("UplinkNotFound ", 10) {
			return reasons
		}
		return ""
	})
	if got := n.Status.FailingNodes; !slices.IsSortedFunc(got, func(a, b v1alpha1.FailingNode) int { return strings.Compare(a.Node, b.Node) }) {
		t.Errorf("failing nodes in disorder: %v", got)
	}
}

// TestControllerInUse: a network stays while accepted attachments use it, says
// so, takes no new ones, and goes with the last.
func TestControllerInUse(t *testing.T) {
	l := newLab(t, "inuse")
	w1 := l.node("w1").Name
	n, other := l.network("red"), l.network("blue")
	a1, a2 := l.attachment("net1", w1, n.Name), l.attachment("net2", w1, n.Name)
	l.bound(a1, w1)
	l.bound(a2, w1)
	l.until("finalizer", func() string {
		_ = l.Get(testContext(t), client.ObjectKeyFromObject(n), n)
		return gocmp.Diff([]string{"patchbay.dev/in-use"}, n.Finalizers)
	})
	if err := l.Delete(testContext(t), n, client.PropagationPolicy(metav1.DeletePropagationForeground)); err != nil {
		t.Fatal(err)
	}
	l.wants(n, "InUse", "True InUse")
	if got, want := message(n, "InUse"), "stays until these attachments are deleted or moved: inuse/net1, inuse/net2"; got != want {
		t.Errorf("message %q, want %q", got, want)
	}
	late := l.attachment("net3", w1, n.Name)
	l.wants(late, "Accepted", "False NetworkNotFound")
	l.edit(a1, func() { a1.Spec.MTU = ptr(int32(1400)) })
	l.until("edited", func() string {
		_ = l.Get(testContext(t), client.ObjectKeyFromObject(a1), a1)
		if a1.Status.Conditions[0].ObservedGeneration != 2 {
			return fmt.Sprint(a1.Status.Conditions)
		}
		return ""
	})
	if got := conditionsOf(a1)["Accepted"]; got != "True Accepted" {
		t.Errorf("a user that is edited: Accepted is %q", got)
	}
	l.remove(a1)
	l.until("one user less", func() string {
		_ = l.Get(testContext(t), client.ObjectKeyFromObject(n), n)
		return gocmp.Diff("stays until these attachments are deleted or moved: inuse/net2", message(n, "InUse"))
	})
	l.builtOn(n, w1)
	l.edit(a2, func() { a2.Spec.Network = other.Name })
	// There is no garbage collector here, so the test ends the foreground deletion.
	l.until("the finalizer goes", func() string {
		_ = l.Get(testContext(t), client.ObjectKeyFromObject(n), n)
		return gocmp.Diff([]string{"foregroundDeletion"}, n.Finalizers)
	})
	l.builtOn(n)
	l.wants(n, "InUse", "")
	l.edit(n, func() { n.Finalizers = nil })
	l.builtOn(other, w1)
	l.until("Event", func() string {
		return gocmp.Diff([]string{"Warning InUse"}, l.events(n))
	})
}

func ptr[T any](v T) *T { return &v }

// TestControllerDistrustsAgents: what one node's agent says of itself cannot
// keep a network's status from being written.
func TestControllerDistrustsAgents(t *testing.T) {
	l := newLab(t, "distrust")
	w1 := l.node("w1")
	n := l.network("red")
	b := l.builtOn(n, w1.Name)
	l.wants(n, "Accepted", "True Accepted")
	l.agent(b[w1.Name], map[string]any{"observedGeneration": int64(2)}, "False", strings.Repeat("A", 100))
	l.edit(n, func() { n.Spec.IPAM = &v1alpha1.NetworkIPAM{Exclude: []v1alpha1.AddressRange{"10.68.1.0/24"}} })
	l.until("judged", func() string {
		if err := l.Get(testContext(t), client.ObjectKeyFromObject(n), n); err != nil {
			return err.Error()
		}
		for _, c := range n.Status.Conditions {
			if c.Type == "Accepted" && c.ObservedGeneration == n.Generation {
				return ""
			}
		}
		return fmt.Sprintf("generation %d: %+v", n.Generation, n.Status)
	})
}

// TestControllerBadSelector: a verdict reads the same each time, however much of
// a selector is wrong; else every write would ask for the next.
func TestControllerBadSelector(t *testing.T) {
	l := newLab(t, "selector")
	w1 := l.node("w1").Name
	n := l.newNetwork("red")
	n.Spec.NodeSelector.MatchLabels = map[string]string{"a key": "x", "b key": "x", "c key": "x", "d key": "x"}
	l.make(n)
	a := l.attachment("net1", w1, n.Name)
	l.wants(a, "Accepted", "False NetworkNotFound")
	l.during(2*quick.RollupInterval, "no write asks for another", func() string {
		if got := l.writes.of("namespaceattachments/net1"); len(got) != 1 {
			return fmt.Sprint(got)
		}
		return ""
	})
}
