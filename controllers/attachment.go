package controllers

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/patchbay-dev/patchbay/api/v1alpha1"
	"github.com/patchbay-dev/patchbay/controllers/accept"
)

// attachments accepts and binds NamespaceAttachments. Those with a podSelector are
// left to selectors.
type attachments struct{ *cluster }

func (r attachments) add(mgr manager.Manager) error {
	return builder.ControllerManagedBy(mgr).
		For(&v1alpha1.NamespaceAttachment{}).
		Watches(&v1alpha1.BridgeNetwork{}, handler.EnqueueRequestsFromMapFunc(r.ofNetwork), builder.WithPredicates(networkChanged)).
		Watches(&corev1.Node{}, handler.EnqueueRequestsFromMapFunc(r.ofNode), builder.WithPredicates(nodeChanged)).
		Watches(&corev1.Namespace{}, handler.EnqueueRequestsFromMapFunc(r.ofNamespace), builder.WithPredicates(predicate.LabelChangedPredicate{})).
		Watches(&corev1.Pod{}, handler.EnqueueRequestsFromMapFunc(r.ofPod), builder.WithPredicates(podMoved)).
		WithOptions(parallel()).
		Complete(r)
}

// Reconcile judges one attachment.
func (r attachments) Reconcile(ctx context.Context, req reconcile.Request) (reconcile.Result, error) {
	a := &v1alpha1.NamespaceAttachment{}
	if err := r.Get(ctx, req.NamespacedName, a); err != nil {
		return reconcile.Result{}, client.IgnoreNotFound(err)
	}
	if accept.IsParent(a) {
		return reconcile.Result{}, nil
	}
	l := r.lookup(ctx)
	v := verdict{accepted: accept.Attachment(a, l.World), binding: accept.BindingOf(a, l.World), early: l.missed}
	if l.err != nil {
		return reconcile.Result{}, l.err
	}
	return r.writeVerdict(ctx, attachmentSubject(a), v)
}

func (r attachments) ofNetwork(ctx context.Context, network client.Object) []reconcile.Request {
	return requests(ctx, r.cluster, &v1alpha1.NamespaceAttachmentList{}, client.MatchingFields{byNetwork: network.GetName()})
}

// ofNode returns the attachments that are bound to the node or name it, and those
// that name a pod there: the node's labels decide whether they are accepted.
func (r attachments) ofNode(ctx context.Context, node client.Object) []reconcile.Request {
	onNode := client.MatchingFields{byNode: node.GetName()}
	out := requests(ctx, r.cluster, &v1alpha1.NamespaceAttachmentList{}, onNode)
	for _, pod := range requests(ctx, r.cluster, &corev1.PodList{}, onNode) {
		out = append(out, r.namingPod(ctx, pod.NamespacedName)...)
	}
	return out
}

func (r attachments) ofPod(ctx context.Context, pod client.Object) []reconcile.Request {
	return r.namingPod(ctx, client.ObjectKeyFromObject(pod))
}

func (r attachments) namingPod(ctx context.Context, pod types.NamespacedName) []reconcile.Request {
	return requests(ctx, r.cluster, &v1alpha1.NamespaceAttachmentList{}, client.InNamespace(pod.Namespace), client.MatchingFields{byPod: pod.Name})
}

func (r attachments) ofNamespace(ctx context.Context, namespace client.Object) []reconcile.Request {
	return requests(ctx, r.cluster, &v1alpha1.NamespaceAttachmentList{}, client.InNamespace(namespace.GetName()))
}
