package controllers

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/patchbay-dev/patchbay/api/v1alpha1"
	"github.com/patchbay-dev/patchbay/controllers/accept"
)

// noon is a whole second, as all times of the API are.
var noon = time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)

func condition(kind, status, reason, message string, generation int64) metav1.Condition {
	return metav1.Condition{
		Type: kind, Status: metav1.ConditionStatus(status), Reason: reason, Message: message,
		ObservedGeneration: generation, LastTransitionTime: metav1.NewTime(noon),
	}
}

// attachment of generation 3, created at noon.
func attachment(nodeName string, conditions ...metav1.Condition) *v1alpha1.NamespaceAttachment {
	return &v1alpha1.NamespaceAttachment{
		ObjectMeta: metav1.ObjectMeta{Name: "net1", Namespace: "lab", Generation: 3, CreationTimestamp: metav1.NewTime(noon)},
		Status:     v1alpha1.NamespaceAttachmentStatus{NodeName: nodeName, Conditions: conditions},
	}
}

func acceptedOn(node string) verdict {
	return verdict{accepted: condition("Accepted", "True", "Accepted", "bound to node "+node, 3), binding: accept.Binding{Node: node}}
}

func refused(early bool) verdict {
	return verdict{accepted: condition("Accepted", "False", "NetworkNotFound", "no red", 3), binding: accept.Binding{Node: "w1"}, early: early}
}

func TestPatience(t *testing.T) {
	unjudged := condition("Accepted", "Unknown", "Pending", "", 0)
	for _, c := range []struct {
		name  string
		old   metav1.Condition
		v     verdict
		after time.Duration
		want  time.Duration
	}{
		{"new", unjudged, refused(true), 500 * time.Millisecond, 1500 * time.Millisecond},
		{"too old", unjudged, refused(true), 2 * time.Second, 0},
		{"our clock is behind", unjudged, refused(true), -time.Second, 3 * time.Second},
		{"our clock is wrong", unjudged, refused(true), -time.Hour, 0},
		{"refused for another reason", unjudged, refused(false), 0, 0},
		{"accepted", unjudged, acceptedOn("w1"), 0, 0},
		{"waits for its pod", unjudged, verdict{accepted: condition("Accepted", "Unknown", "Pending", "waiting", 3)}, 0, 2 * time.Second},
		{"judged before", condition("Accepted", "True", "Accepted", "", 2), refused(true), 0, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := patience(attachmentSubject(attachment("", c.old)), c.v, noon.Add(c.after), 2*time.Second)
			if max(got, 0) != c.want {
				t.Errorf("waits %v, want %v", got, c.want)
			}
		})
	}
}

func TestJudge(t *testing.T) {
	fine := acceptedOn("w1").accepted
	older := condition("Accepted", "True", "Accepted", "bound to node w1", 2)
	for _, c := range []struct {
		name     string
		nodeName string
		old      metav1.Condition
		v        verdict
		changed  bool
		node     string
	}{
		{"first", "", condition("Accepted", "Unknown", "Pending", "", 0), acceptedOn("w1"), true, "w1"},
		{"nothing new", "w1", fine, acceptedOn("w1"), false, "w1"},
		{"next generation", "w1", older, acceptedOn("w1"), true, "w1"},
		{"accepted and somehow not bound", "", fine, acceptedOn("w1"), true, "w1"},
		{"refused", "", condition("Accepted", "Unknown", "Pending", "", 0), refused(false), true, ""},
		{"refused and bound", "w1", fine, refused(false), true, "w1"},
		{"refused still", "w1", refused(false).accepted, refused(true), false, "w1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := attachment(c.nodeName, c.old)
			if got := judge(attachmentSubject(a), c.v); got != c.changed || a.Status.NodeName != c.node {
				t.Errorf("changed %v, bound to %q; want %v, %q", got, a.Status.NodeName, c.changed, c.node)
			}
			now := meta.FindStatusCondition(a.Status.Conditions, "Accepted")
			if kept := now.LastTransitionTime.Time.Equal(noon); kept != (c.old.Status == now.Status || now.Status == c.v.accepted.Status) {
				t.Errorf("lastTransitionTime %v", now.LastTransitionTime)
			}
		})
	}
}

// TestJudgePod: the pod of an attachment is written along with its node, and
// anew when it is another.
func TestJudgePod(t *testing.T) {
	fine := acceptedOn("w1")
	for _, c := range []struct {
		name          string
		have, verdict accept.Binding
		changed       bool
	}{
		{"first", accept.Binding{}, accept.Binding{Node: "w1", PodUID: "a"}, true},
		{"the same", accept.Binding{Node: "w1", PodUID: "a"}, accept.Binding{Node: "w1", PodUID: "a"}, false},
		{"another", accept.Binding{Node: "w1", PodUID: "a"}, accept.Binding{Node: "w1", PodUID: "b"}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := attachment(c.have.Node, fine.accepted)
			a.Status.PodUID = c.have.PodUID
			got := judge(attachmentSubject(a), verdict{accepted: fine.accepted, binding: c.verdict})
			if now := (accept.Binding{Node: a.Status.NodeName, PodUID: a.Status.PodUID}); got != c.changed || now != c.verdict {
				t.Errorf("changed %v to %v", got, now)
			}
		})
	}
}

func TestRebind(t *testing.T) {
	ready := condition("Ready", "True", "Programmed", "all", 2)
	for _, c := range []struct {
		name     string
		nodeName string
		observed int64
		v        verdict
		former   string
	}{
		{"not bound yet", "", 0, acceptedOn("w2"), ""},
		{"bound there", "w2", 2, acceptedOn("w2"), ""},
		{"refused", "w2", 2, refused(false), ""},
		{"bound elsewhere", "w1", 2, acceptedOn("w2"), "node w1"},
		{"was the sum of children", "", 2, acceptedOn("w2"), "children on nodes of their own"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := &v1alpha1.PortPublish{ObjectMeta: metav1.ObjectMeta{Generation: 3}, Status: v1alpha1.PortPublishStatus{
				NodeName: c.nodeName, ObservedGeneration: c.observed, Summary: "*:80", Published: []v1alpha1.PublishedStatus{{HostPort: 80}}, Conditions: []metav1.Condition{ready},
			}}
			before := p.DeepCopy()
			if got := rebind(publishSubject(p), c.v); got != (c.former != "") {
				t.Fatalf("rebound %v", got)
			}
			if c.former == "" {
				if diff := cmp.Diff(before, p); diff != "" {
					t.Errorf("not rebound, and yet:\n%s", diff)
				}
				return
			}
			ready := meta.FindStatusCondition(p.Status.Conditions, "Ready")
			want := v1alpha1.PortPublishStatus{NodeName: "w2", Conditions: []metav1.Condition{
				condition("Ready", "Unknown", "Rebinding", "moved from "+c.former+" to node w2; waiting for its agent", 3), c.v.accepted,
			}}
			want.Conditions[0].LastTransitionTime = ready.LastTransitionTime
			if diff := cmp.Diff(want, p.Status); diff != "" || ready.LastTransitionTime.Time.Equal(noon) {
				t.Errorf("at %v, want -, got +:\n%s", ready.LastTransitionTime, diff)
			}
		})
	}
}
