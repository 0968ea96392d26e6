package controllers

import (
	"context"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/patchbay-dev/patchbay/api/v1alpha1"
	"github.com/patchbay-dev/patchbay/controllers/accept"
)

// lookup is the cluster as package accept asks for it, from the cache.
type lookup struct {
	accept.World
	// missed is set when a network, attachment or namespace that was asked for
	// is not there, or not yet.
	missed bool
	// err says that a read failed, and that no verdict by this lookup counts.
	err error
}

func (c *cluster) lookup(ctx context.Context) *lookup {
	l := &lookup{}
	get := func(name types.NamespacedName, into client.Object) bool {
		err := c.cache.Get(ctx, name, into)
		if err != nil && !apierrors.IsNotFound(err) {
			l.err = errors.Join(l.err, fmt.Errorf("get %T %s from the cache: %w", into, name, err))
		}
		return err == nil
	}
	need := func(name types.NamespacedName, into client.Object) bool {
		ok := get(name, into)
		l.missed = !ok || l.missed
		return ok
	}
	l.Network = func(name string) *v1alpha1.BridgeNetwork {
		if n := (&v1alpha1.BridgeNetwork{}); need(types.NamespacedName{Name: name}, n) {
			return n
		}
		return nil
	}
	l.Attachment = func(name types.NamespacedName) *v1alpha1.NamespaceAttachment {
		if a := (&v1alpha1.NamespaceAttachment{}); need(name, a) {
			return a
		}
		return nil
	}
	l.Pod = func(name types.NamespacedName) *corev1.Pod {
		if p := (&corev1.Pod{}); get(name, p) {
			return p
		}
		return nil
	}
	l.NodeLabels = func(name string) (map[string]string, bool) {
		node := &corev1.Node{}
		ok := get(types.NamespacedName{Name: name}, node)
		return node.Labels, ok
	}
	l.PortHolders = func(node string) []accept.PortHolder {
		holders, err := c.portHolders(ctx, node)
		l.err = errors.Join(l.err, err)
		return holders
	}
	l.NamespaceLabels = func(name string) map[string]string {
		namespace := &corev1.Namespace{}
		need(types.NamespacedName{Name: name}, namespace)
		return namespace.Labels
	}
	return l
}
