package controllers

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/patchbay-dev/patchbay/api/v1alpha1"
)

// parents keeps the children of an object as they should be, and writes the
// object's status, which sums up the children's. A parent is an attachment with
// a podSelector or a publish of such an attachment.
type parents struct {
	*cluster
	throttles *sync.Map
}

// parent is one object that has children.
type parent struct {
	subject
	verdict
	// list is an empty list of the parent's kind.
	list client.ObjectList
	// wanted returns the children that the parent should have.
	wanted func(context.Context) ([]child, error)
	// withStatus returns the parent with the status that its children make.
	withStatus func(sum) v1alpha1.Object
	// replaced reports that the status has parts that an agent wrote: only a merge
	// patch removes them.
	replaced bool
}

// reconcile makes one parent's children what they should be and writes its status.
func (r parents) reconcile(ctx context.Context, p parent) (reconcile.Result, error) {
	if wait := patience(p.subject, p.verdict, time.Now(), r.options.ReferenceGrace); wait > 0 {
		return reconcile.Result{RequeueAfter: wait}, nil
	}
	f := family{parent: p.object, closed: p.accepted.Status != metav1.ConditionTrue}
	var err error
	if f.want, err = p.wanted(ctx); err != nil {
		return reconcile.Result{}, err
	}
	if f.have, err = r.children(ctx, p.object, p.list); err != nil {
		return reconcile.Result{}, err
	}
	taken, childErr := r.sync(ctx, f)
	result, err := r.write(ctx, p, p.withStatus(sumUp(f.members(taken), childErr)))
	if len(taken) > 0 { // any object may hold the name: no event tells when it is free
		result = sooner(result, reconcile.Result{RequeueAfter: r.options.RollupInterval})
	}
	return result, errors.Join(childErr, err)
}

func (r parents) write(ctx context.Context, p parent, want v1alpha1.Object) (reconcile.Result, error) {
	t := throttleOf(r.throttles, client.ObjectKeyFromObject(want))
	if !p.replaced {
		return r.applySum(ctx, t, p.object, want)
	}
	t.written(time.Now())
	logConditions(ctx, *p.object.Conditions(), *want.Conditions())
	return r.patchStatus(ctx, want, p.object)
}

// sooner returns the result that looks again earlier.
func sooner(a, b reconcile.Result) reconcile.Result {
	if a.RequeueAfter == 0 || b.RequeueAfter != 0 && b.RequeueAfter < a.RequeueAfter {
		return b
	}
	return a
}

// family is a parent with the objects of its kind and namespace that the
// controller makes for it: one for each pod or node.
type family struct {
	parent v1alpha1.Object
	// have are all objects whose controller has the parent's name.
	have []v1alpha1.Object
	want []child
	// closed families get no new children, nor does a parent that is being deleted.
	closed bool
}

// child is an object as its parent wants it.
type child struct {
	v1alpha1.Object
	// name is the pod or node that the child is for.
	name string
	// leaving says that the pod is being deleted: the parent's status counts it
	// while it is attached and does not wait for it.
	leaving bool
}

// childMeta is the metadata of every child. The garbage collector deletes a child
// whose parent is gone; in all other cases the controller does.
func childMeta(parent v1alpha1.Object, of string) metav1.ObjectMeta {
	owner, no := metav1.NewControllerRef(parent, v1alpha1.GroupVersion.WithKind(parent.KindName())), false
	owner.BlockOwnerDeletion = &no
	return metav1.ObjectMeta{
		Name: v1alpha1.ChildName(parent.GetName(), of), Namespace: parent.GetNamespace(),
		OwnerReferences: []metav1.OwnerReference{*owner},
	}
}

// children reads the objects whose controller has the parent's name into an empty
// list.
func (c *cluster) children(ctx context.Context, parent v1alpha1.Object, list client.ObjectList) ([]v1alpha1.Object, error) {
	if err := c.List(ctx, list, client.InNamespace(parent.GetNamespace()), client.MatchingFields{byParent: parent.GetName()}); err != nil {
		return nil, fmt.Errorf("list the children of %s %s: %w", parent.KindName(), client.ObjectKeyFromObject(parent), err)
	}
	var out []v1alpha1.Object
	_ = meta.EachListItem(list, func(o runtime.Object) error {
		out = append(out, o.(v1alpha1.Object))
		return nil
	})
	return out, nil
}

// sync creates, changes and deletes children until a family is as it should be.
// It returns the names of missing children that other objects have.
func (c *cluster) sync(ctx context.Context, f family) (taken map[string]bool, err error) {
	want := map[string]v1alpha1.Object{}
	for _, w := range f.want {
		want[w.GetName()] = w.Object
	}
	var errs []error
	for _, have := range f.have {
		w := want[have.GetName()]
		delete(want, have.GetName())
		switch {
		case !have.GetDeletionTimestamp().IsZero():
		case w == nil || !madeAs(have, w):
			errs = append(errs, c.deleteChild(ctx, have))
		default:
			errs = append(errs, c.changeChild(ctx, have, w))
		}
	}
	if f.closed || !f.parent.GetDeletionTimestamp().IsZero() {
		return nil, errors.Join(errs...)
	}
	taken = map[string]bool{}
	for _, name := range slices.Sorted(maps.Keys(want)) {
		there := want[name].DeepCopyObject().(client.Object)
		if err := c.cache.Get(ctx, client.ObjectKeyFromObject(there), there); err == nil {
			taken[name] = true
			continue
		}
		errs = append(errs, c.createChild(ctx, want[name]))
	}
	return taken, errors.Join(errs...)
}

// members returns the state of each wanted child.
func (f family) members(taken map[string]bool) []member {
	have := map[string]v1alpha1.Object{}
	for _, o := range f.have {
		have[o.GetName()] = o
	}
	var out []member
	for _, w := range f.want {
		m := memberOf(w.name, 0, nil)
		switch o := have[w.GetName()]; {
		case taken[w.GetName()]:
			m = nameConflict(w)
		case o != nil && madeAs(o, w.Object):
			m = memberOf(w.name, o.GetGeneration(), *o.Conditions())
		}
		if !w.leaving || m.ready.Status == metav1.ConditionTrue {
			out = append(out, m)
		}
	}
	return out
}

// madeAs is false for the child of a namesake of the parent, for the child of another
// pod or node, and for an object that was written by hand.
func madeAs(have, want v1alpha1.Object) bool {
	if a, ok := have.(*v1alpha1.NamespaceAttachment); ok &&
		!equality.Semantic.DeepEqual(a.Spec.Target, want.(*v1alpha1.NamespaceAttachment).Spec.Target) {
		return false
	}
	return metav1.GetControllerOf(have).UID == metav1.GetControllerOf(want).UID &&
		have.GetLabels()[v1alpha1.LabelPodUID] == want.GetLabels()[v1alpha1.LabelPodUID] &&
		have.GetAnnotations()[v1alpha1.AnnotationNodeName] == want.GetAnnotations()[v1alpha1.AnnotationNodeName]
}

func (c *cluster) createChild(ctx context.Context, want client.Object) error {
	log.FromContext(ctx).Info("create child", "child", want.GetName())
	if err := c.Create(ctx, want, client.FieldOwner(v1alpha1.FieldManagerController)); err != nil {
		return fmt.Errorf("create child %s: %w", want.GetName(), err)
	}
	return nil
}

func (c *cluster) deleteChild(ctx context.Context, have client.Object) error {
	log.FromContext(ctx).Info("delete child", "child", have.GetName())
	uid := have.GetUID()
	if err := c.Delete(ctx, have, client.Preconditions{UID: &uid}); client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("delete child %s: %w", have.GetName(), err)
	}
	return nil
}

// changeChild patches the child's spec where it differs from the parent's wish.
func (c *cluster) changeChild(ctx context.Context, have, want v1alpha1.Object) error {
	if equality.Semantic.DeepEqual(have.SpecPointer(), want.SpecPointer()) {
		return nil
	}
	before := have.DeepCopyObject().(client.Object)
	v1alpha1.CopySpec(have, want)
	log.FromContext(ctx).Info("change child", "child", have.GetName())
	err := c.Patch(ctx, have, client.MergeFrom(before), client.FieldOwner(v1alpha1.FieldManagerController))
	if client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("change child %s: %w", have.GetName(), err)
	}
	return nil
}
