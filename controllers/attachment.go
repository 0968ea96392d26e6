package controllers

import (
	"context"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/log"
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

// selectors reconciles the attachments with a spec.target.podSelector: each has
// one child for each selected pod.
type selectors struct{ parents }

func (r selectors) add(mgr manager.Manager) error {
	enqueue := handler.EnqueueRequestsFromMapFunc
	return builder.ControllerManagedBy(mgr).
		Named("podselector").
		For(&v1alpha1.NamespaceAttachment{}, builder.WithPredicates(isParent, networkChanged)).
		Watches(&v1alpha1.NamespaceAttachment{}, after(r.options.RollupDelay, ofChild), builder.WithPredicates(childChanged)).
		Watches(&corev1.Pod{}, enqueue(r.ofPod), builder.WithPredicates(podSelected)).
		Watches(&v1alpha1.BridgeNetwork{}, enqueue(attachments{r.cluster}.ofNetwork), builder.WithPredicates(networkChanged)).
		Watches(&corev1.Namespace{}, enqueue(attachments{r.cluster}.ofNamespace), builder.WithPredicates(predicate.LabelChangedPredicate{})).
		WithOptions(parallel()).
		Complete(r)
}

// Reconcile syncs one attachment's children and writes its status.
func (r selectors) Reconcile(ctx context.Context, req reconcile.Request) (reconcile.Result, error) {
	a := &v1alpha1.NamespaceAttachment{}
	if err := r.Get(ctx, req.NamespacedName, a); err != nil {
		r.throttles.Delete(req.NamespacedName)
		return reconcile.Result{}, client.IgnoreNotFound(err)
	}
	if !accept.IsParent(a) {
		return reconcile.Result{}, nil
	}
	l := r.lookup(ctx)
	v := verdict{accepted: accept.Attachment(a, l.World), early: l.missed}
	if l.err != nil {
		return reconcile.Result{}, l.err
	}
	return r.reconcile(ctx, parent{
		subject: attachmentSubject(a), verdict: v, list: &v1alpha1.NamespaceAttachmentList{},
		wanted:     func(ctx context.Context) ([]child, error) { return r.podChildren(ctx, a) },
		withStatus: func(s sum) v1alpha1.Object { return withPodStatus(a, v.accepted, s) },
	})
}

// podChildren returns one child for each pod that an attachment selects.
func (r selectors) podChildren(ctx context.Context, a *v1alpha1.NamespaceAttachment) ([]child, error) {
	var pods corev1.PodList
	if err := r.list(ctx, &pods, client.InNamespace(a.Namespace)); err != nil {
		return nil, err
	}
	var out []child
	for i := range pods.Items {
		if p := &pods.Items[i]; accept.SelectsPod(a, p) {
			out = append(out, child{Object: podChild(a, p), name: p.Name, leaving: !p.DeletionTimestamp.IsZero()})
		}
	}
	return out, nil
}

// podChild is the attachment of one pod, as its parent wants it.
func podChild(a *v1alpha1.NamespaceAttachment, p *corev1.Pod) *v1alpha1.NamespaceAttachment {
	s := a.DeepCopy().Spec
	child := &v1alpha1.NamespaceAttachment{
		ObjectMeta: childMeta(a, string(p.UID)),
		Spec: v1alpha1.NamespaceAttachmentSpec{
			Target:  v1alpha1.AttachmentTarget{Pod: &v1alpha1.PodTarget{Name: p.Name}},
			Network: s.Network, Interface: s.Interface, MTU: s.MTU, DefaultRoute: s.DefaultRoute, Routes: s.Routes, Bandwidth: s.Bandwidth,
			AllowedAddresses: s.AllowedAddresses, AllowedMACAddresses: s.AllowedMACAddresses,
			IPAM: &v1alpha1.AttachmentIPAM{Lifecycle: v1alpha1.IPAMEphemeral},
		},
	}
	child.Labels = map[string]string{v1alpha1.LabelPodUID: string(p.UID)}
	return child
}

// withPodStatus returns an attachment with the status that its pods make. All of
// that status is the controller's.
func withPodStatus(a *v1alpha1.NamespaceAttachment, accepted metav1.Condition, s sum) *v1alpha1.NamespaceAttachment {
	ready := s.condition(fmt.Sprintf("%d of %d pods attached", len(s.ready), s.count()),
		"spec.target.podSelector selects no pod; label pods of the namespace, or make the attachment anew with another selector")
	out := a.DeepCopy()
	out.Status = v1alpha1.NamespaceAttachmentStatus{
		ObservedGeneration: a.Generation,
		Pods:               &v1alpha1.PodCounts{Matched: int32(s.count()), Ready: int32(len(s.ready))},
		Conditions:         summedConditions(a, accepted, ready),
	}
	return out
}

// ofPod returns the attachments in its namespace that select a pod. An update asks
// with both versions.
func (r selectors) ofPod(ctx context.Context, o client.Object) []reconcile.Request {
	pod := o.(*corev1.Pod)
	var list v1alpha1.NamespaceAttachmentList
	if err := r.list(ctx, &list, client.InNamespace(pod.Namespace), client.MatchingFields{byTarget: targetSelector}); err != nil {
		log.FromContext(ctx).Error(err, "find who selects a pod")
	}
	list.Items = slices.DeleteFunc(list.Items, func(a v1alpha1.NamespaceAttachment) bool { return !accept.SelectsPod(&a, pod) })
	return requestsOf(&list)
}

// ofChild returns the parent of a child.
func ofChild(_ context.Context, o client.Object) []reconcile.Request {
	if name := v1alpha1.Parent(o); name != "" {
		return []reconcile.Request{{NamespacedName: types.NamespacedName{Namespace: o.GetNamespace(), Name: name}}}
	}
	return nil
}
