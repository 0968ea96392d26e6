package controllers

import (
	"context"
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/patchbay-dev/patchbay/api/v1alpha1"
	"github.com/patchbay-dev/patchbay/controllers/accept"
)

// verdict is the answer of package accept for an object as it is now.
type verdict struct {
	accepted metav1.Condition
	// binding is where an accepted object belongs.
	binding accept.Binding
	// early says that an object that this one refers to does not exist, or not yet.
	early bool
}

func (v verdict) binds() bool {
	return v.accepted.Status == metav1.ConditionTrue && v.binding.Node != ""
}

// subject is an attachment or a publish: an object that is bound to a node.
type subject struct {
	object           v1alpha1.Object
	nodeName, podUID *string
	// summed says that the status is the controller's sum over children.
	summed bool
	// forget clears the agent's fields, conditions aside.
	forget func()
}

func attachmentSubject(a *v1alpha1.NamespaceAttachment) subject {
	s := &a.Status
	return subject{a, &s.NodeName, &s.PodUID, false, func() {
		*s = v1alpha1.NamespaceAttachmentStatus{NodeName: s.NodeName, PodUID: s.PodUID, Conditions: s.Conditions}
	}}
}

func publishSubject(p *v1alpha1.PortPublish) subject {
	s := &p.Status
	return subject{p, &s.NodeName, new(string), wasSpread(p), func() {
		*s = v1alpha1.PortPublishStatus{NodeName: s.NodeName, Conditions: s.Conditions}
	}}
}

// boundStatus is the controller's part of a subject's status.
type boundStatus struct {
	NodeName   string             `json:"nodeName,omitempty"`
	PodUID     string             `json:"podUID,omitempty"`
	Conditions []metav1.Condition `json:"conditions"`
}

// writeVerdict brings the controller's part of a status in line with a verdict, by
// one write at most: each write comes back as an event.
func (c *cluster) writeVerdict(ctx context.Context, s subject, v verdict) (reconcile.Result, error) {
	now := time.Now()
	if wait := patience(s, v, now, c.options.ReferenceGrace); wait > 0 {
		return reconcile.Result{RequeueAfter: wait}, nil
	}
	before := s.object.DeepCopyObject().(client.Object)
	former := *s.nodeName
	if rebind(s, v) {
		log.FromContext(ctx).Info("rebound", "old", former, "new", v.binding.Node, "pod", v.binding.PodUID)
		c.metrics.bindings.Inc()
		return c.patchStatus(ctx, s.object, before)
	}
	if !judge(s, v) {
		return c.watchNode(ctx, nodeSubject{s.object, former})
	}
	log.FromContext(ctx).Info("judged", "accepted", v.accepted.Status, "reason", v.accepted.Reason, "message", v.accepted.Message, "node", *s.nodeName, "pod", *s.podUID)
	if former == "" && *s.nodeName != "" {
		c.metrics.bindings.Inc()
	}
	accepted := meta.FindStatusCondition(*s.object.Conditions(), v1alpha1.ConditionAccepted)
	return c.applyStatus(ctx, s.object, boundStatus{NodeName: *s.nodeName, PodUID: *s.podUID, Conditions: []metav1.Condition{*accepted}})
}

// patience returns how long to wait before a new object is refused because another
// is missing: the objects of one `kubectl apply` arrive in any order.
func patience(s subject, v verdict, now time.Time, grace time.Duration) time.Duration {
	old := meta.FindStatusCondition(*s.object.Conditions(), v1alpha1.ConditionAccepted)
	judged := old != nil && old.Status != metav1.ConditionUnknown
	early := v.early || v.accepted.Status == metav1.ConditionUnknown
	if !early || judged || v.accepted.Status == metav1.ConditionTrue {
		return 0
	}
	age := now.Sub(s.object.GetCreationTimestamp().Time)
	if age < -grace { // a clock far behind the API server's is not waited for
		return 0
	}
	return grace - age
}

// rebind moves a subject that is bound to a wrong node and reports whether it did.
// It takes over Ready, since the former node's agent no longer sees the object.
func rebind(s subject, v verdict) bool {
	former := "node " + *s.nodeName
	if s.summed {
		former = "children on nodes of their own"
	}
	if !v.binds() || *s.nodeName == "" && !s.summed || *s.nodeName == v.binding.Node {
		return false
	}
	s.forget()
	meta.SetStatusCondition(s.object.Conditions(), v.accepted)
	meta.SetStatusCondition(s.object.Conditions(), metav1.Condition{
		Type: v1alpha1.ConditionReady, Status: metav1.ConditionUnknown, ObservedGeneration: s.object.GetGeneration(),
		Reason:  v1alpha1.ReasonRebinding,
		Message: fmt.Sprintf("moved from %s to node %s; waiting for its agent", former, v.binding.Node),
	})
	*s.nodeName, *s.podUID = v.binding.Node, v.binding.PodUID
	return true
}

// judge sets Accepted, and the node and pod of an accepted object that is not bound
// yet. A bound object stays bound. judge reports whether the status changed its
// meaning.
func judge(s subject, v verdict) bool {
	changed := meta.SetStatusCondition(s.object.Conditions(), v.accepted)
	if have := (accept.Binding{Node: *s.nodeName, PodUID: *s.podUID}); v.binds() && have != v.binding {
		*s.nodeName, *s.podUID = v.binding.Node, v.binding.PodUID
		return true
	}
	return changed
}
