package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// What the controller writes on children: on the attachments that it makes for
// the pods of a spec.target.podSelector, and on the publishes that it makes for
// the nodes of those.
const (
	// LabelPodUID is on a child attachment: the UID of the pod that it is for. A
	// later pod of the same name is another.
	LabelPodUID = "patchbay.dev/pod-uid"
	// AnnotationNodeName is on a child publish: the node that it is for.
	AnnotationNodeName = "patchbay.dev/node-name"
)

// Parent is the name of the object that made this one, which is then of the same
// kind and namespace; empty for an object that somebody wrote.
func Parent(o metav1.Object) string {
	if ref := metav1.GetControllerOf(o); ref != nil && ref.APIVersion == GroupVersion.String() {
		return ref.Name
	}
	return ""
}
