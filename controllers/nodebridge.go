package controllers

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/patchbay-dev/patchbay/api/v1alpha1"
	"github.com/patchbay-dev/patchbay/controllers/accept"
)

// nodeBridges keeps one NodeBridge for each network and node that it selects.
type nodeBridges struct{ *cluster }

// bridgeKey names a NodeBridge: one network on one node.
type bridgeKey struct{ network, node string }

func (k bridgeKey) name() string { return v1alpha1.NodeBridgeName(k.network, k.node) }

func (r nodeBridges) add(mgr manager.Manager) error {
	keys := func(of func(context.Context, client.Object) []bridgeKey) handler.TypedEventHandler[client.Object, bridgeKey] {
		return handler.TypedEnqueueRequestsFromMapFunc(of)
	}
	return builder.TypedControllerManagedBy[bridgeKey](mgr).
		Named("nodebridge").
		Watches(&v1alpha1.NodeBridge{}, keys(ofBridge)).
		Watches(&v1alpha1.BridgeNetwork{}, keys(r.ofNetwork), builder.WithPredicates(networkChanged)).
		Watches(&corev1.Node{}, keys(r.ofNode), builder.WithPredicates(nodeChanged)).
		WithOptions(controller.TypedOptions[bridgeKey]{MaxConcurrentReconciles: workers}).
		Complete(r)
}

// Reconcile makes or deletes one NodeBridge.
func (r nodeBridges) Reconcile(ctx context.Context, k bridgeKey) (reconcile.Result, error) {
	ctx = log.IntoContext(ctx, log.FromContext(ctx).WithValues("NodeBridge", k.name()))
	l := r.lookup(ctx)
	want := bridgeOf(l.Network(k.network), k.node, l.World)
	if l.err != nil {
		return reconcile.Result{}, l.err
	}
	have := &v1alpha1.NodeBridge{}
	err := r.Get(ctx, types.NamespacedName{Name: k.name()}, have)
	switch {
	case client.IgnoreNotFound(err) != nil:
		return reconcile.Result{}, err
	case err != nil && want == nil, !have.DeletionTimestamp.IsZero():
		return reconcile.Result{}, nil
	case err != nil:
		log.FromContext(ctx).Info("create")
		return writeResult(r.Create(ctx, want, client.FieldOwner(v1alpha1.FieldManagerController)), "create NodeBridge %s", want.Name)
	case want == nil || !same(have, want):
		log.FromContext(ctx).Info("delete")
		return writeResult(r.Delete(ctx, have, client.Preconditions{UID: &have.UID}), "delete NodeBridge %s", have.Name)
	}
	return r.watchNode(ctx, nodeSubject{have, have.Spec.NodeName})
}

// networkUID is the label of a NodeBridge that tells its network from a namesake.
// It is not an owner reference: at a deletion in the foreground the garbage
// collector deletes all dependents, blocking or not, and so would take the bridges
// from a network in use.
const networkUID = "patchbay.dev/network-uid"

// same is false for a NodeBridge of a namesake of the network, and for a NodeBridge
// that was written by hand.
func same(have, want *v1alpha1.NodeBridge) bool {
	return have.Spec == want.Spec && have.Labels[networkUID] == want.Labels[networkUID]
}

// bridgeOf returns the NodeBridge of a network on a node, nil where none belongs. A
// network that is being deleted keeps its NodeBridges while it is in use.
func bridgeOf(n *v1alpha1.BridgeNetwork, node string, w accept.World) *v1alpha1.NodeBridge {
	if n == nil || !n.DeletionTimestamp.IsZero() && !controllerutil.ContainsFinalizer(n, InUseFinalizer) || !accept.Selects(n, node, w) {
		return nil
	}
	return &v1alpha1.NodeBridge{
		ObjectMeta: metav1.ObjectMeta{Name: bridgeKey{n.Name, node}.name(), Labels: map[string]string{networkUID: string(n.UID)}},
		Spec:       v1alpha1.NodeBridgeSpec{Network: n.Name, NodeName: node},
	}
}

func ofBridge(_ context.Context, o client.Object) []bridgeKey {
	b := o.(*v1alpha1.NodeBridge)
	return []bridgeKey{{b.Spec.Network, b.Spec.NodeName}}
}

// ofNetwork returns the NodeBridges of all nodes, and of nodes that are gone while
// their NodeBridge is not.
func (r nodeBridges) ofNetwork(ctx context.Context, network client.Object) []bridgeKey {
	var out []bridgeKey
	for _, node := range requests(ctx, r.cluster, &corev1.NodeList{}) {
		out = append(out, bridgeKey{network.GetName(), node.Name})
	}
	var bridges v1alpha1.NodeBridgeList
	if err := r.list(ctx, &bridges, client.MatchingFields{byNetwork: network.GetName()}); err != nil {
		log.FromContext(ctx).Error(err, "find a network's NodeBridges")
	}
	for _, b := range bridges.Items {
		out = append(out, bridgeKey{b.Spec.Network, b.Spec.NodeName})
	}
	return out
}

func (r nodeBridges) ofNode(ctx context.Context, node client.Object) []bridgeKey {
	var out []bridgeKey
	for _, network := range requests(ctx, r.cluster, &v1alpha1.BridgeNetworkList{}) {
		out = append(out, bridgeKey{network.Name, node.GetName()})
	}
	return out
}
