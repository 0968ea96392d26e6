package controllers

import (
	"errors"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/patchbay-dev/patchbay/api/v1alpha1"
)

func TestSumUp(t *testing.T) {
	accepted := condition("Accepted", "True", "Accepted", "bound", 3)
	ready := func(name, status, reason string) member {
		return memberOf(name, 3, []metav1.Condition{accepted, condition("Ready", status, reason, "because", 3)})
	}
	fine := ready("b", "True", "Programmed")
	for _, c := range []struct {
		name                    string
		members                 []member
		status, reason, message string
	}{
		{"nobody", nil, "False", "Pending", "none"},
		{"all", []member{fine, ready("a", "True", "Programmed")}, "True", "Programmed", "2 of 2"},
		{"no child yet", []member{fine, memberOf("a", 0, nil)}, "Unknown", "Pending", "1 of 2, waiting for 1; the first is a"},
		{"not accepted yet", []member{memberOf("a", 3, []metav1.Condition{condition("Accepted", "Unknown", "Pending", "", 3), condition("Ready", "Unknown", "Pending", "", 0)})},
			"Unknown", "Pending", "0 of 1, waiting for 1; the first is a"},
		{"not built yet", []member{ready("b", "Unknown", "Pending"), ready("a", "Unknown", "Rebinding")}, "Unknown", "Pending", "0 of 2, waiting for 2; the first is a"},
		{"not running", []member{fine, ready("a", "False", "PodNotRunning")}, "Unknown", "Pending", "1 of 2, waiting for 1; the first is a"},
		{"ready in another generation", []member{memberOf("a", 4, []metav1.Condition{accepted, condition("Ready", "True", "Programmed", "", 3)})},
			"Unknown", "Pending", "0 of 1, waiting for 1; the first is a"},
		{"refused", []member{fine, memberOf("c", 3, []metav1.Condition{condition("Accepted", "False", "Unsupported", "no", 3), condition("Ready", "True", "Programmed", "", 3)})},
			"False", "Unsupported", "c: no (1 of 2, 1 failing)"},
		{"failing before waiting", []member{ready("c", "False", "MACConflict"), ready("d", "False", "KernelError"), ready("a", "Unknown", "Pending")},
			"False", "MACConflict", "c: because (0 of 3, 2 failing)"},
		{"lost", []member{fine, ready("a", "Unknown", "NodeNotReady")}, "False", "NodeNotReady", "a: because (1 of 2, 1 failing)"},
		{"name taken", []member{nameConflict(child{Object: &v1alpha1.PortPublish{ObjectMeta: metav1.ObjectMeta{Name: "web-1"}}, name: "a"})}, "False", "NameConflict",
			"a: PortPublish web-1 exists and was not made for it; delete that or give it another name (0 of 1, 1 failing)"},
	} {
		t.Run(c.name, func(t *testing.T) {
			sum := sumUp(c.members, nil)
			counts := strings.Join([]string{digits(len(sum.ready)), digits(sum.count())}, " of ")
			got := sum.condition(counts, "none")
			if want := (metav1.Condition{Status: metav1.ConditionStatus(c.status), Reason: c.reason, Message: c.message}); got != want {
				t.Errorf("\n got %+v\nwant %+v", got, want)
			}
		})
	}
}

// TestSumUpOfRefusals: what the API server refuses to make or change is not taken
// for something that ends by itself, nor for done.
func TestSumUpOfRefusals(t *testing.T) {
	err := errors.Join(errors.New("create child b-1: exceeded quota"), errors.New("create child c-1: exceeded quota"))
	fine := memberOf("a", 3, []metav1.Condition{condition("Accepted", "True", "Accepted", "", 3), condition("Ready", "True", "Programmed", "", 3)})
	for want, members := range map[string][]member{
		"n, waiting for 1; the first is b; create child b-1: exceeded quota": {fine, memberOf("b", 0, nil)},
		"n; create child b-1: exceeded quota":                                {fine},
	} {
		if got := sumUp(members, err).condition("n", ""); got.Message != want || got.Status != metav1.ConditionUnknown || got.Reason != v1alpha1.ReasonPending {
			t.Errorf("%+v, want %s", got, want)
		}
	}
}

func digits(n int) string { return string(rune('0' + n)) }

// TestSumUpDistrustsAgents: what an agent says cannot make a parent's status
// invalid.
func TestSumUpDistrustsAgents(t *testing.T) {
	long := condition("Ready", "False", "KernelError", strings.Repeat("x", 32768), 3)
	m := memberOf("a", 3, []metav1.Condition{condition("Accepted", "True", "Accepted", "", 3), long})
	if got := sumUp([]member{m}, nil).condition("0 of 1", ""); len(got.Message) > 2000 {
		t.Errorf("a message of %d bytes", len(got.Message))
	}
}

func TestSpreadSummary(t *testing.T) {
	port := v1alpha1.PublishedPort{HostPort: 20080, Protocol: v1alpha1.TCP}
	many := make([]v1alpha1.PublishedPort, 64)
	for i := range many {
		many[i] = port
	}
	for _, c := range []struct {
		spec  v1alpha1.PortPublishSpec
		nodes int
		want  string
	}{
		{v1alpha1.PortPublishSpec{Ports: many}, 0, ""},
		{v1alpha1.PortPublishSpec{Ports: many[:1]}, 1, "1 node: *:20080/TCP"},
		{v1alpha1.PortPublishSpec{Ports: many[:1], HostAddresses: []v1alpha1.IPAddress{"192.0.2.1", "2001:db8::1"}}, 2, "2 nodes: 192.0.2.1:20080/TCP, [2001:db8::1]:20080/TCP"},
		{v1alpha1.PortPublishSpec{Ports: []v1alpha1.PublishedPort{{HostPort: 20000, HostPortEnd: 20010, Protocol: v1alpha1.UDP}}, Loopback: true}, 1, "1 node: *:20000-20010/UDP, 127.0.0.1:20000-20010/UDP"},
		{v1alpha1.PortPublishSpec{Ports: many}, 5000, "5000 nodes: " + strings.Repeat("*:20080/TCP, ", 9) + "+55"},
	} {
		if got := spreadSummary(c.spec, c.nodes); got != c.want || len(got) > 256 {
			t.Errorf("summary %q, want %q", got, c.want)
		}
	}
}
