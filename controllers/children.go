package controllers

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/patchbay-dev/patchbay/api/v1alpha1"
)

// Kinds of which some are made for others.
const (
	kindAttachment = "NamespaceAttachment"
	kindPublish    = "PortPublish"
)

// family is a parent with the objects of its kind and namespace that it makes:
// one for each pod or node.
type family struct {
	parent client.Object
	// have are all whose controller has the parent's name, and want those that
	// should be.
	have, want []client.Object
	// closed families get no new children, nor does a parent that is being deleted.
	closed bool
}

// childMeta is what every child has. The garbage collector takes it with its
// parent; for all else the controller deletes it.
func childMeta(parent client.Object, kind, of string) metav1.ObjectMeta {
	owner, no := metav1.NewControllerRef(parent, v1alpha1.GroupVersion.WithKind(kind)), false
	owner.BlockOwnerDeletion = &no
	return metav1.ObjectMeta{
		Name: v1alpha1.ChildName(parent.GetName(), of), Namespace: parent.GetNamespace(),
		OwnerReferences: []metav1.OwnerReference{*owner},
	}
}

// tend makes, changes and deletes children until a family is as it should be.
// It returns those of the wanted ones whose names others hold, and that are not
// there for it.
func (c *cluster) tend(ctx context.Context, f family) (held map[string]bool, err error) {
	want := map[string]client.Object{}
	for _, o := range f.want {
		want[o.GetName()] = o
	}
	var errs []error
	for _, child := range f.have {
		w := want[child.GetName()]
		delete(want, child.GetName())
		switch {
		case !child.GetDeletionTimestamp().IsZero():
		case w == nil || !madeAs(child, w):
			errs = append(errs, c.removeChild(ctx, child))
		default:
			errs = append(errs, c.changeChild(ctx, child, w))
		}
	}
	if f.closed || !f.parent.GetDeletionTimestamp().IsZero() {
		return nil, errors.Join(errs...)
	}
	held = map[string]bool{}
	for _, name := range slices.Sorted(maps.Keys(want)) {
		there := want[name].DeepCopyObject().(client.Object)
		if err := c.cache.Get(ctx, client.ObjectKeyFromObject(there), there); err == nil {
			held[name] = true
			continue
		}
		errs = append(errs, c.makeChild(ctx, want[name]))
	}
	return held, errors.Join(errs...)
}

// madeAs is false for the child of a namesake of the parent, for that of another
// pod or node, and for what somebody wrote by hand.
func madeAs(child, want client.Object) bool {
	if a, ok := child.(*v1alpha1.NamespaceAttachment); ok &&
		!equality.Semantic.DeepEqual(a.Spec.Target, want.(*v1alpha1.NamespaceAttachment).Spec.Target) {
		return false
	}
	return metav1.GetControllerOf(child).UID == metav1.GetControllerOf(want).UID &&
		child.GetLabels()[v1alpha1.LabelPodUID] == want.GetLabels()[v1alpha1.LabelPodUID] &&
		child.GetAnnotations()[v1alpha1.AnnotationNodeName] == want.GetAnnotations()[v1alpha1.AnnotationNodeName]
}

func (c *cluster) makeChild(ctx context.Context, child client.Object) error {
	log.FromContext(ctx).Info("create child", "child", child.GetName())
	if err := c.Create(ctx, child, client.FieldOwner(v1alpha1.FieldManagerController)); err != nil {
		return fmt.Errorf("create child %s: %w", child.GetName(), err)
	}
	return nil
}

func (c *cluster) removeChild(ctx context.Context, child client.Object) error {
	log.FromContext(ctx).Info("delete child", "child", child.GetName())
	uid := child.GetUID()
	if err := c.Delete(ctx, child, client.Preconditions{UID: &uid}); client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("delete child %s: %w", child.GetName(), err)
	}
	return nil
}

// changeChild patches what the child's spec has of its parent, if it differs.
func (c *cluster) changeChild(ctx context.Context, child, want client.Object) error {
	before := child.DeepCopyObject().(client.Object)
	if !takeSpec(child, want) {
		return nil
	}
	log.FromContext(ctx).Info("change child", "child", child.GetName())
	err := c.Patch(ctx, child, client.MergeFrom(before), client.FieldOwner(v1alpha1.FieldManagerController))
	if client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("change child %s: %w", child.GetName(), err)
	}
	return nil
}

// takeSpec gives a child the spec of another object, and says whether it had a
// different one.
func takeSpec(child, want client.Object) bool {
	switch child := child.(type) {
	case *v1alpha1.NamespaceAttachment:
		return take(&child.Spec, want.(*v1alpha1.NamespaceAttachment).Spec)
	case *v1alpha1.PortPublish:
		return take(&child.Spec, want.(*v1alpha1.PortPublish).Spec)
	}
	return false
}

func take[T any](into *T, spec T) bool {
	differs := !equality.Semantic.DeepEqual(*into, spec)
	*into = spec
	return differs
}

// sooner is the earlier of two times to look again.
func sooner(a, b reconcile.Result) reconcile.Result {
	if a.RequeueAfter == 0 || b.RequeueAfter != 0 && b.RequeueAfter < a.RequeueAfter {
		return b
	}
	return a
}
