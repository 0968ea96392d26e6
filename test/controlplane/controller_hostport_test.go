package controlplane

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/patchbay-dev/patchbay/api/v1alpha1"
)

// TestControllerHostPorts: a publish of a port that a Service or a pod on its node
// has is refused, says whose it is, and is accepted when that one has gone. It
// stays bound meanwhile.
func TestControllerHostPorts(t *testing.T) {
	l := newLab(t, "hostports")
	w1, w2 := l.node("w1").Name, l.node("w2").Name
	n := l.network("red")
	l.attachment("net1", w1, n.Name)
	p := l.publish("web", "net1")
	l.edit(p, func() { p.Spec.Ports = []v1alpha1.PublishedPort{{Protocol: v1alpha1.TCP, HostPort: 30123}} })
	l.bound(p, w1)

	s := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "shop", Namespace: l.name}, Spec: corev1.ServiceSpec{
		Type: corev1.ServiceTypeNodePort, Ports: []corev1.ServicePort{{Port: 80, NodePort: 30123}}}}
	l.make(s)
	l.says(p, "Accepted", "spec.ports: TCP 30123 is the nodePort of Service hostports/shop: choose another hostPort, or change that")
	l.wants(p, "Accepted", "False HostPortConflict")
	if nodeNameOf(p) != w1 {
		t.Errorf("a refused publish is bound to %q", nodeNameOf(p))
	}
	l.edit(s, func() { s.Spec.Ports[0].NodePort = 30124 })
	l.bound(p, w1)

	l.edit(p, func() { p.Spec.Ports[0].HostPort = 8123 })
	l.bound(p, w1)
	web := func(name, node string) *corev1.Pod {
		pod := l.newPod(name)
		pod.Spec.NodeName = node
		pod.Spec.Containers[0].Ports = []corev1.ContainerPort{{ContainerPort: 80, HostPort: 8123}}
		l.make(pod)
		return pod
	}
	web("far", w2)
	near := web("near", w1)
	l.says(p, "Accepted", "spec.ports: TCP 8123 is the hostPort of Pod hostports/near: choose another hostPort, or change that")
	l.phase(near, corev1.PodSucceeded)
	l.bound(p, w1)
}
