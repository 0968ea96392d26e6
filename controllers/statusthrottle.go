package controllers

import (
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/patchbay-dev/patchbay/api/v1alpha1"
)

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
