// Package accept decides whether a custom resource makes sense where it is:
// whether what it refers to exists, whether its namespace may use it, and what
// of it must fit together across objects. It promises to be pure, and to be
// the one place for these rules: the controller and a standalone node call the
// same functions. What can be said of one object alone is in the CRDs.
package accept

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"

	"github.com/patchbay-dev/patchbay/api/v1alpha1"
)

// World answers what the rules ask about other objects. The functions return
// nil or false for what does not exist.
type World struct {
	// Standalone is a node without a cluster: there are no tenants, and the only
	// node is NodeName.
	Standalone bool
	// NodeName is the name of the standalone node.
	NodeName string

	Network    func(name string) *v1alpha1.BridgeNetwork
	Attachment func(name types.NamespacedName) *v1alpha1.NamespaceAttachment
	// Pod is not asked in standalone mode.
	Pod func(name types.NamespacedName) *corev1.Pod
	// NodeLabels returns a node's labels, and whether the node exists. It is not
	// asked in standalone mode.
	NodeLabels func(name string) (map[string]string, bool)
	// NamespaceLabels returns the labels of a Kubernetes namespace. It is not
	// asked in standalone mode.
	NamespaceLabels func(name string) map[string]string
	// PortHolders returns what of Kubernetes' own has ports on a node, or with the
	// empty name on all of them; nil in standalone mode.
	PortHolders func(node string) []PortHolder
}

// Local is the world of a standalone node that has these objects.
func Local(nodeName string, networks []*v1alpha1.BridgeNetwork, attachments []*v1alpha1.NamespaceAttachment) World {
	byName := map[string]*v1alpha1.BridgeNetwork{}
	for _, n := range networks {
		byName[n.Name] = n
	}
	byKey := map[types.NamespacedName]*v1alpha1.NamespaceAttachment{}
	for _, a := range attachments {
		byKey[types.NamespacedName{Namespace: a.Namespace, Name: a.Name}] = a
	}
	return World{
		Standalone: true,
		NodeName:   nodeName,
		Network:    func(name string) *v1alpha1.BridgeNetwork { return byName[name] },
		Attachment: func(name types.NamespacedName) *v1alpha1.NamespaceAttachment { return byKey[name] },
	}
}

// Selects says whether a network wants its bridge on a node of the world. A
// selector that Network does not accept selects nothing.
func Selects(n *v1alpha1.BridgeNetwork, nodeName string, w World) bool {
	nodeLabels, ok := w.nodeLabels(nodeName)
	return ok && matches(n.Spec.NodeSelector, nodeLabels)
}

// nodeLabels gives a standalone node the one label that every kubelet sets.
func (w World) nodeLabels(name string) (map[string]string, bool) {
	if w.Standalone {
		return map[string]string{corev1.LabelHostname: w.NodeName}, name == w.NodeName
	}
	return w.NodeLabels(name)
}

func (w World) namespaceLabels(name string) map[string]string {
	if w.Standalone {
		return map[string]string{corev1.LabelMetadataName: name}
	}
	return w.NamespaceLabels(name)
}

// matches treats an absent selector like an empty one: it matches everything.
func matches(s *metav1.LabelSelector, set map[string]string) bool {
	if s == nil {
		return true
	}
	selector, err := metav1.LabelSelectorAsSelector(s)
	return err == nil && selector.Matches(labels.Set(set))
}

// refusal is why an object is not accepted, or with ReasonPending, not yet.
type refusal struct{ reason, message string }

func refuse(reason, format string, args ...any) *refusal {
	return &refusal{reason, fmt.Sprintf(format, args...)}
}

// condition is the verdict on one generation of an object; the caller sets
// LastTransitionTime.
func condition(generation int64, r *refusal, accepted string) metav1.Condition {
	c := metav1.Condition{
		Type:               v1alpha1.ConditionAccepted,
		Status:             metav1.ConditionTrue,
		ObservedGeneration: generation,
		Reason:             v1alpha1.ReasonAccepted,
		Message:            accepted,
	}
	if r != nil {
		c.Status, c.Reason, c.Message = metav1.ConditionFalse, r.reason, r.message
	}
	if c.Reason == v1alpha1.ReasonPending {
		c.Status = metav1.ConditionUnknown
	}
	return c
}

// first runs rules in their order and returns the first refusal.
func first(rules ...func() *refusal) *refusal {
	for _, rule := range rules {
		if r := rule(); r != nil {
			return r
		}
	}
	return nil
}

func subnetOf(addr netip.Addr, subnets []netip.Prefix) (netip.Prefix, bool) {
	i := slices.IndexFunc(subnets, func(s netip.Prefix) bool { return s.Contains(addr) })
	if i < 0 {
		return netip.Prefix{}, false
	}
	return subnets[i], true
}

func join[T fmt.Stringer](list []T) string {
	var out []string
	for _, v := range list {
		out = append(out, v.String())
	}
	return strings.Join(out, ", ")
}
