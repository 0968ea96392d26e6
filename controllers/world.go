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

// world is the cluster as package accept asks for it, from the cache.
type world struct {
	accept.World
	// missed is set when a network, attachment or namespace that was asked for
	// is not there, or not yet.
	missed bool
	// err says that a read failed, and that no verdict of this world counts.
	err error
}

func (c *cluster) world(ctx context.Context) *world {
	w := &world{}
	get := func(name types.NamespacedName, into client.Object) bool {
		err := c.cache.Get(ctx, name, into)
		if err != nil && !apierrors.IsNotFound(err) {
			w.err = errors.Join(w.err, fmt.Errorf("get %T %s from the cache: %w", into, name, err))
		}
		return err == nil
	}
	w.Network = func(name string) *v1alpha1.BridgeNetwork {
		n := &v1alpha1.BridgeNetwork{}
		if !get(types.NamespacedName{Name: name}, n) {
			w.missed = true
			return nil
		}
		return n
	}
	w.Attachment = func(name types.NamespacedName) *v1alpha1.NamespaceAttachment {
		a := &v1alpha1.NamespaceAttachment{}
		if !get(name, a) {
			w.missed = true
			return nil
		}
		return a
	}
	w.Pod = func(name types.NamespacedName) *corev1.Pod {
		p := &corev1.Pod{}
		if !get(name, p) {
			return nil
		}
		return p
	}
	w.NodeLabels = func(name string) (map[string]string, bool) {
		node := &corev1.Node{}
		ok := get(types.NamespacedName{Name: name}, node)
		return node.Labels, ok
	}
	w.PortHolders = func(node string) []accept.PortHolder {
		holders, err := c.portHolders(ctx, node)
		w.err = errors.Join(w.err, err)
		return holders
	}
	w.NamespaceLabels = func(name string) map[string]string {
		namespace := &corev1.Namespace{}
		w.missed = !get(types.NamespacedName{Name: name}, namespace) || w.missed
		return namespace.Labels
	}
	return w
}
