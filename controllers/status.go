package controllers

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/apiutil"
	"sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/patchbay-dev/patchbay/api/v1alpha1"
)

// conflictDelay lets the event of the write that we lost against arrive.
const conflictDelay = 50 * time.Millisecond

// applyStatus writes the controller's part of a status by server-side apply: it gives
// up the controller's fields that status lacks, and leaves the agent's. The object's
// UID keeps the verdict on one object from its namesake. The request is typed, since
// reads wait for writes of their own representation only.
func (c *cluster) applyStatus(ctx context.Context, obj client.Object, status any) (reconcile.Result, error) {
	gvk, err := apiutil.GVKForObject(obj, c.Scheme())
	if err != nil {
		return reconcile.Result{}, err
	}
	body, err := json.Marshal(map[string]any{
		"apiVersion": gvk.GroupVersion().String(),
		"kind":       gvk.Kind,
		"metadata":   map[string]any{"name": obj.GetName(), "namespace": obj.GetNamespace(), "uid": obj.GetUID()},
		"status":     status,
	})
	if err != nil {
		return reconcile.Result{}, fmt.Errorf("marshal status: %w", err)
	}
	return c.writeStatus(ctx, obj, client.RawPatch(types.ApplyPatchType, body), client.ForceOwnership)
}

// applySum writes a status that sums up other objects if it differs. The throttle
// delays it, so that many changes at once cost few writes.
func (c *cluster) applySum(ctx context.Context, t *throttle, have, want v1alpha1.Object) (reconcile.Result, error) {
	if equality.Semantic.DeepEqual(have.StatusPointer(), want.StatusPointer()) {
		t.settled()
		return reconcile.Result{}, nil
	}
	if wait := t.hold(time.Now(), *have.Conditions(), *want.Conditions(), c.options.RollupInterval); wait > 0 {
		return reconcile.Result{RequeueAfter: wait}, nil
	}
	logConditions(ctx, *have.Conditions(), *want.Conditions())
	return c.applyStatus(ctx, have, want.StatusPointer())
}

// patchStatus writes the difference of two versions of an object, and only onto the
// version that was read: a merge patch replaces the whole list of conditions.
func (c *cluster) patchStatus(ctx context.Context, obj, before client.Object) (reconcile.Result, error) {
	return c.writeStatus(ctx, obj, client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{}))
}

func (c *cluster) writeStatus(ctx context.Context, obj client.Object, patch client.Patch, opts ...client.SubResourcePatchOption) (reconcile.Result, error) {
	gvk, err := apiutil.GVKForObject(obj, c.Scheme())
	if err != nil {
		return reconcile.Result{}, err
	}
	c.metrics.statusWrites.WithLabelValues(gvk.Kind).Inc()
	opts = append(opts, client.FieldOwner(v1alpha1.FieldManagerController))
	return writeResult(c.Status().Patch(ctx, obj, patch, opts...), "write status of %s %s", gvk.Kind, client.ObjectKeyFromObject(obj))
}

// logConditions logs the conditions that changed their status or reason.
func logConditions(ctx context.Context, have, want []metav1.Condition) {
	for _, c := range want {
		if old := meta.FindStatusCondition(have, c.Type); old == nil || old.Status != c.Status || old.Reason != c.Reason {
			log.FromContext(ctx).Info("condition changed", "type", c.Type, "status", c.Status, "reason", c.Reason, "message", c.Message)
		}
	}
}

// writeResult is the result of a write. A deleted object needs none; an object that
// has changed meanwhile is reconciled again.
func writeResult(err error, format string, args ...any) (reconcile.Result, error) {
	switch {
	case apierrors.IsConflict(err):
		return reconcile.Result{RequeueAfter: conflictDelay}, nil
	case client.IgnoreNotFound(err) == nil:
		return reconcile.Result{}, nil
	}
	return reconcile.Result{}, fmt.Errorf(format+": %w", append(args, err)...)
}

// throttle limits how often one status that sums up other objects is written.
type throttle struct {
	// wrote is when the status was written, and differs since when it should be
	// another; zero while it is as it should be.
	wrote, differs time.Time
}

// throttleOf returns the throttle of a name; one name is in the hands of one
// worker at a time.
func throttleOf(throttles *sync.Map, name any) *throttle {
	t, _ := throttles.LoadOrStore(name, &throttle{})
	return t.(*throttle)
}

// hold returns how long a status that differs has to wait before it is written. An
// urgent change does not wait.
func (t *throttle) hold(now time.Time, have, want []metav1.Condition, interval time.Duration) time.Duration {
	if urgent(have, want) {
		t.settled()
		return 0
	}
	waiting := meta.IsStatusConditionPresentAndEqual(want, v1alpha1.ConditionReady, metav1.ConditionUnknown)
	if wait := t.wait(now, waiting, interval); wait > 0 {
		return wait
	}
	t.written(now)
	return 0
}

// urgent reports a change of Accepted, which other objects wait for, or the news
// that a deletion has to wait.
func urgent(have, want []metav1.Condition) bool {
	inUse := v1alpha1.ConditionInUse
	return conditionChanged(have, want, v1alpha1.ConditionAccepted) ||
		(meta.FindStatusCondition(have, inUse) == nil) != (meta.FindStatusCondition(want, inUse) == nil)
}

// wait returns how long the next write has to wait: an interval from the last
// write, and while the object is waiting for its members, an interval from when
// the status began to differ, for the waiting ends by itself.
func (t *throttle) wait(now time.Time, waiting bool, interval time.Duration) time.Duration {
	if t.differs.IsZero() {
		t.differs = now
	}
	left := interval - now.Sub(t.wrote)
	if waiting {
		left = max(left, interval-now.Sub(t.differs))
	}
	return left
}

// written notes that the status is as it should be, by a write at now.
func (t *throttle) written(now time.Time) { *t = throttle{wrote: now} }

// settled notes that the status is as it should be, without a write that counts.
func (t *throttle) settled() { t.differs = time.Time{} }
