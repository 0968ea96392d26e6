package controllers

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/patchbay-dev/patchbay/api/v1alpha1"
	"github.com/patchbay-dev/patchbay/controllers/accept"
)

// InUseFinalizer keeps a BridgeNetwork while accepted attachments use it.
const InUseFinalizer = "patchbay.dev/in-use"

// named bounds how many objects a message or a list names.
const named = 10

// networks accepts BridgeNetworks, sums up their NodeBridges and keeps them
// while they are in use.
type networks struct {
	*cluster
	throttles *sync.Map
}

func (r networks) add(mgr manager.Manager) error {
	delay := r.options.RollupDelay
	return builder.ControllerManagedBy(mgr).
		For(&v1alpha1.BridgeNetwork{}, builder.WithPredicates(networkChanged)).
		Watches(&v1alpha1.NodeBridge{}, after(delay, ofNodeBridge), builder.WithPredicates(bridgeChanged)).
		Watches(&corev1.Node{}, after(delay, r.ofNode), builder.WithPredicates(predicate.LabelChangedPredicate{})).
		Watches(&v1alpha1.NamespaceAttachment{}, handler.EnqueueRequestsFromMapFunc(r.ofAttachment), builder.WithPredicates(attachmentChanged)).
		WithOptions(parallel()).
		Complete(r)
}

// Reconcile writes one network's status, or its finalizer.
func (r networks) Reconcile(ctx context.Context, req reconcile.Request) (reconcile.Result, error) {
	n := &v1alpha1.BridgeNetwork{}
	if err := r.Get(ctx, req.NamespacedName, n); err != nil {
		if client.IgnoreNotFound(err) == nil {
			r.throttles.Delete(req.Name)
		}
		return reconcile.Result{}, client.IgnoreNotFound(err)
	}
	users, err := r.users(ctx, n)
	if err != nil {
		return reconcile.Result{}, err
	}
	before := n.DeepCopy()
	if protect(n, users) {
		log.FromContext(ctx).Info("finalizers changed", "old", before.Finalizers, "new", n.Finalizers)
		patch := client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{})
		return writeResult(r.Patch(ctx, n, patch, client.FieldOwner(v1alpha1.FieldManagerController)), "write finalizers of BridgeNetwork %s", n.Name)
	}
	nodes, err := r.rollup(ctx, n)
	if err != nil {
		return reconcile.Result{}, err
	}
	return r.applySum(ctx, throttleOf(r.throttles, n.Name), n, withStatus(n, accept.Network(n, accept.World{}), nodes, users))
}

// withStatus returns a network with the status that its nodes and users make. All
// of that status is the controller's.
func withStatus(n *v1alpha1.BridgeNetwork, accepted metav1.Condition, nodes rollup, users []string) *v1alpha1.BridgeNetwork {
	out := n.DeepCopy()
	out.Status = v1alpha1.BridgeNetworkStatus{
		ObservedGeneration: n.Generation, Nodes: nodes.counts, FailingNodes: nodes.failing,
		Conditions: summedConditions(n, accepted, nodes.ready),
	}
	if len(users) > 0 {
		meta.SetStatusCondition(out.Conditions(), inUse(n, users))
	} else {
		meta.RemoveStatusCondition(out.Conditions(), v1alpha1.ConditionInUse)
	}
	return out
}

// rollup reads the network's nodes and NodeBridges from the cache.
func (r networks) rollup(ctx context.Context, n *v1alpha1.BridgeNetwork) (rollup, error) {
	var nodes corev1.NodeList
	if err := r.list(ctx, &nodes); err != nil {
		return rollup{}, err
	}
	var bridges v1alpha1.NodeBridgeList
	if err := r.list(ctx, &bridges, client.MatchingFields{byNetwork: n.Name}); err != nil {
		return rollup{}, err
	}
	return rollUp(n.Generation, selected(n, nodes.Items), bridges.Items), nil
}

func selected(n *v1alpha1.BridgeNetwork, nodes []corev1.Node) []string {
	var out []string
	for i := range nodes {
		if accept.Selects(n, nodes[i].Name, alone(&nodes[i])) {
			out = append(out, nodes[i].Name)
		}
	}
	return out
}

// alone is a world of one node.
func alone(node *corev1.Node) accept.World {
	return accept.World{NodeLabels: func(string) (map[string]string, bool) { return node.Labels, true }}
}

func ofNodeBridge(_ context.Context, o client.Object) []reconcile.Request {
	return []reconcile.Request{{NamespacedName: types.NamespacedName{Name: o.(*v1alpha1.NodeBridge).Spec.Network}}}
}

// ofNode returns the networks that select the node. An update asks with both versions.
func (r networks) ofNode(ctx context.Context, o client.Object) []reconcile.Request {
	node := o.(*corev1.Node)
	var list v1alpha1.BridgeNetworkList
	if err := r.list(ctx, &list); err != nil {
		log.FromContext(ctx).Error(err, "find a node's networks")
	}
	list.Items = slices.DeleteFunc(list.Items, func(n v1alpha1.BridgeNetwork) bool { return !accept.Selects(&n, node.Name, alone(node)) })
	return requestsOf(&list)
}

// ofAttachment returns the attachment's network if that is being deleted: its users
// keep it.
func (r networks) ofAttachment(ctx context.Context, o client.Object) []reconcile.Request {
	name := types.NamespacedName{Name: o.(*v1alpha1.NamespaceAttachment).Spec.Network}
	n := &v1alpha1.BridgeNetwork{}
	if err := r.cache.Get(ctx, name, n); err != nil || n.DeletionTimestamp.IsZero() {
		return nil
	}
	return []reconcile.Request{{NamespacedName: name}}
}

// usersOf returns the names of the accepted attachments.
func usersOf(list []v1alpha1.NamespaceAttachment) []string {
	var out []string
	for _, a := range list {
		if meta.IsStatusConditionTrue(a.Status.Conditions, v1alpha1.ConditionAccepted) {
			out = append(out, a.Namespace+"/"+a.Name)
		}
	}
	slices.Sort(out)
	return out
}

func inUse(n *v1alpha1.BridgeNetwork, users []string) metav1.Condition {
	text := strings.Join(users[:min(len(users), named)], ", ")
	if more := len(users) - named; more > 0 {
		text += fmt.Sprintf(" (and %d more)", more)
	}
	return metav1.Condition{
		Type: v1alpha1.ConditionInUse, Status: metav1.ConditionTrue, ObservedGeneration: n.Generation,
		Reason: v1alpha1.ReasonInUse, Message: "stays until these attachments are deleted or moved: " + text,
	}
}

// users returns the accepted attachments of a network that is being deleted.
func (r networks) users(ctx context.Context, n *v1alpha1.BridgeNetwork) ([]string, error) {
	if n.DeletionTimestamp.IsZero() {
		return nil, nil
	}
	var list v1alpha1.NamespaceAttachmentList
	if err := r.List(ctx, &list, client.MatchingFields{byNetwork: n.Name}); err != nil {
		return nil, fmt.Errorf("list the attachments of BridgeNetwork %s: %w", n.Name, err)
	}
	return usersOf(list.Items), nil
}

// protect adds the finalizer to a network, and removes it from a network that is
// being deleted without users. It reports whether it did either.
func protect(n *v1alpha1.BridgeNetwork, users []string) bool {
	if n.DeletionTimestamp.IsZero() {
		return controllerutil.AddFinalizer(n, InUseFinalizer)
	}
	return len(users) == 0 && controllerutil.RemoveFinalizer(n, InUseFinalizer)
}
