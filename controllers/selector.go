package controllers

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

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

// selectors keep one attachment for each pod that a spec.target.podSelector
// selects, and sum them up.
type selectors struct {
	*cluster
	paces *sync.Map
}

func (r selectors) add(mgr manager.Manager) error {
	requestsOf := handler.EnqueueRequestsFromMapFunc
	return builder.ControllerManagedBy(mgr).
		Named("podselector").
		For(&v1alpha1.NamespaceAttachment{}, builder.WithPredicates(isParent, networkChanged)).
		Watches(&v1alpha1.NamespaceAttachment{}, after(r.options.RollupDelay, ofChild), builder.WithPredicates(childChanged)).
		Watches(&corev1.Pod{}, requestsOf(r.ofPod), builder.WithPredicates(podSelected)).
		Watches(&v1alpha1.BridgeNetwork{}, requestsOf(attachments{r.cluster}.ofNetwork), builder.WithPredicates(networkChanged)).
		Watches(&corev1.Namespace{}, requestsOf(attachments{r.cluster}.ofNamespace), builder.WithPredicates(predicate.LabelChangedPredicate{})).
		WithOptions(parallel()).
		Complete(r)
}

// Reconcile tends one parent's children and writes its status.
func (r selectors) Reconcile(ctx context.Context, req reconcile.Request) (reconcile.Result, error) {
	a := &v1alpha1.NamespaceAttachment{}
	if err := r.Get(ctx, req.NamespacedName, a); err != nil {
		r.paces.Delete(req.NamespacedName)
		return reconcile.Result{}, client.IgnoreNotFound(err)
	}
	if !accept.IsParent(a) {
		return reconcile.Result{}, nil
	}
	w := r.world(ctx)
	v := verdict{accepted: accept.Attachment(a, w.World), early: w.missed}
	if w.err != nil {
		return reconcile.Result{}, w.err
	}
	if wait := patience(attachmentSubject(a), v, time.Now(), r.options.ReferenceGrace); wait > 0 {
		return reconcile.Result{RequeueAfter: wait}, nil
	}
	return r.settle(ctx, a, v)
}

func (r selectors) settle(ctx context.Context, a *v1alpha1.NamespaceAttachment, v verdict) (reconcile.Result, error) {
	pods, err := r.selected(ctx, a)
	if err != nil {
		return reconcile.Result{}, err
	}
	var children v1alpha1.NamespaceAttachmentList
	if err := r.List(ctx, &children, client.InNamespace(a.Namespace), client.MatchingFields{byParent: a.Name}); err != nil {
		return reconcile.Result{}, fmt.Errorf("list the children of NamespaceAttachment %s/%s: %w", a.Namespace, a.Name, err)
	}
	f := family{parent: a, closed: v.accepted.Status != metav1.ConditionTrue}
	for i := range children.Items {
		f.have = append(f.have, &children.Items[i])
	}
	for i := range pods {
		f.want = append(f.want, childOf(a, &pods[i]))
	}
	held, tendErr := r.tend(ctx, f)
	t := tallyUp(members(a, pods, children.Items, held), tendErr)
	result, err := r.write(ctx, a, parentStatusOf(a, v.accepted, t))
	if len(held) > 0 { // whoever frees the name need not be known here
		result = sooner(result, reconcile.Result{RequeueAfter: r.options.RollupInterval})
	}
	return result, errors.Join(tendErr, err)
}

func (r selectors) selected(ctx context.Context, a *v1alpha1.NamespaceAttachment) ([]corev1.Pod, error) {
	var list corev1.PodList
	if err := r.list(ctx, &list, client.InNamespace(a.Namespace)); err != nil {
		return nil, err
	}
	return slices.DeleteFunc(list.Items, func(p corev1.Pod) bool { return !accept.SelectsPod(a, &p) }), nil
}

// childOf is the attachment of one pod, as its parent wants it.
func childOf(a *v1alpha1.NamespaceAttachment, p *corev1.Pod) *v1alpha1.NamespaceAttachment {
	s := a.DeepCopy().Spec
	child := &v1alpha1.NamespaceAttachment{
		ObjectMeta: childMeta(a, kindAttachment, string(p.UID)),
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

// members are what a parent's pods have to say, by their children. A pod that is
// being deleted counts as long as it is attached: nobody waits for it.
func members(a *v1alpha1.NamespaceAttachment, pods []corev1.Pod, children []v1alpha1.NamespaceAttachment, held map[string]bool) []member {
	byUID := map[string]*v1alpha1.NamespaceAttachment{}
	for i, c := range children {
		if metav1.GetControllerOf(&c).UID == a.UID {
			byUID[c.Labels[v1alpha1.LabelPodUID]] = &children[i]
		}
	}
	var out []member
	for _, p := range pods {
		m := memberOf(p.Name, 0, nil)
		name := v1alpha1.ChildName(a.Name, string(p.UID))
		switch c := byUID[string(p.UID)]; {
		case held[name]:
			m = heldMember(p.Name, kindAttachment, name)
		case c != nil:
			m = memberOf(p.Name, c.Generation, c.Status.Conditions)
		}
		if p.DeletionTimestamp.IsZero() || m.ready.Status == metav1.ConditionTrue {
			out = append(out, m)
		}
	}
	return out
}

// parentStatusOf is the whole of a parent's status, all of it the controller's.
func parentStatusOf(a *v1alpha1.NamespaceAttachment, accepted metav1.Condition, t tally) v1alpha1.NamespaceAttachmentStatus {
	ready := t.condition(fmt.Sprintf("%d of %d pods attached", len(t.ready), t.all()),
		"spec.target.podSelector selects no pod; label pods of the namespace, or make the attachment anew with another selector")
	return v1alpha1.NamespaceAttachmentStatus{
		ObservedGeneration: a.Generation,
		Pods:               &v1alpha1.PodCounts{Matched: int32(t.all()), Ready: int32(len(t.ready))},
		Conditions:         parentConditions(a.Generation, a.Status.Conditions, accepted, ready),
	}
}

func (r selectors) write(ctx context.Context, a *v1alpha1.NamespaceAttachment, want v1alpha1.NamespaceAttachmentStatus) (reconcile.Result, error) {
	p := paceOf(r.paces, client.ObjectKeyFromObject(a))
	return r.applySum(ctx, p, a, a.Status, want, a.Status.Conditions, want.Conditions)
}

// ofPod: the parents in its namespace that select a pod. Of an update, both
// versions are asked.
func (r selectors) ofPod(ctx context.Context, o client.Object) []reconcile.Request {
	pod := o.(*corev1.Pod)
	var list v1alpha1.NamespaceAttachmentList
	if err := r.list(ctx, &list, client.InNamespace(pod.Namespace), client.MatchingFields{byTarget: targetSelector}); err != nil {
		log.FromContext(ctx).Error(err, "find who selects a pod")
	}
	var out []reconcile.Request
	for i := range list.Items {
		if accept.SelectsPod(&list.Items[i], pod) {
			out = append(out, reconcile.Request{NamespacedName: client.ObjectKeyFromObject(&list.Items[i])})
		}
	}
	return out
}

func ofChild(_ context.Context, o client.Object) []reconcile.Request {
	if name := v1alpha1.Parent(o); name != "" {
		return []reconcile.Request{{NamespacedName: types.NamespacedName{Namespace: o.GetNamespace(), Name: name}}}
	}
	return nil
}
