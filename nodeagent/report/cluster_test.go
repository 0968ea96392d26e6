package report

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"

	"github.com/patchbay-dev/patchbay/api/v1alpha1"
	"github.com/patchbay-dev/patchbay/nodeagent/engine"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
	"github.com/patchbay-dev/patchbay/test/netlab"
)

var net1 = netstate.Owner{Kind: netstate.OwnerAttachment, Namespace: "lab", Name: "net1"}

// server has one attachment, and writes down the statuses that are applied to it.
type server struct {
	mu     sync.Mutex
	object *v1alpha1.NamespaceAttachment
	writes []string
	fail   int
}

func (s *server) Current(netstate.Owner) v1alpha1.Object {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.object == nil {
		return nil
	}
	return s.object.DeepCopy()
}

func (s *server) Apply(_ context.Context, _ v1alpha1.Object, status map[string]any) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fail > 0 {
		s.fail--
		return errors.New("not now")
	}
	var part v1alpha1.NamespaceAttachmentStatus
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(status, &part); err != nil {
		return err
	}
	ready := part.Conditions[0]
	s.writes = append(s.writes, fmt.Sprintf("%s %s %v", ready.Status, ready.Reason, part.Addresses))
	part.NodeName, part.Conditions = s.object.Status.NodeName, append(part.Conditions, s.object.Status.Conditions...)
	s.object.Status = part
	return nil
}

func (s *server) expect(t *testing.T, writes ...string) {
	t.Helper()
	netlab.Eventually(t, 10*time.Second, "the statuses that are written", func() error {
		s.mu.Lock()
		defer s.mu.Unlock()
		if diff := cmp.Diff(writes, s.writes); diff != "" {
			return fmt.Errorf("want -, got +:\n%s", diff)
		}
		return nil
	})
}

func start(t *testing.T, s *server) *Cluster {
	c := NewCluster(NewMetrics(prometheus.NewRegistry()), slog.New(slog.DiscardHandler))
	c.API = s
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- c.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	return c
}

func bound(uid string) *v1alpha1.NamespaceAttachment {
	return &v1alpha1.NamespaceAttachment{
		ObjectMeta: metav1.ObjectMeta{Namespace: "lab", Name: "net1", UID: types.UID(uid)},
		Status: v1alpha1.NamespaceAttachmentStatus{NodeName: "w1", Conditions: []metav1.Condition{
			{Type: "Accepted", Status: "True"}, {Type: "Ready", Status: "Unknown", Reason: "Pending"},
		}},
	}
}

func status(a *v1alpha1.NamespaceAttachment, ready metav1.ConditionStatus, reason string, addresses ...v1alpha1.Subnet) engine.Status {
	return engine.Status{
		Owner: net1, Input: engine.Input{Attachment: a},
		Ready:      metav1.Condition{Type: "Ready", Status: ready, Reason: reason},
		Attachment: &v1alpha1.NamespaceAttachmentStatus{NodeName: "w1", Addresses: addresses},
	}
}

// TestClusterWritesOnce: a status that settles soon is one write, and one that
// brings nothing new is none.
func TestClusterWritesOnce(t *testing.T) {
	a := bound("a")
	s := &server{object: a.DeepCopy()}
	c := start(t, s)
	c.Report(status(a, "False", "Pending"))
	c.Report(status(a, "True", "Programmed", "10.0.0.2/24"))
	s.expect(t, "True Programmed [10.0.0.2/24]")
	c.Report(status(a, "True", "Programmed", "10.0.0.2/24"))
	c.Seen(net1)
	c.Report(status(a, "True", "Programmed", "10.0.0.3/24"))
	s.expect(t, "True Programmed [10.0.0.2/24]", "True Programmed [10.0.0.3/24]")
}

// TestClusterRestores a status that another writer changed, but for NodeNotReady.
func TestClusterRestores(t *testing.T) {
	a := bound("a")
	s := &server{object: a.DeepCopy(), fail: 2}
	c := start(t, s)
	c.Report(status(a, "True", "Programmed"))
	s.expect(t, "True Programmed []")
	s.say(v1alpha1.ReasonNodeNotReady)
	c.Seen(net1)
	c.Report(status(a, "True", "Programmed", "10.0.0.2/24"))
	s.say("Pending")
	c.Seen(net1)
	s.expect(t, "True Programmed []", "True Programmed [10.0.0.2/24]")
}

func (s *server) say(reason string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.object.Status.Conditions[0].Status, s.object.Status.Conditions[0].Reason = "Unknown", reason
}

// TestClusterKnowsTheObject: a status is not written to another object of the
// same name.
func TestClusterKnowsTheObject(t *testing.T) {
	s := &server{object: bound("new")}
	c := start(t, s)
	c.Report(status(bound("old"), "True", "Programmed", "10.0.0.2/24"))
	c.Report(status(bound("new"), "True", "Programmed", "10.0.0.3/24"))
	s.expect(t, "True Programmed [10.0.0.3/24]")
}
