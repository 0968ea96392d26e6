package controllers

import (
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/patchbay-dev/patchbay/api/v1alpha1"
	"github.com/patchbay-dev/patchbay/controllers/accept"
)

func TestProtect(t *testing.T) {
	for _, c := range []struct {
		name       string
		finalizers []string
		deleted    bool
		users      []string
		want       []string
	}{
		{"new", nil, false, nil, []string{InUseFinalizer}},
		{"protected", []string{InUseFinalizer}, false, nil, []string{InUseFinalizer}},
		{"somebody else's too", []string{"x"}, false, nil, []string{"x", InUseFinalizer}},
		{"deleted before it was protected", []string{"x"}, true, nil, []string{"x"}},
		{"in use", []string{InUseFinalizer}, true, []string{"lab/net1"}, []string{InUseFinalizer}},
		{"unused", []string{InUseFinalizer, "x"}, true, nil, []string{"x"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := network(c.finalizers...)
			if c.deleted {
				n.DeletionTimestamp = &metav1.Time{Time: noon}
			}
			if changed := protect(n, c.users); changed == slices.Equal(c.finalizers, c.want) {
				t.Errorf("changed %v", changed)
			}
			if diff := cmp.Diff(c.want, n.Finalizers); diff != "" {
				t.Errorf("want -, got +:\n%s", diff)
			}
		})
	}
}

func TestInUse(t *testing.T) {
	var list []v1alpha1.NamespaceAttachment
	for i := range 13 {
		a := attachment("w1", condition("Accepted", "True", "Accepted", "", 1))
		a.Name = fmt.Sprintf("net%02d", 13-i)
		list = append(list, *a)
	}
	list[12].Status.Conditions[0].Status = metav1.ConditionFalse // net01
	for _, c := range []struct {
		list []v1alpha1.NamespaceAttachment
		want string
	}{
		{list[10:], "stays until these attachments are deleted or moved: lab/net02, lab/net03"},
		{list, "stays until these attachments are deleted or moved: lab/net02, lab/net03, lab/net04, lab/net05, lab/net06, lab/net07, lab/net08, lab/net09, lab/net10, lab/net11 (and 2 more)"},
	} {
		if got := inUse(network(), usersOf(c.list)).Message; got != c.want {
			t.Errorf("\n got %s\nwant %s", got, c.want)
		}
	}
}

// TestNetworkStatus: an unchanged condition keeps its time, and a refused network
// says so first.
func TestNetworkStatus(t *testing.T) {
	n := network()
	n.Generation = 3
	sum := rollUp(3, []string{"w1"}, []v1alpha1.NodeBridge{bridge("w1", 3, "True", "Programmed", "all")})
	first := withStatus(n, accept.Network(n, accept.World{}), sum, nil).Status
	n.Status = first
	for i := range n.Status.Conditions {
		n.Status.Conditions[i].LastTransitionTime = metav1.NewTime(noon)
	}
	if diff := cmp.Diff(n.Status, withStatus(n, accept.Network(n, accept.World{}), sum, nil).Status); diff != "" {
		t.Errorf("again, want -, got +:\n%s", diff)
	}
	if n.Status.ObservedGeneration != 3 || len(n.Status.Conditions) != 2 || n.Status.Conditions[1].ObservedGeneration != 3 {
		t.Errorf("status: %+v", n.Status)
	}
	refused := withStatus(n, condition("Accepted", "False", "Unsupported", "no", 3), sum, []string{"lab/net1"}).Status
	if got, want := refused.Conditions[1], condition("Ready", "False", "Pending", "not accepted: no", 3); got.Message != want.Message || got.Status != want.Status {
		t.Errorf("Ready of a refused network: %+v", got)
	}
	if len(refused.Conditions) != 3 || refused.Conditions[2].Type != "InUse" {
		t.Errorf("conditions in use: %+v", refused.Conditions)
	}
	n.Status = refused
	if free := withStatus(n, accept.Network(n, accept.World{}), sum, nil).Status; len(free.Conditions) != 2 {
		t.Errorf("conditions when unused: %+v", free.Conditions)
	}
	n.Status = first
	if !urgent(n.Status.Conditions, refused.Conditions) || urgent(n.Status.Conditions, first.Conditions) {
		t.Error("what is urgent is not, or what is not is")
	}
}
