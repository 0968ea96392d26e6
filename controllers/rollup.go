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

// sumUp returns the Ready condition of a network. It names a failing node before one
// that the network waits for.
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
