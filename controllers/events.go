package controllers

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	toolscache "k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/events"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/manager"

	"github.com/patchbay-dev/patchbay/api/v1alpha1"
)

// noteLimit is the API's, in bytes.
const noteLimit = 1024

// addEvents records transitions of conditions as Events, once this replica leads. It
// sees them as changes of cached objects, those that agents write included: agents
// may not create Events. A restart or resync changes no object, and so records none.
func addEvents(mgr manager.Manager) error {
	recorder := mgr.GetEventRecorder(v1alpha1.FieldManagerController)
	handler := toolscache.ResourceEventHandlerFuncs{UpdateFunc: func(old, now any) {
		o := now.(client.Object)
		for _, t := range transitions(v1alpha1.ConditionsOf(old), v1alpha1.ConditionsOf(now)) {
			t.record(recorder, o)
		}
		if n := repairs(old, now); n > 0 {
			recorder.Eventf(o, nil, corev1.EventTypeWarning, "DriftRepaired", "Repaired", "another program changed or removed an object of the network on this node, such as a rule in the firewall; repaired %d times so far", n)
		}
	}}
	return mgr.Add(manager.RunnableFunc(func(ctx context.Context) error {
		for _, o := range []client.Object{&v1alpha1.BridgeNetwork{}, &v1alpha1.NodeBridge{}, &v1alpha1.NamespaceAttachment{}, &v1alpha1.PortPublish{}} {
			if err := follow(ctx, mgr.GetCache(), o, handler); err != nil {
				return fmt.Errorf("watch %T for events: %w", o, err)
			}
		}
		<-ctx.Done()
		return nil
	}))
}

// repairs returns the count of a NodeBridge that has more repairs than before; zero for
// all other changes.
func repairs(old, now any) int64 {
	was, _ := old.(*v1alpha1.NodeBridge)
	is, ok := now.(*v1alpha1.NodeBridge)
	if !ok || was == nil || is.Status.Repairs <= was.Status.Repairs {
		return 0
	}
	return is.Status.Repairs
}

func follow(ctx context.Context, c cache.Cache, o client.Object, h toolscache.ResourceEventHandler) error {
	informer, err := c.GetInformer(ctx, o)
	if err != nil {
		return err
	}
	_, err = informer.AddEventHandler(h)
	return err
}

// transition is a change of one condition that is worth an Event.
type transition struct {
	eventType string
	condition metav1.Condition
}

func (t transition) record(r events.EventRecorder, o client.Object) {
	action := t.condition.Type + "Changed"
	r.Eventf(o, nil, t.eventType, t.condition.Reason, action, "%s", truncate(t.condition.Message, noteLimit))
}

// transitions returns the changes of status or reason that are worth an Event: every
// change to bad, and the change to good where the condition was bad before or is Ready
// for the first time. Waiting is none, nor is the first acceptance, which Ready
// follows: an Event costs the API server as much as the status itself.
func transitions(old, now []metav1.Condition) []transition {
	var out []transition
	for _, c := range now {
		was := metav1.Condition{Status: metav1.ConditionUnknown}
		if o := meta.FindStatusCondition(old, c.Type); o != nil {
			was = *o
		}
		if was.Status == c.Status && (was.Reason == c.Reason || c.Status == metav1.ConditionTrue) {
			continue
		}
		switch {
		case bad(c):
			out = append(out, transition{corev1.EventTypeWarning, c})
		case c.Status == metav1.ConditionTrue && (c.Type == v1alpha1.ConditionReady || was.Status == metav1.ConditionFalse):
			out = append(out, transition{corev1.EventTypeNormal, c})
		}
	}
	return out
}

func bad(c metav1.Condition) bool {
	switch c.Status {
	case metav1.ConditionFalse:
		return c.Reason != v1alpha1.ReasonPending
	case metav1.ConditionTrue:
		return c.Type == v1alpha1.ConditionInUse
	}
	return c.Reason == v1alpha1.ReasonNodeNotReady
}
