package controllers

import (
	"context"
	"fmt"
	"net/http"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/manager"

	"github.com/patchbay-dev/patchbay/api/v1alpha1"
	"github.com/patchbay-dev/patchbay/controllers/accept"
)

// ManagerOptions returns the options that Setup relies on: the scheme, the parts of
// objects that are cached, and reads that wait for own writes. The caller adds
// addresses and leader election.
func ManagerOptions() manager.Options {
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{v1alpha1.AddToScheme, corev1.AddToScheme} {
		if err := add(scheme); err != nil {
			panic(err) // two Go types for one kind
		}
	}
	consistent := true
	return manager.Options{
		Scheme:         scheme,
		MapperProvider: mapper,
		Cache: cache.Options{
			DefaultTransform: cache.TransformStripManagedFields(),
			ByObject: map[client.Object]cache.ByObject{
				&corev1.Node{}:      {Transform: slimNode},
				&corev1.Namespace{}: {Transform: slimNamespace},
				&corev1.Pod{}:       {Transform: slimPod},
				&corev1.Service{}:   {Transform: slimService},
			},
		},
		Client: client.Options{Cache: &client.CacheOptions{EnableReadYourWritesConsistency: &consistent}},
	}
}

// mapper knows the kinds of the scheme that are used here.
func mapper(*rest.Config, *http.Client) (meta.RESTMapper, error) {
	m := v1alpha1.NewRESTMapper()
	m.Add(corev1.SchemeGroupVersion.WithKind("Node"), meta.RESTScopeRoot)
	m.Add(corev1.SchemeGroupVersion.WithKind("Namespace"), meta.RESTScopeRoot)
	m.Add(corev1.SchemeGroupVersion.WithKind("Pod"), meta.RESTScopeNamespace)
	m.Add(corev1.SchemeGroupVersion.WithKind("Service"), meta.RESTScopeNamespace)
	return m, nil
}

// slimNode keeps a node's labels and its Ready condition. Image lists alone are
// some 10 kB per node.
func slimNode(in any) (any, error) {
	node, ok := in.(*corev1.Node)
	if !ok {
		return in, nil
	}
	slim := &corev1.Node{ObjectMeta: slimMeta(node.ObjectMeta)}
	if ready := readyOf(node); ready != nil {
		slim.Status.Conditions = []corev1.NodeCondition{*ready}
	}
	return slim, nil
}

func slimNamespace(in any) (any, error) {
	namespace, ok := in.(*corev1.Namespace)
	if !ok {
		return in, nil
	}
	return &corev1.Namespace{ObjectMeta: slimMeta(namespace.ObjectMeta)}, nil
}

// slimPod keeps a pod's identity, its node and the ports of the node that it has.
func slimPod(in any) (any, error) {
	pod, ok := in.(*corev1.Pod)
	if !ok {
		return in, nil
	}
	meta := slimMeta(pod.ObjectMeta)
	if static, ok := pod.Annotations[corev1.MirrorPodAnnotationKey]; ok {
		meta.Annotations = map[string]string{corev1.MirrorPodAnnotationKey: static}
	}
	return &corev1.Pod{
		ObjectMeta: meta,
		Spec:       corev1.PodSpec{NodeName: pod.Spec.NodeName, HostNetwork: pod.Spec.HostNetwork, Containers: slimContainers(pod.Spec)},
		Status:     corev1.PodStatus{Phase: pod.Status.Phase},
	}, nil
}

// slimContainers returns one container with all ports of the node that a pod has.
func slimContainers(spec corev1.PodSpec) []corev1.Container {
	var ports []corev1.ContainerPort
	for _, c := range slices.Concat(spec.InitContainers, spec.Containers) {
		for _, p := range c.Ports {
			if p.HostPort != 0 {
				ports = append(ports, corev1.ContainerPort{Protocol: p.Protocol, HostPort: p.HostPort, HostIP: p.HostIP})
			}
		}
	}
	if len(ports) == 0 {
		return nil
	}
	return []corev1.Container{{Ports: ports}}
}

// slimService keeps of a Service its ports on the nodes.
func slimService(in any) (any, error) {
	service, ok := in.(*corev1.Service)
	if !ok {
		return in, nil
	}
	slim := &corev1.Service{ObjectMeta: slimMeta(service.ObjectMeta)}
	slim.Labels = nil
	slim.Spec.HealthCheckNodePort = service.Spec.HealthCheckNodePort
	for _, p := range service.Spec.Ports {
		if p.NodePort != 0 {
			slim.Spec.Ports = append(slim.Spec.Ports, corev1.ServicePort{Protocol: p.Protocol, NodePort: p.NodePort})
		}
	}
	return slim, nil
}

func slimMeta(m metav1.ObjectMeta) metav1.ObjectMeta {
	return metav1.ObjectMeta{
		Name: m.Name, Namespace: m.Namespace, UID: m.UID, ResourceVersion: m.ResourceVersion, Labels: m.Labels,
		CreationTimestamp: m.CreationTimestamp, DeletionTimestamp: m.DeletionTimestamp,
	}
}

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
