package controllers

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/patchbay-dev/patchbay/api/v1alpha1"
)

// rollup is what a network's NodeBridges say in sum.
type rollup struct {
	nodes   v1alpha1.NodeCounts
	failing []v1alpha1.FailingNode
	// ready lacks type and generation.
	ready metav1.Condition
}

// rollUp sums up one generation of a network on the nodes that it selects. A
// node whose NodeBridge is missing, Pending, or speaks of another generation is
// waited for, unless the node is lost.
func rollUp(generation int64, selected []string, bridges []v1alpha1.NodeBridge) rollup {
	states := map[string]metav1.Condition{}
	for _, b := range bridges {
		ready := meta.FindStatusCondition(b.Status.Conditions, v1alpha1.ConditionReady)
		if ready != nil && (b.Status.ObservedGeneration == generation || ready.Reason == v1alpha1.ReasonNodeNotReady) {
			states[b.Spec.NodeName] = *ready
		}
	}
	slices.Sort(selected)
	var failing []v1alpha1.FailingNode
	var waiting []string
	for _, node := range selected {
		switch c, ok := states[node]; {
		case !ok, c.Reason == v1alpha1.ReasonPending:
			waiting = append(waiting, node)
		case c.Status != metav1.ConditionTrue:
			failing = append(failing, v1alpha1.FailingNode{Node: node, Reason: shortReason(c.Reason), Message: truncate(c.Message, 1024)})
		}
	}
	all := len(selected)
	r := rollup{nodes: v1alpha1.NodeCounts{Selected: int32(all), Ready: int32(all - len(failing) - len(waiting))}}
	r.failing = failing[:min(len(failing), named)]
	r.ready = sumUp(r.nodes, failing, waiting)
	if r.ready.Status == metav1.ConditionTrue {
		r.ready.Message += crowded(selected, bridges)
	}
	return r
}

// portSteps is how much the number of used ports changes before a network says so: all
// agents watch networks.
const portSteps = 25

// crowded names the node whose bridge is the fullest, if an agent says that one is
// nearly full.
func crowded(selected []string, bridges []v1alpha1.NodeBridge) string {
	most, node, more := int32(0), "", -1
	for _, b := range bridges {
		if b.Status.Ports == 0 || !slices.Contains(selected, b.Spec.NodeName) {
			continue
		}
		more++
		if b.Status.Ports > most || b.Status.Ports == most && b.Spec.NodeName < node {
			most, node = b.Status.Ports, b.Spec.NodeName
		}
	}
	if node == "" {
		return ""
	}
	others := ""
	if more > 0 {
		others = fmt.Sprintf(", and many on %d more", more)
	}
	return fmt.Sprintf("; on %s %d or more of the 1,023 ports that a bridge takes are used%s: plan a second network", node, most/portSteps*portSteps, others)
}

// sumUp says what is most worth knowing: why a node fails before which is
// waited for.
func sumUp(nodes v1alpha1.NodeCounts, failing []v1alpha1.FailingNode, waiting []string) metav1.Condition {
	counts := fmt.Sprintf("on %d of %d nodes", nodes.Ready, nodes.Selected)
	switch {
	case nodes.Selected == 0:
		return metav1.Condition{Status: metav1.ConditionFalse, Reason: v1alpha1.ReasonPending,
			Message: "the network selects no node; label a node or change spec.nodeSelector"}
	case len(failing) > 0:
		return metav1.Condition{Status: metav1.ConditionFalse, Reason: failing[0].Reason,
			Message: fmt.Sprintf("%s, failing on %d; %s: %s", counts, len(failing), failing[0].Node, failing[0].Message)}
	case len(waiting) > 0:
		return metav1.Condition{Status: metav1.ConditionUnknown, Reason: v1alpha1.ReasonPending,
			Message: fmt.Sprintf("%s, waiting for %d; the first is %s", counts, len(waiting), waiting[0])}
	}
	return metav1.Condition{Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonProgrammed,
		Message: fmt.Sprintf("on all %d nodes", nodes.Selected)}
}

// shortReason cuts a reason to what FailingNode takes, such that it still is one:
// what an agent's token can write must not make a network's status invalid.
func shortReason(s string) string {
	return strings.TrimRight(s[:min(len(s), 64)], ",:")
}

// truncate cuts text to a number of bytes, at a whole character.
func truncate(s string, limit int) string {
	if len(s) <= limit {
		return s
	}
	const mark = "..."
	cut := limit - len(mark)
	for cut > 0 && s[cut]&0xC0 == 0x80 {
		cut--
	}
	return s[:cut] + mark
}

// pace is when a sum was written, and since when it differs from what is written.
type pace struct{ wrote, differs time.Time }

// paceOf is kept by name; one name is in the hands of one worker at a time.
func paceOf(paces *sync.Map, name any) *pace {
	p, _ := paces.LoadOrStore(name, &pace{})
	return p.(*pace)
}

// hold is how long a status that differs has to wait before it is written. What
// is urgent does not.
func (p *pace) hold(now time.Time, have, want []metav1.Condition, interval time.Duration) time.Duration {
	if urgent(have, want) {
		p.settled()
		return 0
	}
	waiting := meta.IsStatusConditionPresentAndEqual(want, v1alpha1.ConditionReady, metav1.ConditionUnknown)
	if wait := p.wait(now, waiting, interval); wait > 0 {
		return wait
	}
	p.written(now)
	return 0
}

// urgent is a change of Accepted, which others wait for, or the news that a
// deletion has to wait.
func urgent(have, want []metav1.Condition) bool {
	inUse := v1alpha1.ConditionInUse
	return conditionChanged(have, want, v1alpha1.ConditionAccepted) ||
		(meta.FindStatusCondition(have, inUse) == nil) != (meta.FindStatusCondition(want, inUse) == nil)
}

// wait is how long the next write has to wait: until an interval after the
// last, and while others are merely waited for, an interval from when that
// began, for it will end by itself.
func (p *pace) wait(now time.Time, waiting bool, interval time.Duration) time.Duration {
	if p.differs.IsZero() {
		p.differs = now
	}
	left := interval - now.Sub(p.wrote)
	if waiting {
		left = max(left, interval-now.Sub(p.differs))
	}
	return left
}

// written: what is in the cluster is what should be, by a write of ours.
func (p *pace) written(now time.Time) { *p = pace{wrote: now} }

// settled: it is so without one that counts.
func (p *pace) settled() { p.differs = time.Time{} }
