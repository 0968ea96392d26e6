package accept

import (
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/patchbay-dev/patchbay/api/v1alpha1"
)

// TestHostPorts holds publishes against what Services and pods have on node w1.
func TestHostPorts(t *testing.T) {
	service := object[corev1.Service](t, `{metadata: {name: web, namespace: shop}, spec: {healthCheckNodePort: 32000, ports: [{port: 80, nodePort: 30080}, {port: 53, protocol: UDP, nodePort: 30053}, {port: 81}]}}`)
	pod := object[corev1.Pod](t, `{metadata: {name: dns, namespace: shop}, spec: {nodeName: w1, initContainers: [{name: i, ports: [{containerPort: 1, hostPort: 8001}]}],
		containers: [{name: a, ports: [{containerPort: 53, hostPort: 8053, protocol: UDP, hostIP: 192.0.2.1}, {containerPort: 80}, {containerPort: 82, hostPort: 8082, hostIP: 127.0.0.1}]}]}}`)
	const (
		ofService = "of Service shop/web: choose another hostPort, or change that"
		ofPod     = "is the hostPort of Pod shop/dns: choose another hostPort, or change that"
		fine      = "leads to NamespaceAttachment lab/net1"
	)
	for _, c := range []struct{ name, spec, reason, message string }{
		{"nodePort", `ports: [{protocol: TCP, hostPort: 443}, {protocol: TCP, hostPort: 30080}]`, "HostPortConflict", "spec.ports: TCP 30080 is the nodePort " + ofService},
		{"other protocol", `ports: [{protocol: UDP, hostPort: 30080}, {protocol: SCTP, hostPort: 30053}]`, accepted, fine},
		{"nodePort on one address", `hostAddresses: [192.0.2.9], ports: [{protocol: UDP, hostPort: 30053}]`, "HostPortConflict", "spec.ports: UDP 30053 is the nodePort " + ofService},
		{"health check", `ports: [{protocol: TCP, hostPort: 32000}]`, "HostPortConflict", "spec.ports: TCP 32000 is the healthCheckNodePort " + ofService},
		{"range", `ports: [{protocol: TCP, hostPort: 30000, hostPortEnd: 30080}]`, "HostPortConflict", "spec.ports: TCP 30080 is the nodePort " + ofService},
		{"range beside", `ports: [{protocol: TCP, hostPort: 30000, hostPortEnd: 30079}, {protocol: TCP, hostPort: 30081, hostPortEnd: 30100}]`, accepted, fine},
		{"port behind a Service", `ports: [{protocol: TCP, hostPort: 80}]`, accepted, fine},
		{"hostPort", `ports: [{protocol: TCP, hostPort: 8001}]`, "HostPortConflict", "spec.ports: TCP 8001 " + ofPod},
		{"hostPort on an address", `ports: [{protocol: UDP, hostPort: 8053}]`, "HostPortConflict", "spec.ports: UDP 8053 " + ofPod},
		{"on the same", `hostAddresses: [192.0.2.1], ports: [{protocol: UDP, hostPort: 8053}]`, "HostPortConflict", "spec.ports: UDP 8053 " + ofPod},
		{"on another", `hostAddresses: [192.0.2.9], ports: [{protocol: UDP, hostPort: 8053}]`, accepted, fine},
		{"on loopback", `ports: [{protocol: TCP, hostPort: 8082}]`, accepted, fine},
		{"on loopback too", `loopback: true, ports: [{protocol: TCP, hostPort: 8082}]`, "HostPortConflict", "spec.ports: TCP 8082 " + ofPod},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := cluster(network(t, open), attach(t, on+`}`))
			w.PortHolders = func(node string) []PortHolder {
				if node != "w1" {
					return NodePorts(service)
				}
				return slices.Concat(NodePorts(service), HostPorts(pod))
			}
			p := object[v1alpha1.PortPublish](t, "{metadata: {name: web, namespace: lab, generation: 3}, spec: {attachment: net1, "+c.spec+"}}")
			expect(t, Publish(p, w), c.reason, c.message)
		})
	}
	pod.Spec.HostNetwork = true
	if got := HostPorts(pod); len(got) > 0 {
		t.Errorf("a pod in the node's network has %v", got)
	}
	pod.Spec.HostNetwork, pod.Status.Phase = false, corev1.PodSucceeded
	if got := HostPorts(pod); len(got) > 0 {
		t.Errorf("a pod that has ended has %v", got)
	}
}
