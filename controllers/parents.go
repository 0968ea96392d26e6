package controllers

import (
	"context"
	"errors"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
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
