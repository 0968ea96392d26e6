package kube

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/patchbay-dev/patchbay/api/v1alpha1"
	"github.com/patchbay-dev/patchbay/nodeagent/engine"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
)

// journal writes down what an engine is told.
type journal struct{ lines []string }

func (j *journal) Update(set []engine.Input, gone []netstate.Owner) {
	var words []string
	for _, in := range set {
		words = append(words, fmt.Sprintf("%s@%d=%s", in.Owner(), in.Object().GetGeneration(), in.Accepted.Status))
	}
	for _, o := range gone {
		words = append(words, "gone "+o.String())
	}
	j.lines = append(j.lines, "update "+strings.Join(words, " "))
}

func (j *journal) Remove(in engine.Input) { j.lines = append(j.lines, "remove "+in.Owner().String()) }
func (j *journal) Remember(o v1alpha1.Object) {
	j.lines = append(j.lines, "remember "+engine.InputOf(o).Owner().String())
}
func (j *journal) Synced(yes bool) { j.lines = append(j.lines, fmt.Sprintf("synced %v", yes)) }

func (j *journal) expect(t *testing.T, lines ...string) {
	t.Helper()
	if diff := cmp.Diff(lines, j.lines); diff != "" {
		t.Errorf("want -, got +:\n%s", diff)
	}
	j.lines = nil
}

func accepted(status metav1.ConditionStatus, generation int64) []metav1.Condition {
	return []metav1.Condition{{Type: v1alpha1.ConditionAccepted, Status: status, ObservedGeneration: generation}}
}

func attachment(uid string, generation int64, conditions []metav1.Condition) *v1alpha1.NamespaceAttachment {
	return &v1alpha1.NamespaceAttachment{
		ObjectMeta: metav1.ObjectMeta{Namespace: "lab", Name: "net1", UID: types.UID(uid), Generation: generation},
		Status:     v1alpha1.NamespaceAttachmentStatus{Conditions: conditions},
	}
}

func network(conditions []metav1.Condition) *v1alpha1.BridgeNetwork {
	return &v1alpha1.BridgeNetwork{ObjectMeta: metav1.ObjectMeta{Name: "red", Generation: 1}, Status: v1alpha1.BridgeNetworkStatus{Conditions: conditions}}
}

func bridge(uid string) *v1alpha1.NodeBridge {
	return &v1alpha1.NodeBridge{ObjectMeta: metav1.ObjectMeta{Name: "red.w1", UID: types.UID(uid)}, Spec: v1alpha1.NodeBridgeSpec{Network: "red", NodeName: "w1"}}
}

// TestListed: nothing is handed over before everything is known, and then all
// at once.
func TestListed(t *testing.T) {
	j := &journal{}
	f := NewFeed(j)
	f.Set(attachment("a", 1, accepted("True", 1)))
	f.Set(network(accepted("True", 1)))
	f.Set(bridge("b"))
	j.expect(t)
	f.Listed()
	j.expect(t, "update bnet:red@1=True nsa:lab/net1@1=True", "synced true")
}

// TestVerdicts: an object is handed over for what the controller said of its
// current generation, once.
func TestVerdicts(t *testing.T) {
	j := &journal{}
	f := NewFeed(j)
	f.Listed()
	j.expect(t, "update ", "synced true")
	f.Set(attachment("a", 1, accepted("Unknown", 1)))
	j.expect(t, "synced false")
	f.Set(attachment("a", 1, accepted("True", 1)))
	j.expect(t, "synced true", "update nsa:lab/net1@1=True")
	f.Set(attachment("a", 1, accepted("True", 1)))
	f.Set(attachment("a", 2, accepted("True", 1)))
	j.expect(t)
	f.Set(attachment("a", 2, accepted("False", 2)))
	j.expect(t, "update nsa:lab/net1@2=False")
}

// TestGone: an object that the watch brought as deleted is removed at once. An object
// that is merely missing from a new list is gone, and the engine may wait.
func TestGone(t *testing.T) {
	j := &journal{}
	f := NewFeed(j)
	a := attachment("a", 1, accepted("True", 1))
	f.Set(a)
	f.Listed()
	j.lines = nil
	f.Gone(a, true)
	j.expect(t, "remove nsa:lab/net1")
	f.Set(a)
	f.Gone(a, false)
	j.expect(t, "update nsa:lab/net1@1=True", "update gone nsa:lab/net1")
}

// TestUnjudgedKeepsSweepsBack until it is judged or gone.
func TestUnjudgedKeepsSweepsBack(t *testing.T) {
	j := &journal{}
	f := NewFeed(j)
	a := attachment("a", 2, accepted("True", 1))
	f.Set(a)
	f.Listed()
	j.expect(t, "remember nsa:lab/net1", "update ", "synced false")
	f.Gone(a, true)
	j.expect(t, "synced true", "remove nsa:lab/net1")
}

// TestNetwork: a network is here while this node has its NodeBridge, the latest
// of that name.
func TestNetwork(t *testing.T) {
	j := &journal{}
	f := NewFeed(j)
	f.Listed()
	j.lines = nil
	f.Set(network(accepted("True", 1)))
	j.expect(t)
	f.Set(bridge("first"))
	j.expect(t, "update bnet:red@1=True")
	f.Set(bridge("second"))
	f.Gone(bridge("first"), true)
	byHand := bridge("hand")
	byHand.Name = "mine"
	f.Set(byHand)
	f.Gone(byHand, true)
	j.expect(t)
	f.Gone(bridge("second"), true)
	j.expect(t, "remove bnet:red")
	f.Set(bridge("third"))
	j.expect(t, "update bnet:red@1=True")
	f.Gone(network(nil), true)
	j.expect(t, "remove bnet:red")
	if f.Current(netstate.Owner{Kind: netstate.OwnerNetwork, Name: "red"}) == nil {
		t.Error("the NodeBridge is gone with its network")
	}
}
