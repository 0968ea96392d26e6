package controllers

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/patchbay-dev/patchbay/api/v1alpha1"
)

func TestTransitions(t *testing.T) {
	ready := func(status, reason string) metav1.Condition { return condition("Ready", status, reason, "", 1) }
	accepted := func(status, reason string) metav1.Condition {
		return condition("Accepted", status, reason, "", 1)
	}
	pending := ready("Unknown", "Pending")
	for _, c := range []struct {
		name     string
		old, now metav1.Condition
		want     []string
	}{
		{"resync", ready("False", "KernelError"), ready("False", "KernelError"), nil},
		{"first ready", pending, ready("True", "Programmed"), []string{"Normal Ready Programmed"}},
		{"ready with another note", ready("True", "Programmed"), ready("True", "HairpinUnavailable"), nil},
		{"fails", ready("True", "Programmed"), ready("False", "KernelError"), []string{"Warning Ready KernelError"}},
		{"fails otherwise", ready("False", "NetnsNotFound"), ready("False", "KernelError"), []string{"Warning Ready KernelError"}},
		{"repaired", ready("False", "KernelError"), ready("True", "Programmed"), []string{"Normal Ready Programmed"}},
		{"waits", ready("True", "Programmed"), ready("False", "Pending"), nil},
		{"moves", ready("True", "Programmed"), ready("Unknown", "Rebinding"), nil},
		{"node lost", ready("True", "Programmed"), ready("Unknown", "NodeNotReady"), []string{"Warning Ready NodeNotReady"}},
		{"node lost early", pending, ready("Unknown", "NodeNotReady"), []string{"Warning Ready NodeNotReady"}},
		{"node back", ready("Unknown", "NodeNotReady"), pending, nil},
		{"first accepted", accepted("Unknown", "Pending"), accepted("True", "Accepted"), nil},
		{"refused", accepted("Unknown", "Pending"), accepted("False", "NodeNotFound"), []string{"Warning Accepted NodeNotFound"}},
		{"accepted again", accepted("False", "NodeNotFound"), accepted("True", "Accepted"), []string{"Normal Accepted Accepted"}},
		{"in use", pending, condition("InUse", "True", "InUse", "", 1), []string{"Warning InUse InUse"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var got []string
			for _, e := range transitions([]metav1.Condition{c.old}, []metav1.Condition{c.now}) {
				got = append(got, e.eventType+" "+e.condition.Type+" "+e.condition.Reason)
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("want -, got +:\n%s", diff)
			}
		})
	}
}

func TestRepairs(t *testing.T) {
	bridge := func(n int64) *v1alpha1.NodeBridge {
		return &v1alpha1.NodeBridge{Status: v1alpha1.NodeBridgeStatus{Repairs: n}}
	}
	for _, c := range []struct {
		old, now any
		want     int64
	}{
		{bridge(0), bridge(1), 1}, {bridge(3), bridge(5), 5}, {bridge(5), bridge(5), 0}, {bridge(5), bridge(0), 0},
		{&v1alpha1.BridgeNetwork{}, &v1alpha1.BridgeNetwork{}, 0},
	} {
		if got := repairs(c.old, c.now); got != c.want {
			t.Errorf("of %v and %v: %d, want %d", c.old, c.now, got, c.want)
		}
	}
}
