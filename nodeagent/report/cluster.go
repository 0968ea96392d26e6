package report

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/util/workqueue"

	"github.com/patchbay-dev/patchbay/api/v1alpha1"
	"github.com/patchbay-dev/patchbay/nodeagent/engine"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
	"github.com/patchbay-dev/patchbay/nodeagent/plan"
)

// API is what a Cluster reporter needs of an API server.
type API interface {
	// Current returns the object that bears an owner's status, as the watch
	// shows it: for a network this node's NodeBridge. Nil where there is none.
	Current(netstate.Owner) v1alpha1.Object
	// Apply writes the agent's part of an object's status by server-side apply.
	// It is no error that the object is gone, or another of the same name.
	Apply(ctx context.Context, o v1alpha1.Object, status map[string]any) error
}

// Cluster reports into an API server. A status is written when it differs from
// what the watch shows, by several workers, and never over NodeNotReady: the
// controller takes that back itself.
type Cluster struct {
	API     API
	Metrics *Metrics
	Log     *slog.Logger

	queue workqueue.TypedRateLimitingInterface[netstate.Owner]

	mu     sync.Mutex
	wanted map[netstate.Owner]engine.Status
}

const (
	writers = 8
	// settleTime is how long a status that is not Ready waits for a better one: an
	// object that is built in several passes, or repaired at once, costs one write.
	settleTime = 500 * time.Millisecond
	// repairPause is how long a count of repairs waits for more: a program that undoes
	// our work again and again must not cost a write each time.
	repairPause = 2 * time.Second
)

// NewCluster makes a reporter; it writes while Run runs.
func NewCluster(m *Metrics, log *slog.Logger) *Cluster {
	limiter := workqueue.NewTypedItemExponentialFailureRateLimiter[netstate.Owner](50*time.Millisecond, time.Minute)
	return &Cluster{
		Metrics: m, Log: log,
		queue:  workqueue.NewTypedRateLimitingQueue(limiter),
		wanted: map[netstate.Owner]engine.Status{},
	}
}

// Run writes until the context ends.
func (c *Cluster) Run(ctx context.Context) error {
	var group sync.WaitGroup
	for range writers {
		group.Go(func() {
			for c.next(ctx) {
			}
		})
	}
	<-ctx.Done()
	c.queue.ShutDown()
	group.Wait()
	return nil
}

func (c *Cluster) next(ctx context.Context) bool {
	o, shutdown := c.queue.Get()
	if shutdown {
		return false
	}
	defer c.queue.Done(o)
	if err := c.write(ctx, o); err != nil && ctx.Err() == nil {
		c.Log.Warn("write status; trying again", "owner", o.String(), "err", err)
		c.queue.AddRateLimited(o)
		return true
	}
	c.queue.Forget(o)
	return true
}

// Report takes a status to write.
func (c *Cluster) Report(s engine.Status) {
	c.Metrics.ready(s.Owner, s.Ready.Status == metav1.ConditionTrue)
	c.mu.Lock()
	old, known := c.wanted[s.Owner]
	c.wanted[s.Owner] = s
	c.mu.Unlock()
	if known && sameStatus(old, s) {
		return
	}
	switch {
	case known && onlyRepaired(old, s):
		c.queue.AddAfter(s.Owner, repairPause)
	case s.Ready.Status == metav1.ConditionTrue:
		c.queue.Add(s.Owner)
	default:
		c.queue.AddAfter(s.Owner, settleTime)
	}
}

// onlyRepaired reports whether two statuses differ by the count of repairs alone.
func onlyRepaired(old, now engine.Status) bool {
	if old.Bridge == nil || now.Bridge == nil || old.Bridge.Repairs == now.Bridge.Repairs {
		return false
	}
	b := *now.Bridge
	b.Repairs = old.Bridge.Repairs
	now.Bridge = &b
	return sameStatus(old, now)
}

// Seen says that the watch brought an object's change.
func (c *Cluster) Seen(o netstate.Owner) { c.queue.Add(o) }

// Removed forgets the status that was to be written.
func (c *Cluster) Removed(o netstate.Owner) {
	c.Metrics.removed(o)
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.wanted, o)
}

// Changed counts.
func (c *Cluster) Changed(_ netstate.Owner, line plan.Line, drift bool) {
	c.Metrics.changed(line, drift)
}

// Braked counts. An agent may not create Events, and where the API server has
// lost its objects there is nothing to hang one on.
func (c *Cluster) Braked(int, int, time.Time) { c.Metrics.braked() }

// Keep keeps nothing: after a restart, the sweep removes what no resource wants.
func (c *Cluster) Keep(netstate.Owner, []netstate.Key) {}

func (c *Cluster) write(ctx context.Context, o netstate.Owner) error {
	now := c.API.Current(o)
	c.mu.Lock()
	s, ok := c.wanted[o]
	c.mu.Unlock()
	if !ok || now == nil || recreated(s, now) {
		return nil
	}
	held := readyOf(now)
	if len(held) > 0 && held[0].Reason == v1alpha1.ReasonNodeNotReady {
		return nil
	}
	want := statusOf(s, held)
	if equality.Semantic.DeepEqual(agentPart(now.StatusPointer(), held), want) {
		return nil
	}
	fields, err := runtime.DefaultUnstructuredConverter.ToUnstructured(want)
	if err != nil {
		return fmt.Errorf("encode status: %w", err)
	}
	c.Metrics.statusWrite(o)
	return c.API.Apply(ctx, now, fields)
}

// sameStatus reports whether a status brings nothing new. It compares with the former
// status, since the watch may not show yet that it was written.
func sameStatus(a, b engine.Status) bool {
	return a.Ready == b.Ready && a.Input.Object().GetUID() == b.Input.Object().GetUID() &&
		equality.Semantic.DeepEqual([]any{a.Bridge, a.Attachment, a.Publish}, []any{b.Bridge, b.Attachment, b.Publish})
}

// recreated reports whether the status is of an earlier object of the same name. A
// network's status is never: its NodeBridge goes with the network.
func recreated(s engine.Status, now v1alpha1.Object) bool {
	return s.Input.Network == nil && s.Input.Object().GetUID() != now.GetUID()
}

// readyOf returns an object's Ready condition, if it has one.
func readyOf(o v1alpha1.Object) []metav1.Condition {
	if c := meta.FindStatusCondition(*o.Conditions(), v1alpha1.ConditionReady); c != nil {
		return []metav1.Condition{*c}
	}
	return nil
}

// statusOf returns a status of the engine as the API has it. The condition keeps its
// transition time while its status stays.
func statusOf(s engine.Status, before []metav1.Condition) any {
	ready := slices.Clone(before)
	meta.SetStatusCondition(&ready, s.Ready)
	switch {
	case s.Bridge != nil:
		return agentPart(s.Bridge, ready)
	case s.Attachment != nil:
		return agentPart(s.Attachment, ready)
	}
	return agentPart(s.Publish, ready)
}

// agentPart returns the fields of a status that the agent writes, with these
// conditions.
func agentPart(status any, conditions []metav1.Condition) any {
	switch s := status.(type) {
	case *v1alpha1.NodeBridgeStatus:
		out := *s
		out.Conditions = conditions
		return &out
	case *v1alpha1.NamespaceAttachmentStatus:
		out := *s
		out.NodeName, out.PodUID, out.Pods, out.Conditions = "", "", nil, conditions
		return &out
	case *v1alpha1.PortPublishStatus:
		out := *s
		out.NodeName, out.Conditions = "", conditions
		return &out
	}
	return nil
}
