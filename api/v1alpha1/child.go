package v1alpha1

import (
	"crypto/sha256"
	"fmt"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

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

// Parent returns the name of the object of the same kind and namespace that this
// one was made for; empty for an object that a user wrote.
func Parent(o metav1.Object) string {
	child, ok := o.(Object)
	ref := metav1.GetControllerOf(o)
	if !ok || ref == nil || ref.APIVersion != GroupVersion.String() || ref.Kind != child.KindName() {
		return ""
	}
	return ref.Name
}

// ChildName is the name of the child that a parent makes for a pod, by the pod's
// UID, or for a node, by its name: at most 63 bytes, and no two alike.
func ChildName(parent, of string) string {
	const longest = 63
	const digits = 10
	suffix := "-" + digest(of, digits)
	if len(parent) > longest-len(suffix) {
		short := strings.TrimRight(parent[:longest-len(suffix)-digits-1], "-.")
		parent = short + "-" + digest(parent, digits)
	}
	return parent + suffix
}

func digest(s string, digits int) string {
	return fmt.Sprintf("%x", sha256.Sum256([]byte(s)))[:digits]
}
