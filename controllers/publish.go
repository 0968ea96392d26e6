package controllers

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/patchbay-dev/patchbay/api/v1alpha1"
	"github.com/patchbay-dev/patchbay/controllers/accept"
)

// publishes accepts PortPublishes and binds them to the nodes of their attachments.
// A publish whose attachment has children becomes a parent too.
type publishes struct{ parents }

func (r publishes) add(mgr manager.Manager) error {
	return builder.ControllerManagedBy(mgr).
		For(&v1alpha1.PortPublish{}).
		Watches(&v1alpha1.PortPublish{}, after(r.options.RollupDelay, ofChild), builder.WithPredicates(childChanged)).
		Watches(&v1alpha1.NamespaceAttachment{}, handler.EnqueueRequestsFromMapFunc(r.ofAttachment), builder.WithPredicates(attachmentChanged)).
		Watches(&v1alpha1.BridgeNetwork{}, handler.EnqueueRequestsFromMapFunc(r.ofNetwork), builder.WithPredicates(networkChanged)).
		Watches(&corev1.Service{}, handler.EnqueueRequestsFromMapFunc(r.ofService), builder.WithPredicates(nodePortsChanged)).
		Watches(&corev1.Pod{}, handler.EnqueueRequestsFromMapFunc(r.ofHostPorts), builder.WithPredicates(hostPortsChanged)).
		Watches(&corev1.Node{}, handler.EnqueueRequestsFromMapFunc(r.ofNode), builder.WithPredicates(nodeChanged)).
		WithOptions(parallel()).
		Complete(r)
}

// Reconcile judges one publish. Its attachment is judged along with it, and not
// read from the attachment's status, so that a chain settles in one go.
func (r publishes) Reconcile(ctx context.Context, req reconcile.Request) (reconcile.Result, error) {
	p := &v1alpha1.PortPublish{}
	if err := r.Get(ctx, req.NamespacedName, p); err != nil {
		r.throttles.Delete(req.NamespacedName)
		return reconcile.Result{}, client.IgnoreNotFound(err)
	}
	l := r.lookup(ctx)
	v := verdict{accepted: accept.Publish(p, l.World), early: l.missed}
	a := l.Attachment(types.NamespacedName{Namespace: p.Namespace, Name: p.Spec.Attachment})
	if l.err != nil {
		return reconcile.Result{}, l.err
	}
	switch {
	case v1alpha1.Parent(p) != "":
		v.binding.Node = p.Annotations[v1alpha1.AnnotationNodeName]
		if !r.madeByParent(ctx, p) {
			v.accepted = adopted(p)
		}
		return r.writeVerdict(ctx, publishSubject(p), v)
	case a != nil:
		v.binding.Node = accept.BindingOf(a, l.World).Node
	}
	if a != nil && accept.IsParent(a) || wasSpread(p) && !v.binds() {
		return r.spread(ctx, p, v)
	}
	if err := r.gather(ctx, p); err != nil {
		return reconcile.Result{}, err
	}
	return r.writeVerdict(ctx, publishSubject(p), v)
}

// madeByParent is false where the publish names a controller that is not there, did
// not make it, or is itself a child: it was then written by hand, and its node is
// not the controller's choice.
func (r publishes) madeByParent(ctx context.Context, p *v1alpha1.PortPublish) bool {
	parent := &v1alpha1.PortPublish{}
	err := r.cache.Get(ctx, types.NamespacedName{Namespace: p.Namespace, Name: v1alpha1.Parent(p)}, parent)
	return err == nil && parent.UID == metav1.GetControllerOf(p).UID && v1alpha1.Parent(parent) == ""
}

func adopted(p *v1alpha1.PortPublish) metav1.Condition {
	return metav1.Condition{
		Type: v1alpha1.ConditionAccepted, Status: metav1.ConditionFalse, ObservedGeneration: p.Generation, Reason: v1alpha1.ReasonUnsupported,
		Message: fmt.Sprintf("metadata.ownerReferences names PortPublish %s as controller, which did not make this one or is gone; leave the reference out", v1alpha1.Parent(p)),
	}
}

// ofAttachment returns the publishes of an attachment and of its parent.
func (r publishes) ofAttachment(ctx context.Context, a client.Object) []reconcile.Request {
	out := r.naming(ctx, a.GetNamespace(), a.GetName())
	if parent := v1alpha1.Parent(a); parent != "" {
		out = append(out, r.naming(ctx, a.GetNamespace(), parent)...)
	}
	return out
}

func (r publishes) naming(ctx context.Context, namespace, attachment string) []reconcile.Request {
	return requests(ctx, r.cluster, &v1alpha1.PortPublishList{}, client.InNamespace(namespace), client.MatchingFields{byAttachment: attachment})
}

// ofNetwork returns the publishes of the network's attachments: whether the host
// reaches an attachment depends on its network.
func (r publishes) ofNetwork(ctx context.Context, network client.Object) []reconcile.Request {
	var out []reconcile.Request
	for _, a := range (attachments{r.cluster}).ofNetwork(ctx, network) {
		out = append(out, r.naming(ctx, a.Namespace, a.Name)...)
	}
	return out
}

func (r publishes) ofNode(ctx context.Context, node client.Object) []reconcile.Request {
	return requests(ctx, r.cluster, &v1alpha1.PortPublishList{}, client.MatchingFields{byNode: node.GetName()})
}
