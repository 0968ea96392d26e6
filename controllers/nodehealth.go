package controllers

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/patchbay-dev/patchbay/api/v1alpha1"
)

// health says whether the statuses of a node's agent can be relied on.
type health struct {
	// lost says why not; empty means that they can.
	lost string
	// recheck is when that changes by itself; 0 means never.
	recheck time.Duration
}

// nodeHealth judges a node; nil stands for a node that is gone.
func nodeHealth(name string, node *corev1.Node, now time.Time, grace time.Duration) health {
	if node == nil {
		return health{lost: fmt.Sprintf("node %s was deleted", name)}
	}
	ready := readyOf(node)
	if ready != nil && ready.Status == corev1.ConditionTrue {
		return health{}
	}
	since := notReadySince(node, ready)
	if left := grace - now.Sub(since); left > 0 {
		return health{recheck: left}
	}
	if ready == nil {
		return health{lost: fmt.Sprintf("node %s has never said that it is Ready; bring it up, or delete it", name)}
	}
	return health{lost: fmt.Sprintf("node %s has been Ready=%s since %s; bring it back, or delete it", name, ready.Status, ready.LastTransitionTime.UTC().Format(time.RFC3339))}
}

// notReadySince returns when a node stopped to be Ready. A silent kubelet is so since
// its last heartbeat; node-lifecycle-controller sets Unknown later.
func notReadySince(node *corev1.Node, ready *corev1.NodeCondition) time.Time {
	switch {
	case ready == nil:
		return node.CreationTimestamp.Time
	case ready.Status == corev1.ConditionUnknown && !ready.LastHeartbeatTime.IsZero():
		return ready.LastHeartbeatTime.Time
	}
	return ready.LastTransitionTime.Time
}

func readyOf(node *corev1.Node) *corev1.NodeCondition {
	for i := range node.Status.Conditions {
		if node.Status.Conditions[i].Type == corev1.NodeReady {
			return &node.Status.Conditions[i]
		}
	}
	return nil
}

// nodeSubject is an object whose Ready condition a node's agent writes.
type nodeSubject struct {
	object   v1alpha1.Object
	nodeName string
}

// watchNode is the one exception to one writer per condition: it answers for an
// agent whose node is lost, and withdraws that when the node is back. A late
// write of the agent is overruled. It is a merge patch, since the controller's
// next server-side apply would give the condition up and so remove it.
func (c *cluster) watchNode(ctx context.Context, s nodeSubject) (reconcile.Result, error) {
	if s.nodeName == "" {
		return reconcile.Result{}, nil
	}
	node := &corev1.Node{}
	if err := c.cache.Get(ctx, types.NamespacedName{Name: s.nodeName}, node); err != nil {
		if !apierrors.IsNotFound(err) {
			return reconcile.Result{}, fmt.Errorf("get node %s from the cache: %w", s.nodeName, err)
		}
		node = nil
	}
	h := nodeHealth(s.nodeName, node, time.Now(), c.options.NodeGrace)
	before := s.object.DeepCopyObject().(client.Object)
	if !answerFor(s, h) {
		return reconcile.Result{RequeueAfter: h.recheck}, nil
	}
	log.FromContext(ctx).Info("answered for the agent", "node", s.nodeName, "lost", h.lost)
	return c.patchStatus(ctx, s.object, before)
}

// answerFor sets Ready as the node's health demands and reports whether that changed
// the condition.
func answerFor(s nodeSubject, h health) bool {
	ready := metav1.Condition{Type: v1alpha1.ConditionReady}
	if c := meta.FindStatusCondition(*s.object.Conditions(), v1alpha1.ConditionReady); c != nil {
		ready = *c
	}
	switch {
	case h.lost != "":
		ready.Reason, ready.Message = v1alpha1.ReasonNodeNotReady, h.lost
	case ready.Reason == v1alpha1.ReasonNodeNotReady:
		ready.Reason, ready.Message = v1alpha1.ReasonPending, fmt.Sprintf("node %s is back; waiting for its agent", s.nodeName)
	default:
		return false
	}
	ready.Status = metav1.ConditionUnknown
	ready.LastTransitionTime = metav1.Time{} // now, if the status changes
	return meta.SetStatusCondition(s.object.Conditions(), ready)
}
