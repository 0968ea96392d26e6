package controllers

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/manager"

	"github.com/patchbay-dev/patchbay/api/v1alpha1"
	"github.com/patchbay-dev/patchbay/controllers/accept"
)

// Indexes of the cache.
const (
	// byNode finds the attachments, publishes and NodeBridges that are bound to a
	// node or want to be; and pods.
	byNode = "node"
	// byNetwork finds attachments and NodeBridges.
	byNetwork = "network"
	// byAttachment finds publishes, within a namespace.
	byAttachment = "attachment"
	// byPod finds the attachments that name a pod, within a namespace.
	byPod = "pod"
	// byTarget finds the attachments that select pods, within a namespace.
	byTarget       = "target"
	targetSelector = "podSelector"
	// byHostPort finds the pods that have ports of a node, by the node, and the
	// Services that have ports of all nodes, by onAllNodes.
	byHostPort = "hostPort"
	onAllNodes = "*"
	// byParent finds the children of an attachment or publish, within a namespace.
	byParent = "parent"
)

// startCaches fills the caches and indexes also of a replica that stands by.
func (c *cluster) startCaches(mgr manager.Manager) error {
	ctx := context.Background()
	for _, o := range []client.Object{&v1alpha1.BridgeNetwork{}, &corev1.Node{}, &corev1.Namespace{}, &corev1.Pod{}, &corev1.Service{}} {
		if _, err := mgr.GetCache().GetInformer(ctx, o); err != nil {
			return fmt.Errorf("watch %T: %w", o, err)
		}
	}
	for _, i := range []struct {
		object client.Object
		name   string
		values func(client.Object) []string
	}{
		{&v1alpha1.NamespaceAttachment{}, byNode, func(o client.Object) []string { return nodesOf(o.(*v1alpha1.NamespaceAttachment)) }},
		{&v1alpha1.NamespaceAttachment{}, byPod, func(o client.Object) []string { return podOf(o.(*v1alpha1.NamespaceAttachment)) }},
		{&v1alpha1.NamespaceAttachment{}, byTarget, func(o client.Object) []string { return targetOf(o.(*v1alpha1.NamespaceAttachment)) }},
		{&v1alpha1.NamespaceAttachment{}, byParent, func(o client.Object) []string { return unlessEmpty(v1alpha1.Parent(o)) }},
		{&v1alpha1.PortPublish{}, byParent, func(o client.Object) []string { return unlessEmpty(v1alpha1.Parent(o)) }},
		{&corev1.Pod{}, byNode, func(o client.Object) []string { return unlessEmpty(o.(*corev1.Pod).Spec.NodeName) }},
		{&corev1.Pod{}, byHostPort, func(o client.Object) []string { return nodeOfHostPorts(o.(*corev1.Pod)) }},
		{&corev1.Service{}, byHostPort, func(o client.Object) []string { return nodesOfNodePorts(o.(*corev1.Service)) }},
		{&v1alpha1.NamespaceAttachment{}, byNetwork, func(o client.Object) []string { return unlessEmpty(o.(*v1alpha1.NamespaceAttachment).Spec.Network) }},
		{&v1alpha1.PortPublish{}, byNode, func(o client.Object) []string { return unlessEmpty(o.(*v1alpha1.PortPublish).Status.NodeName) }},
		{&v1alpha1.PortPublish{}, byAttachment, func(o client.Object) []string { return unlessEmpty(o.(*v1alpha1.PortPublish).Spec.Attachment) }},
		{&v1alpha1.NodeBridge{}, byNode, func(o client.Object) []string { return unlessEmpty(o.(*v1alpha1.NodeBridge).Spec.NodeName) }},
		{&v1alpha1.NodeBridge{}, byNetwork, func(o client.Object) []string { return unlessEmpty(o.(*v1alpha1.NodeBridge).Spec.Network) }},
	} {
		if err := mgr.GetFieldIndexer().IndexField(ctx, i.object, i.name, i.values); err != nil {
			return fmt.Errorf("index %T by %s: %w", i.object, i.name, err)
		}
	}
	return nil
}

func nodesOf(a *v1alpha1.NamespaceAttachment) []string {
	list := unlessEmpty(a.Status.NodeName)
	if t := a.Spec.Target.Netns; t != nil && t.NodeName != a.Status.NodeName {
		list = append(list, unlessEmpty(t.NodeName)...)
	}
	return list
}

func podOf(a *v1alpha1.NamespaceAttachment) []string {
	if t := a.Spec.Target.Pod; t != nil {
		return []string{t.Name}
	}
	return nil
}

func targetOf(a *v1alpha1.NamespaceAttachment) []string {
	if accept.IsParent(a) {
		return []string{targetSelector}
	}
	return nil
}

func unlessEmpty(s string) []string {
	if s == "" {
		return nil
	}
	return []string{s}
}
