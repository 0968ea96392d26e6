package controllers

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/patchbay-dev/patchbay/api/v1alpha1"
	"github.com/patchbay-dev/patchbay/controllers/accept"
)

// attachments accepts and binds NamespaceAttachments.
type attachments struct{ *cluster }

func (r attachments) add(mgr manager.Manager) error {
	return builder.ControllerManagedBy(mgr).
		For(&v1alpha1.NamespaceAttachment{}).
		Watches(&v1alpha1.BridgeNetwork{}, handler.EnqueueRequestsFromMapFunc(r.ofNetwork), builder.WithPredicates(networkChanged)).
		Watches(&corev1.Node{}, handler.EnqueueRequestsFromMapFunc(r.ofNode), builder.WithPredicates(nodeChanged)).
		Watches(&corev1.Namespace{}, handler.EnqueueRequestsFromMapFunc(r.ofNamespace), builder.WithPredicates(predicate.LabelChangedPredicate{})).
		WithOptions(parallel()).
		Complete(r)
}

// Reconcile judges one attachment.
func (r attachments) Reconcile(ctx context.Context, req reconcile.Request) (reconcile.Result, error) {
	a := &v1alpha1.NamespaceAttachment{}
	if err := r.Get(ctx, req.NamespacedName, a); err != nil {
		return reconcile.Result{}, client.IgnoreNotFound(err)
	}
	w := r.world(ctx)
	v := verdict{accepted: accept.Attachment(a, w.World), node: accept.NodeOf(a, w.World), early: w.missed}
	if w.err != nil {
		return reconcile.Result{}, w.err
	}
	return r.settle(ctx, attachmentSubject(a), v)
}

func (r attachments) ofNetwork(ctx context.Context, network client.Object) []reconcile.Request {
	return requests(ctx, r.cluster, &v1alpha1.NamespaceAttachmentList{}, client.MatchingFields{byNetwork: network.GetName()})
}

func (r attachments) ofNode(ctx context.Context, node client.Object) []reconcile.Request {
	return requests(ctx, r.cluster, &v1alpha1.NamespaceAttachmentList{}, client.MatchingFields{byNode: node.GetName()})
}

func (r attachments) ofNamespace(ctx context.Context, namespace client.Object) []reconcile.Request {
	return requests(ctx, r.cluster, &v1alpha1.NamespaceAttachmentList{}, client.InNamespace(namespace.GetName()))
}
