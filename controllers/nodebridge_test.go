package controllers

import (
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/patchbay-dev/patchbay/api/v1alpha1"
)

func network(finalizers ...string) *v1alpha1.BridgeNetwork {
	return &v1alpha1.BridgeNetwork{ObjectMeta: metav1.ObjectMeta{Name: "red", UID: "u", Finalizers: finalizers}}
}

func TestBridgeOf(t *testing.T) {
	w1 := alone(node("True", 0, 0))
	elsewhere := network()
	elsewhere.Spec.NodeSelector = &metav1.LabelSelector{MatchLabels: map[string]string{"a": "c"}}
	inUse, unused := network(InUseFinalizer, "x"), network("x")
	inUse.DeletionTimestamp, unused.DeletionTimestamp = &metav1.Time{Time: noon}, &metav1.Time{Time: noon}
	for _, c := range []struct {
		name string
		n    *v1alpha1.BridgeNetwork
		want bool
	}{
		{"selected", network(InUseFinalizer), true},
		{"no finalizer yet", network(), true},
		{"not selected", elsewhere, false},
		{"gone", nil, false},
		{"deleted and in use", inUse, true},
		{"deleted and unused", unused, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := bridgeOf(c.n, "w1", w1)
			if (got != nil) != c.want {
				t.Fatalf("got %v", got)
			}
			want := &v1alpha1.NodeBridge{
				ObjectMeta: metav1.ObjectMeta{Name: "red.w1", Labels: map[string]string{"patchbay.dev/network-uid": "u"}},
				Spec:       v1alpha1.NodeBridgeSpec{Network: "red", NodeName: "w1"},
			}
			if diff := cmp.Diff(want, got); c.want && diff != "" {
				t.Errorf("want -, got +:\n%s", diff)
			}
			if c.want && !same(got, want) {
				t.Error("not the same as itself")
			}
		})
	}
}

func TestSame(t *testing.T) {
	want := bridgeOf(network(), "w1", alone(node("True", 0, 0)))
	namesake, byHand, elsewhere := want.DeepCopy(), want.DeepCopy(), want.DeepCopy()
	namesake.Labels[networkUID] = "v"
	byHand.Labels = nil
	elsewhere.Spec.NodeName = "w2"
	for _, have := range []*v1alpha1.NodeBridge{namesake, byHand, elsewhere} {
		if same(have, want) {
			t.Errorf("taken for ours: %+v", have)
		}
	}
}

func TestPlaceName(t *testing.T) {
	long := strings.Repeat("n", 250)
	name, other := bridgeKey{"red", long}.name(), bridgeKey{"red", long + "x"}.name()
	if !regexp.MustCompile(`^red\.[0-9a-f]{64}$`).MatchString(name) || name == other {
		t.Errorf("%s and %s", name, other)
	}
	for _, p := range []bridgeKey{{"red", "w1.example.org"}, {strings.Repeat("r", 63), long}} {
		if errs := validation.IsDNS1123Subdomain(p.name()); len(errs) > 0 {
			t.Errorf("%s: %v", p.name(), errs)
		}
	}
	if got := (bridgeKey{"red", "w1.example.org"}).name(); got != "red.w1.example.org" {
		t.Error(got)
	}
}
