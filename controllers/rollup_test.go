package controllers

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/patchbay-dev/patchbay/api/v1alpha1"
)

func bridge(node string, generation int64, status, reason, message string) v1alpha1.NodeBridge {
	return v1alpha1.NodeBridge{
		Spec: v1alpha1.NodeBridgeSpec{Network: "red", NodeName: node},
		Status: v1alpha1.NodeBridgeStatus{
			ObservedGeneration: generation, Conditions: []metav1.Condition{condition("Ready", status, reason, message, generation)},
		},
	}
}

func TestRollUp(t *testing.T) {
	fine1, fine2 := bridge("w1", 3, "True", "Programmed", "all"), bridge("w2", 3, "True", "Programmed", "all")
	failing := func(node, reason, message string) v1alpha1.FailingNode {
		return v1alpha1.FailingNode{Node: node, Reason: reason, Message: message}
	}
	ready := func(status, reason, message string) metav1.Condition {
		return metav1.Condition{Status: metav1.ConditionStatus(status), Reason: reason, Message: message}
	}
	for _, c := range []struct {
		name     string
		selected []string
		bridges  []v1alpha1.NodeBridge
		ready    int32
		failing  []v1alpha1.FailingNode
		want     metav1.Condition
	}{
		{"no node", nil, []v1alpha1.NodeBridge{fine1}, 0, nil,
			ready("False", "Pending", "the network selects no node; label a node or change spec.nodeSelector")},
		{"all", []string{"w1", "w2"}, []v1alpha1.NodeBridge{fine2, fine1}, 2, nil, ready("True", "Programmed", "on all 2 nodes")},
		{"no longer selected", []string{"w1"}, []v1alpha1.NodeBridge{fine1, bridge("w2", 3, "False", "KernelError", "?")}, 1, nil, ready("True", "Programmed", "on all 1 nodes")},
		{"no NodeBridge yet", []string{"w2", "w1"}, nil, 0, nil, ready("Unknown", "Pending", "on 0 of 2 nodes, waiting for 2; the first is w1")},
		{"pending", []string{"w1", "w2"}, []v1alpha1.NodeBridge{fine1, bridge("w2", 3, "Unknown", "Pending", "")}, 1, nil,
			ready("Unknown", "Pending", "on 1 of 2 nodes, waiting for 1; the first is w2")},
		{"an older generation", []string{"w1", "w2"}, []v1alpha1.NodeBridge{fine1, bridge("w2", 2, "True", "Programmed", "all")}, 1, nil,
			ready("Unknown", "Pending", "on 1 of 2 nodes, waiting for 1; the first is w2")},
		{"an older failure", []string{"w1", "w2"}, []v1alpha1.NodeBridge{fine1, bridge("w2", 2, "False", "UplinkNotFound", "no eth1")}, 1, nil,
			ready("Unknown", "Pending", "on 1 of 2 nodes, waiting for 1; the first is w2")},
		{"failing", []string{"w1", "w2", "w3"}, []v1alpha1.NodeBridge{bridge("w3", 3, "False", "UplinkNotFound", "no eth1"), fine1}, 1,
			[]v1alpha1.FailingNode{failing("w3", "UplinkNotFound", "no eth1")},
			ready("False", "UplinkNotFound", "on 1 of 3 nodes, failing on 1; w3: no eth1")},
		{"lost", []string{"w1", "w2"}, []v1alpha1.NodeBridge{fine1, bridge("w2", 2, "Unknown", "NodeNotReady", "it burns")}, 1,
			[]v1alpha1.FailingNode{failing("w2", "NodeNotReady", "it burns")},
			ready("False", "NodeNotReady", "on 1 of 2 nodes, failing on 1; w2: it burns")},
		{"a long story", []string{"w1"}, []v1alpha1.NodeBridge{bridge("w1", 3, "False", "KernelError", strings.Repeat("é", 1000))}, 0,
			[]v1alpha1.FailingNode{failing("w1", "KernelError", strings.Repeat("é", 510)+"...")},
			ready("False", "KernelError", "on 0 of 1 nodes, failing on 1; w1: "+strings.Repeat("é", 510)+"...")},
	} {
		t.Run(c.name, func(t *testing.T) {
			want := rollup{counts: v1alpha1.NodeCounts{Selected: int32(len(c.selected)), Ready: c.ready}, failing: c.failing, ready: c.want}
			got := rollUp(3, c.selected, c.bridges)
			if diff := cmp.Diff(want, got, cmp.AllowUnexported(rollup{})); diff != "" {
				t.Errorf("want -, got +:\n%s", diff)
			}
		})
	}
}

func TestRollUpNamesTen(t *testing.T) {
	var selected []string
	var bridges []v1alpha1.NodeBridge
	for i := 20; i > 0; i-- {
		node := fmt.Sprintf("w%02d", i)
		selected, bridges = append(selected, node), append(bridges, bridge(node, 3, "False", "KernelError", "?"))
	}
	got := rollUp(3, selected, bridges)
	if len(got.failing) != 10 || got.failing[0].Node != "w01" || got.failing[9].Node != "w10" {
		t.Errorf("failing: %v", got.failing)
	}
	if want := "on 0 of 20 nodes, failing on 20; w01: ?"; got.ready.Message != want {
		t.Errorf("message %q, want %q", got.ready.Message, want)
	}
}

func TestTruncate(t *testing.T) {
	for _, c := range []struct {
		in    string
		limit int
		want  string
	}{
		{"short", 5, "short"},
		{"longer", 5, "lo..."},
		{"éééé", 6, "é..."},
		{"", 3, ""},
	} {
		if got := truncate(c.in, c.limit); got != c.want {
			t.Errorf("truncate(%q, %d) is %q, want %q", c.in, c.limit, got, c.want)
		}
	}
}

// TestRollUpBridgePorts names the fullest bridge, by a number that changes seldom.
func TestRollUpBridgePorts(t *testing.T) {
	full := func(node string, ports int32) v1alpha1.NodeBridge {
		b := bridge(node, 3, "True", "Programmed", "all")
		b.Status.Ports = ports
		return b
	}
	for _, c := range []struct {
		bridges []v1alpha1.NodeBridge
		want    string
	}{
		{[]v1alpha1.NodeBridge{full("w1", 0), full("w2", 0)}, "on all 2 nodes"},
		{[]v1alpha1.NodeBridge{full("w1", 0), full("w2", 910)}, "on all 2 nodes; on w2 900 or more of the 1,023 ports that a bridge takes are used: plan a second network"},
		{[]v1alpha1.NodeBridge{full("w1", 911), full("w2", 924)}, "on all 2 nodes; on w2 900 or more of the 1,023 ports that a bridge takes are used, and many on 1 more: plan a second network"},
		{[]v1alpha1.NodeBridge{full("w1", 1023), full("w2", 1023), full("w3", 1000)}, "on all 2 nodes; on w1 1000 or more of the 1,023 ports that a bridge takes are used, and many on 1 more: plan a second network"},
	} {
		if got := rollUp(3, []string{"w1", "w2"}, c.bridges).ready.Message; got != c.want {
			t.Errorf("%q, want %q", got, c.want)
		}
	}
}
