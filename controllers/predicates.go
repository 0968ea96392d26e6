package controllers

import (
	"context"
	"maps"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/patchbay-dev/patchbay/api/v1alpha1"
	"github.com/patchbay-dev/patchbay/controllers/accept"
)

// requests returns the objects that a list of the cache finds.
func requests(ctx context.Context, c *cluster, list client.ObjectList, opts ...client.ListOption) []reconcile.Request {
	if err := c.list(ctx, list, opts...); err != nil {
		log.FromContext(ctx).Error(err, "find what an event concerns")
		return nil
	}
	return requestsOf(list)
}

func requestsOf(list client.ObjectList) []reconcile.Request {
	var out []reconcile.Request
	_ = meta.EachListItem(list, func(o runtime.Object) error {
		out = append(out, reconcile.Request{NamespacedName: client.ObjectKeyFromObject(o.(client.Object))})
		return nil
	})
	return out
}

// networkChanged leaves out changes of status: no reconciler reads the status of a
// network or of a parent.
var networkChanged = predicate.Funcs{UpdateFunc: func(e event.UpdateEvent) bool {
	return e.ObjectOld.GetUID() != e.ObjectNew.GetUID() ||
		e.ObjectOld.GetGeneration() != e.ObjectNew.GetGeneration() ||
		e.ObjectOld.GetDeletionTimestamp().IsZero() != e.ObjectNew.GetDeletionTimestamp().IsZero() ||
		!slices.Equal(e.ObjectOld.GetFinalizers(), e.ObjectNew.GetFinalizers())
}}

// nodeChanged leaves out heartbeats.
var nodeChanged = predicate.Funcs{UpdateFunc: func(e event.UpdateEvent) bool {
	return predicate.LabelChangedPredicate{}.Update(e) || readyChanged(e.ObjectOld.(*corev1.Node), e.ObjectNew.(*corev1.Node))
}}

func readyChanged(old, now *corev1.Node) bool {
	a, b := readyOf(old), readyOf(now)
	if a == nil || b == nil {
		return a != b
	}
	return a.Status != b.Status || !a.LastTransitionTime.Equal(&b.LastTransitionTime)
}

// podMoved passes a pod that has another UID or has got its node. All other changes
// concern the agent of its node.
var podMoved = predicate.Funcs{UpdateFunc: func(e event.UpdateEvent) bool {
	old, now := e.ObjectOld.(*corev1.Pod), e.ObjectNew.(*corev1.Pod)
	return old.UID != now.UID || old.Spec.NodeName != now.Spec.NodeName
}}

// podSelected passes a pod that has another UID, or that other selectors may select.
var podSelected = predicate.Funcs{UpdateFunc: func(e event.UpdateEvent) bool {
	old, now := e.ObjectOld.(*corev1.Pod), e.ObjectNew.(*corev1.Pod)
	return old.UID != now.UID || !maps.Equal(old.Labels, now.Labels) || accept.Ended(old) != accept.Ended(now)
}}

var isParent = predicate.NewPredicateFuncs(func(o client.Object) bool { return accept.IsParent(o.(*v1alpha1.NamespaceAttachment)) })

// childChanged passes the changes of a child that its parent looks at.
var childChanged = predicate.Funcs{UpdateFunc: func(e event.UpdateEvent) bool {
	old, now := v1alpha1.ConditionsOf(e.ObjectOld), v1alpha1.ConditionsOf(e.ObjectNew)
	return e.ObjectOld.GetUID() != e.ObjectNew.GetUID() ||
		e.ObjectOld.GetGeneration() != e.ObjectNew.GetGeneration() ||
		v1alpha1.Parent(e.ObjectOld) != v1alpha1.Parent(e.ObjectNew) ||
		!maps.Equal(e.ObjectOld.GetLabels(), e.ObjectNew.GetLabels()) ||
		!maps.Equal(e.ObjectOld.GetAnnotations(), e.ObjectNew.GetAnnotations()) ||
		conditionChanged(old, now, v1alpha1.ConditionAccepted) || conditionChanged(old, now, v1alpha1.ConditionReady)
}}

// attachmentChanged leaves out the agent's writes.
var attachmentChanged = predicate.Funcs{UpdateFunc: func(e event.UpdateEvent) bool {
	old, now := e.ObjectOld.(*v1alpha1.NamespaceAttachment), e.ObjectNew.(*v1alpha1.NamespaceAttachment)
	return old.Generation != now.Generation ||
		conditionChanged(old.Status.Conditions, now.Status.Conditions, v1alpha1.ConditionAccepted)
}}

// bridgeChanged passes the changes of a NodeBridge that a rollup looks at.
var bridgeChanged = predicate.Funcs{UpdateFunc: func(e event.UpdateEvent) bool {
	old, now := e.ObjectOld.(*v1alpha1.NodeBridge), e.ObjectNew.(*v1alpha1.NodeBridge)
	return old.Status.ObservedGeneration != now.Status.ObservedGeneration ||
		conditionChanged(old.Status.Conditions, now.Status.Conditions, v1alpha1.ConditionReady)
}}

func conditionChanged(old, now []metav1.Condition, kind string) bool {
	return !equality.Semantic.DeepEqual(meta.FindStatusCondition(old, kind), meta.FindStatusCondition(now, kind))
}

// after enqueues requests with a delay, so that many events make one request.
func after(delay time.Duration, requests handler.MapFunc) handler.EventHandler {
	add := func(ctx context.Context, q workqueue.TypedRateLimitingInterface[reconcile.Request], objects ...client.Object) {
		for _, o := range objects {
			for _, r := range requests(ctx, o) {
				q.AddAfter(r, delay)
			}
		}
	}
	type queue = workqueue.TypedRateLimitingInterface[reconcile.Request]
	return handler.Funcs{
		CreateFunc: func(ctx context.Context, e event.CreateEvent, q queue) { add(ctx, q, e.Object) },
		UpdateFunc: func(ctx context.Context, e event.UpdateEvent, q queue) { add(ctx, q, e.ObjectOld, e.ObjectNew) },
		DeleteFunc: func(ctx context.Context, e event.DeleteEvent, q queue) { add(ctx, q, e.Object) },
	}
}
