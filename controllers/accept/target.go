package accept

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/patchbay-dev/patchbay/api/v1alpha1"
)

// Binding is where an attachment belongs.
type Binding struct {
	Node string
	// PodUID is the UID by which the node knows the pod that the attachment names.
	PodUID string
}

// BindingOf returns where an attachment belongs as the world is. Node is empty while
// neither the spec nor a pod names one, and for a parent, which is never bound. While
// its pod does not exist, or has no node, an attachment stays where it is, without a
// pod.
func BindingOf(a *v1alpha1.NamespaceAttachment, w World) Binding {
	switch t := a.Spec.Target; {
	case t.Netns != nil && t.Netns.NodeName != "":
		return Binding{Node: t.Netns.NodeName}
	case w.Standalone:
		return Binding{Node: w.NodeName}
	case t.Pod == nil:
		return Binding{}
	}
	if p := podOf(a, w); p != nil && p.Spec.NodeName != "" {
		return Binding{Node: p.Spec.NodeName, PodUID: uidOnNode(p)}
	}
	return Binding{Node: a.Status.NodeName}
}

// uidOnNode is a pod's UID on its node. The API server has only a mirror of a static pod,
// with another UID.
func uidOnNode(p *corev1.Pod) string {
	if static := p.Annotations[corev1.MirrorPodAnnotationKey]; static != "" {
		return static
	}
	return string(p.UID)
}

// IsParent says whether an attachment is wired to nothing itself, but is the
// parent of one attachment for each pod that it selects.
func IsParent(a *v1alpha1.NamespaceAttachment) bool { return a.Spec.Target.PodSelector != nil }

// SelectsPod says whether an attachment's podSelector selects a pod, which then
// has or gets an attachment of its own; one that has run to its end does not. A
// selector that Attachment does not accept selects nothing.
func SelectsPod(a *v1alpha1.NamespaceAttachment, p *corev1.Pod) bool {
	return IsParent(a) && !Ended(p) && p.Namespace == a.Namespace && matches(a.Spec.Target.PodSelector, p.Labels)
}

// Ended says whether a pod has run to its end, and will not run again.
func Ended(p *corev1.Pod) bool {
	return p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed
}

// podOf is the pod that an attachment names. That of a child is the one that it
// was made for, and no later one of the same name.
func podOf(a *v1alpha1.NamespaceAttachment, w World) *corev1.Pod {
	p := w.Pod(podName(a))
	if p == nil || v1alpha1.Parent(a) != "" && a.Labels[v1alpha1.LabelPodUID] != string(p.UID) {
		return nil
	}
	return p
}

func podName(a *v1alpha1.NamespaceAttachment) types.NamespacedName {
	return types.NamespacedName{Namespace: a.Namespace, Name: a.Spec.Target.Pod.Name}
}

func target(a *v1alpha1.NamespaceAttachment, w World) *refusal {
	switch t := a.Spec.Target; {
	case t.PodSelector != nil && w.Standalone:
		return refuse(v1alpha1.ReasonUnsupported,
			"spec.target.podSelector: there are no pods without a cluster; name each pod's network namespace in spec.target.netns of its own attachment, with lifecycle External")
	case t.Pod != nil && w.Standalone:
		return refuse(v1alpha1.ReasonUnsupported,
			"spec.target.pod: there are no pods without a cluster; name the pod's network namespace in spec.target.netns, with lifecycle External")
	case t.PodSelector != nil:
		if err := selectorError(t.PodSelector); err != nil {
			return refuse(v1alpha1.ReasonUnsupported, "spec.target.podSelector: %v; create the attachment anew with a correct selector", err)
		}
	case t.Pod != nil:
		if p := podOf(a, w); p != nil && p.Spec.HostNetwork {
			return refuse(v1alpha1.ReasonUnsupported,
				"pod %s is in the node's own network, which nothing is wired to; make the pod without spec.hostNetwork", podName(a))
		}
	}
	return nil
}

// placed comes last: an error that holds on every node is told before the pod has
// one.
func placed(a *v1alpha1.NamespaceAttachment, w World) *refusal {
	switch {
	case a.Spec.Target.Pod == nil || BindingOf(a, w).Node != "":
		return nil
	case podOf(a, w) == nil:
		return refuse(v1alpha1.ReasonPending, "waiting for pod %s, which does not exist", podName(a))
	}
	return refuse(v1alpha1.ReasonPending, "waiting for pod %s, which is not on a node yet", podName(a))
}
