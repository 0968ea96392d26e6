package controllers

import (
	"context"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/patchbay-dev/patchbay/api/v1alpha1"
	"github.com/patchbay-dev/patchbay/controllers/accept"
)

// Ports of nodes that Services and pods have: kube-proxy and the portmap plugin
// take the packets before Patchbay's rules see them.

func nodeOfHostPorts(p *corev1.Pod) []string {
	if len(accept.HostPorts(p)) == 0 {
		return nil
	}
	return unlessEmpty(p.Spec.NodeName)
}

func nodesOfNodePorts(s *corev1.Service) []string {
	if len(accept.NodePorts(s)) == 0 {
		return nil
	}
	return []string{onAllNodes}
}

// portHolders returns the Services and pods that have ports on a node, in a stable
// order.
func (c *cluster) portHolders(ctx context.Context, node string) ([]accept.PortHolder, error) {
	var out []accept.PortHolder
	services := &corev1.ServiceList{}
	if err := c.list(ctx, services, client.MatchingFields{byHostPort: onAllNodes}); err != nil {
		return nil, err
	}
	for i := range services.Items {
		out = append(out, accept.NodePorts(&services.Items[i])...)
	}
	if node != "" {
		pods := &corev1.PodList{}
		if err := c.list(ctx, pods, client.MatchingFields{byHostPort: node}); err != nil {
			return nil, err
		}
		for i := range pods.Items {
			out = append(out, accept.HostPorts(&pods.Items[i])...)
		}
	}
	slices.SortFunc(out, accept.PortHolder.Compare)
	return out, nil
}

// nodePortsChanged passes a Service that got, changed or lost ports of the nodes.
var nodePortsChanged = predicate.Funcs{
	CreateFunc: func(e event.CreateEvent) bool { return len(accept.NodePorts(e.Object.(*corev1.Service))) > 0 },
	DeleteFunc: func(e event.DeleteEvent) bool { return len(accept.NodePorts(e.Object.(*corev1.Service))) > 0 },
	UpdateFunc: func(e event.UpdateEvent) bool {
		return !slices.Equal(accept.NodePorts(e.ObjectOld.(*corev1.Service)), accept.NodePorts(e.ObjectNew.(*corev1.Service)))
	},
}

// hostPortsChanged passes a pod with ports of a node that came there, or went.
var hostPortsChanged = predicate.Funcs{
	CreateFunc: func(e event.CreateEvent) bool { return len(nodeOfHostPorts(e.Object.(*corev1.Pod))) > 0 },
	DeleteFunc: func(e event.DeleteEvent) bool { return len(nodeOfHostPorts(e.Object.(*corev1.Pod))) > 0 },
	UpdateFunc: func(e event.UpdateEvent) bool {
		return !slices.Equal(nodeOfHostPorts(e.ObjectOld.(*corev1.Pod)), nodeOfHostPorts(e.ObjectNew.(*corev1.Pod)))
	},
}

// ofService returns the publishes that want a port of a Service. An update asks with
// both versions.
func (r publishes) ofService(ctx context.Context, s client.Object) []reconcile.Request {
	return r.wanting(ctx, accept.NodePorts(s.(*corev1.Service)))
}

// ofHostPorts returns the publishes that want a port of a pod, as ofService does.
func (r publishes) ofHostPorts(ctx context.Context, p client.Object) []reconcile.Request {
	return r.wanting(ctx, accept.HostPorts(p.(*corev1.Pod)))
}

// wanting returns the publishes that want one of the ports, on any node.
func (r publishes) wanting(ctx context.Context, holders []accept.PortHolder) []reconcile.Request {
	list := &v1alpha1.PortPublishList{}
	if len(holders) == 0 {
		return nil
	}
	if err := r.list(ctx, list); err != nil {
		log.FromContext(ctx).Error(err, "find the publishes that want a port")
		return nil
	}
	list.Items = slices.DeleteFunc(list.Items, func(p v1alpha1.PortPublish) bool {
		return !slices.ContainsFunc(holders, func(h accept.PortHolder) bool { return h.InWay(&p) })
	})
	return requestsOf(list)
}
