package report

import (
	"log/slog"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/patchbay-dev/patchbay/api/v1alpha1"
	"github.com/patchbay-dev/patchbay/nodeagent/engine"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
	"github.com/patchbay-dev/patchbay/nodeagent/plan"
)

// Local reports into a Store. It is the engine's reporter on a node without a
// cluster.
type Local struct {
	Store   *Store
	Metrics *Metrics
	Log     *slog.Logger

	// conditions as last reported, for their transition times.
	conditions map[netstate.Owner][]metav1.Condition
}

// Report writes the resource's record if its status changed.
func (l *Local) Report(s engine.Status) {
	if l.conditions == nil {
		l.conditions = map[netstate.Owner][]metav1.Condition{}
	}
	before, ok := l.conditions[s.Owner]
	if !ok {
		before = s.Input.Conditions()
	}
	o, conditions := WithStatus(s, before)
	l.conditions[s.Owner] = conditions
	l.Metrics.ready(s.Owner, s.Ready.Status == metav1.ConditionTrue)
	if err := l.Store.Save(o); err != nil {
		l.Log.Error("write record", "owner", s.Owner.String(), "err", err)
	}
}

// Keep writes the keys beside the resource's record.
func (l *Local) Keep(o netstate.Owner, keys []netstate.Key) {
	if err := l.Store.Keep(o, keys); err != nil {
		l.Log.Error("write the keys of a record", "owner", o.String(), "err", err)
	}
}

// Removed deletes the record.
func (l *Local) Removed(o netstate.Owner) {
	l.Metrics.removed(o)
	delete(l.conditions, o)
	if err := l.Store.Remove(o); err != nil {
		l.Log.Error("remove record", "owner", o.String(), "err", err)
	}
}

// Changed counts.
func (l *Local) Changed(_ netstate.Owner, line plan.Line, drift bool) { l.Metrics.changed(line, drift) }

// Braked counts.
func (l *Local) Braked(int, int, time.Time) { l.Metrics.braked() }

// WithStatus returns the resource of a status with that status filled in, and
// its conditions. Those keep the transition time they had while their status
// stays.
func WithStatus(s engine.Status, before []metav1.Condition) (v1alpha1.Object, []metav1.Condition) {
	conditions := slices.Clone(before)
	meta.SetStatusCondition(&conditions, s.Input.Accepted)
	meta.SetStatusCondition(&conditions, s.Ready)
	o := s.Input.Object().DeepCopyObject().(v1alpha1.Object)
	switch o := o.(type) {
	case *v1alpha1.BridgeNetwork:
		o.Status = v1alpha1.BridgeNetworkStatus{ObservedGeneration: s.Bridge.ObservedGeneration, Nodes: v1alpha1.NodeCounts{Selected: 1}}
		if s.Ready.Status == metav1.ConditionTrue {
			o.Status.Nodes.Ready = 1
		}
	case *v1alpha1.NamespaceAttachment:
		o.Status = *s.Attachment
	case *v1alpha1.PortPublish:
		o.Status = *s.Publish
	}
	*o.Conditions() = conditions
	return o, conditions
}
