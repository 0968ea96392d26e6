package controllers

import (
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/patchbay-dev/patchbay/api/v1alpha1"
)

// rollup sums up a network's NodeBridges.
type rollup struct {
	counts  v1alpha1.NodeCounts
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
	var members []member
	for _, node := range selected {
		ready, ok := states[node]
		if !ok {
			ready = waiting
		}
		members = append(members, member{node, ready})
	}
	all := sumUp(members, nil)
	counts := fmt.Sprintf("on %d of %d nodes", len(all.ready), all.count())
	if len(all.ready) == all.count() {
		counts = fmt.Sprintf("on all %d nodes", all.count())
	}
	r := rollup{
		counts: v1alpha1.NodeCounts{Selected: int32(all.count()), Ready: int32(len(all.ready))},
		ready:  all.condition(counts, "the network selects no node; label a node or change spec.nodeSelector"),
	}
	for _, m := range all.failing[:min(len(all.failing), named)] {
		r.failing = append(r.failing, v1alpha1.FailingNode{Node: m.name, Reason: shortReason(m.ready.Reason), Message: truncate(m.ready.Message, 1024)})
	}
	switch {
	case len(r.failing) > 0:
		first := r.failing[0]
		r.ready.Reason = first.Reason
		r.ready.Message = fmt.Sprintf("%s, failing on %d; %s: %s", counts, len(all.failing), first.Node, first.Message)
	case r.ready.Status == metav1.ConditionTrue:
		r.ready.Message += crowded(selected, bridges)
	}
	return r
}

// portSteps is the step in which a network tells the number of used ports: each change
// goes to all agents.
const portSteps = 25

// crowded names the node with the fullest bridge, if an agent reports a nearly full one.
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

// shortReason cuts a reason to the length that FailingNode takes, so that a status
// that an agent's token can write never makes a network's status invalid.
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
