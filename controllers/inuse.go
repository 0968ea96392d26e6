package controllers

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"github.com/patchbay-dev/patchbay/api/v1alpha1"
)

// InUseFinalizer keeps a BridgeNetwork while accepted attachments use it.
const InUseFinalizer = "patchbay.dev/in-use"

// named bounds how many objects a message or a list names.
const named = 10

// usersOf returns the names of the accepted attachments.
func usersOf(list []v1alpha1.NamespaceAttachment) []string {
	var out []string
	for _, a := range list {
		if meta.IsStatusConditionTrue(a.Status.Conditions, v1alpha1.ConditionAccepted) {
			out = append(out, a.Namespace+"/"+a.Name)
		}
	}
	slices.Sort(out)
	return out
}

func inUse(n *v1alpha1.BridgeNetwork, users []string) metav1.Condition {
	text := strings.Join(users[:min(len(users), named)], ", ")
	if more := len(users) - named; more > 0 {
		text += fmt.Sprintf(" (and %d more)", more)
	}
	return metav1.Condition{
		Type: v1alpha1.ConditionInUse, Status: metav1.ConditionTrue, ObservedGeneration: n.Generation,
		Reason: v1alpha1.ReasonInUse, Message: "stays until these attachments are deleted or moved: " + text,
	}
}

// users returns the accepted attachments of a network that is being deleted.
func (r networks) users(ctx context.Context, n *v1alpha1.BridgeNetwork) ([]string, error) {
	if n.DeletionTimestamp.IsZero() {
		return nil, nil
	}
	var list v1alpha1.NamespaceAttachmentList
	if err := r.List(ctx, &list, client.MatchingFields{byNetwork: n.Name}); err != nil {
		return nil, fmt.Errorf("list the attachments of BridgeNetwork %s: %w", n.Name, err)
	}
	return usersOf(list.Items), nil
}

// protect adds the finalizer to a network, and removes it from a network that is
// being deleted without users. It reports whether it did either.
func protect(n *v1alpha1.BridgeNetwork, users []string) bool {
	if n.DeletionTimestamp.IsZero() {
		return controllerutil.AddFinalizer(n, InUseFinalizer)
	}
	return len(users) == 0 && controllerutil.RemoveFinalizer(n, InUseFinalizer)
}
