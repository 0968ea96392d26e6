package controllers

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/event"
)

// node with a Ready condition that changed and beat at these seconds after
// noon.
func node(status corev1.ConditionStatus, changed, beat int) *corev1.Node {
	at := func(seconds int) metav1.Time { return metav1.NewTime(noon.Add(time.Duration(seconds) * time.Second)) }
	return &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: "w1", CreationTimestamp: metav1.NewTime(noon), Labels: map[string]string{"a": "b"}},
		Status: corev1.NodeStatus{Conditions: []corev1.NodeCondition{
			{Type: corev1.NodeMemoryPressure, Status: corev1.ConditionFalse},
			{Type: corev1.NodeReady, Status: status, LastTransitionTime: at(changed), LastHeartbeatTime: at(beat)},
		}},
	}
}

func TestNodeHealth(t *testing.T) {
	silent := node(corev1.ConditionUnknown, 60, 0)
	silent.Status.Conditions[1].LastHeartbeatTime = metav1.Time{}
	bare := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "w1", CreationTimestamp: metav1.NewTime(noon)}}
	lost := func(status string) health {
		return health{lost: "node w1 has been Ready=" + status + " since 2026-01-02T12:01:00Z; bring it back, or delete it"}
	}
	for _, c := range []struct {
		name  string
		node  *corev1.Node
		after time.Duration
		want  health
	}{
		{"ready", node(corev1.ConditionTrue, 0, 0), time.Hour, health{}},
		{"just not ready", node(corev1.ConditionFalse, 60, 65), 70 * time.Second, health{recheck: 30 * time.Second}},
		{"not ready, heart beats", node(corev1.ConditionFalse, 60, 95), 100 * time.Second, lost("False")},
		{"silent", node(corev1.ConditionUnknown, 60, 10), 60 * time.Second, lost("Unknown")},
		{"silent for less", node(corev1.ConditionUnknown, 60, 30), 60 * time.Second, health{recheck: 10 * time.Second}},
		{"never a heartbeat", silent, 70 * time.Second, health{recheck: 30 * time.Second}},
		{"never ready", bare, 30 * time.Second, health{recheck: 10 * time.Second}},
		{"still never ready", bare, 40 * time.Second, health{lost: "node w1 has never said that it is Ready; bring it up, or delete it"}},
		{"gone", nil, 0, health{lost: "node w1 was deleted"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := nodeHealth("w1", c.node, noon.Add(c.after), 40*time.Second); got != c.want {
				t.Errorf("\n got %+v\nwant %+v", got, c.want)
			}
		})
	}
}

func TestAnswerFor(t *testing.T) {
	programmed := condition("Ready", "True", "Programmed", "all", 2)
	lost := condition("Ready", "Unknown", "NodeNotReady", "it burns", 2)
	pending := condition("Ready", "Unknown", "Pending", "node w1 is back; waiting for its agent", 2)
	for _, c := range []struct {
		name    string
		ready   metav1.Condition
		lost    string
		want    metav1.Condition
		changed bool
	}{
		{"all is well", programmed, "", programmed, false},
		{"lost", programmed, "it burns", lost, true},
		{"lost still", lost, "it burns", lost, false},
		{"lost in another way", lost, "it drowns", condition("Ready", "Unknown", "NodeNotReady", "it drowns", 2), true},
		{"a late agent", condition("Ready", "False", "KernelError", "?", 2), "it burns", lost, true},
		{"back", lost, "", pending, true},
		{"back still", pending, "", pending, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			accepted := condition("Accepted", "True", "Accepted", "", 2)
			a := attachment("w1", accepted, c.ready)
			if got := answerFor(nodeSubject{a, "w1"}, health{lost: c.lost}); got != c.changed {
				t.Errorf("changed %v", got)
			}
			conditions := a.Status.Conditions
			if kept := conditions[1].LastTransitionTime.Time.Equal(noon); kept != (c.ready.Status == c.want.Status) {
				t.Errorf("lastTransitionTime %v", conditions[1].LastTransitionTime)
			}
			conditions[1].LastTransitionTime = c.want.LastTransitionTime
			if diff := cmp.Diff([]metav1.Condition{accepted, c.want}, conditions); diff != "" {
				t.Errorf("want -, got +:\n%s", diff)
			}
		})
	}
}

// TestNodeChanged: heartbeats, and all that is not cached, are no event.
func TestNodeChanged(t *testing.T) {
	base := node(corev1.ConditionTrue, 0, 0)
	labelled := base.DeepCopy()
	labelled.Labels["c"] = "d"
	for _, c := range []struct {
		name string
		now  *corev1.Node
		want bool
	}{
		{"resync", base, false},
		{"heartbeat", node(corev1.ConditionTrue, 0, 10), false},
		{"not ready", node(corev1.ConditionFalse, 10, 10), true},
		{"not ready and back", node(corev1.ConditionTrue, 10, 10), true},
		{"label", labelled, true},
		{"no condition", &corev1.Node{ObjectMeta: base.ObjectMeta}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := nodeChanged.Update(event.UpdateEvent{ObjectOld: base, ObjectNew: c.now}); got != c.want {
				t.Errorf("changed %v", got)
			}
		})
	}
}

func TestSlimNode(t *testing.T) {
	full := node(corev1.ConditionTrue, 0, 0)
	full.UID, full.ResourceVersion = "u", "7"
	full.Annotations = map[string]string{"large": "x"}
	full.Status.Images = []corev1.ContainerImage{{Names: []string{"large"}}}
	slim, err := slimNode(full)
	if err != nil {
		t.Fatal(err)
	}
	want := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: "w1", UID: "u", ResourceVersion: "7", Labels: full.Labels, CreationTimestamp: full.CreationTimestamp},
		Status:     corev1.NodeStatus{Conditions: full.Status.Conditions[1:]},
	}
	if diff := cmp.Diff(want, slim); diff != "" {
		t.Errorf("want -, got +:\n%s", diff)
	}
}
