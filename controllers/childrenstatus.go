package controllers

import (
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/patchbay-dev/patchbay/api/v1alpha1"
)

// member is the state of one pod or node of a parent, or of one node of a network.
type member struct {
	name string
	// ready is the child's Ready condition, or why there can be none. The parent
	// waits while it is Unknown for another reason than NodeNotReady.
	ready metav1.Condition
}

// waiting is the Ready condition of a member that has not told its own yet.
var waiting = metav1.Condition{Status: metav1.ConditionUnknown, Reason: v1alpha1.ReasonPending}

// memberOf judges a child by its conditions; a missing child has none.
func memberOf(name string, generation int64, conditions []metav1.Condition) member {
	accepted := meta.FindStatusCondition(conditions, v1alpha1.ConditionAccepted)
	ready := meta.FindStatusCondition(conditions, v1alpha1.ConditionReady)
	switch {
	case accepted == nil || ready == nil:
		return member{name, waiting}
	case accepted.Status == metav1.ConditionFalse:
		return member{name, *accepted}
	case ready.Reason == v1alpha1.ReasonNodeNotReady:
		return member{name, *ready}
	case accepted.Status == metav1.ConditionUnknown, ready.ObservedGeneration != generation:
		return member{name, waiting}
	}
	return member{name, *ready}
}

// nameConflict is the state of a child whose name another object has.
func nameConflict(c child) member {
	return member{c.name, metav1.Condition{Status: metav1.ConditionFalse, Reason: v1alpha1.ReasonNameConflict,
		Message: fmt.Sprintf("%s %s exists and was not made for it; delete that or give it another name", c.KindName(), c.GetName())}}
}

func (m member) waits() bool {
	switch m.ready.Reason {
	case v1alpha1.ReasonPending, v1alpha1.ReasonRebinding, v1alpha1.ReasonPodNotRunning:
		return m.ready.Status != metav1.ConditionTrue
	}
	return false
}

// sum is the state of all members of a parent or network.
type sum struct {
	failing, waiting, ready []member
	// refused is the API server's error where it does not make or change a child.
	refused string
}

func sumUp(members []member, refused error) sum {
	var s sum
	if refused != nil {
		first, _, _ := strings.Cut(refused.Error(), "\n")
		s.refused = "; " + truncate(first, 1024)
	}
	slices.SortFunc(members, func(a, b member) int { return strings.Compare(a.name, b.name) })
	for _, m := range members {
		switch {
		case m.waits():
			s.waiting = append(s.waiting, m)
		case m.ready.Status == metav1.ConditionTrue:
			s.ready = append(s.ready, m)
		default:
			s.failing = append(s.failing, m)
		}
	}
	return s
}

func (s sum) count() int { return len(s.failing) + len(s.waiting) + len(s.ready) }

// condition names a failing member before one that the parent waits for. counts says
// how many are ready, in the parent's words; none is the message without members.
func (s sum) condition(counts, none string) metav1.Condition {
	switch {
	case s.count() == 0:
		return metav1.Condition{Status: metav1.ConditionFalse, Reason: v1alpha1.ReasonPending, Message: none}
	case len(s.failing) > 0:
		first := s.failing[0]
		return metav1.Condition{Status: metav1.ConditionFalse, Reason: first.ready.Reason,
			Message: fmt.Sprintf("%s: %s (%s, %d failing)", first.name, truncate(first.ready.Message, 1024), counts, len(s.failing))}
	case len(s.waiting) > 0:
		return metav1.Condition{Status: metav1.ConditionUnknown, Reason: v1alpha1.ReasonPending,
			Message: fmt.Sprintf("%s, waiting for %d; the first is %s%s", counts, len(s.waiting), s.waiting[0].name, s.refused)}
	case s.refused != "":
		return metav1.Condition{Status: metav1.ConditionUnknown, Reason: v1alpha1.ReasonPending, Message: counts + s.refused}
	}
	return metav1.Condition{Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonProgrammed, Message: counts}
}

// summedConditions returns the conditions of a parent or network for its present
// generation.
func summedConditions(p v1alpha1.Object, accepted, ready metav1.Condition) []metav1.Condition {
	switch accepted.Status {
	case metav1.ConditionFalse:
		ready = metav1.Condition{Status: metav1.ConditionFalse, Reason: v1alpha1.ReasonPending, Message: "not accepted: " + accepted.Message}
	case metav1.ConditionUnknown:
		ready = metav1.Condition{Status: metav1.ConditionUnknown, Reason: v1alpha1.ReasonPending, Message: accepted.Message}
	}
	ready.Type, ready.ObservedGeneration = v1alpha1.ConditionReady, p.GetGeneration()
	out := slices.Clone(*p.Conditions())
	meta.SetStatusCondition(&out, accepted)
	meta.SetStatusCondition(&out, ready)
	return out
}
