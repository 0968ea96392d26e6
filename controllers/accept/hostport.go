package accept

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/patchbay-dev/patchbay/api/v1alpha1"
)

// PortHolder is what of Kubernetes' own has a port of a node, without any process
// that listens there.
type PortHolder struct {
	// Name is how a person calls it, such as nodePort of Service lab/web.
	Name     string
	Protocol v1alpha1.Protocol
	Port     int32
	// Address is the one of the node's that it has the port on; the zero one means
	// all of them.
	Address netip.Addr
}

// NodePorts are the ports that a Service has on every node.
func NodePorts(s *corev1.Service) []PortHolder {
	var out []PortHolder
	name := fmt.Sprintf("of Service %s/%s", s.Namespace, s.Name)
	for _, p := range s.Spec.Ports {
		if p.NodePort != 0 {
			out = append(out, PortHolder{Name: "the nodePort " + name, Protocol: protocolOf(p.Protocol), Port: p.NodePort})
		}
	}
	if s.Spec.HealthCheckNodePort != 0 {
		out = append(out, PortHolder{Name: "the healthCheckNodePort " + name, Protocol: v1alpha1.TCP, Port: s.Spec.HealthCheckNodePort})
	}
	return out
}

// HostPorts are the ports that a pod has on its node. What one in the node's own
// network listens on is left to the node's agent, which sees whether it does.
func HostPorts(p *corev1.Pod) []PortHolder {
	if p.Spec.HostNetwork || Ended(p) {
		return nil
	}
	var out []PortHolder
	for _, c := range slices.Concat(p.Spec.InitContainers, p.Spec.Containers) {
		for _, port := range c.Ports {
			if port.HostPort == 0 {
				continue
			}
			h := PortHolder{Name: fmt.Sprintf("the hostPort of Pod %s/%s", p.Namespace, p.Name), Protocol: protocolOf(port.Protocol), Port: port.HostPort}
			if a, err := netip.ParseAddr(port.HostIP); err == nil && !a.IsUnspecified() {
				h.Address = a
			}
			out = append(out, h)
		}
	}
	return out
}

// protocolOf: what the API server would have filled in.
func protocolOf(p corev1.Protocol) v1alpha1.Protocol {
	if p == "" {
		return v1alpha1.TCP
	}
	return v1alpha1.Protocol(p)
}

// Compare orders holders by name, then by what they hold.
func (h PortHolder) Compare(o PortHolder) int {
	return cmp.Or(cmp.Compare(h.Name, o.Name), cmp.Compare(h.Protocol, o.Protocol), cmp.Compare(h.Port, o.Port), h.Address.Compare(o.Address))
}

// InWay reports whether a publish on the same node wants the port.
func (h PortHolder) InWay(p *v1alpha1.PortPublish) bool {
	return slices.ContainsFunc(p.Spec.Ports, func(port v1alpha1.PublishedPort) bool {
		return port.Protocol == h.Protocol && port.HostPort <= h.Port && h.Port <= max(port.HostPort, port.HostPortEnd)
	}) && h.answers(p)
}

func (h PortHolder) answers(p *v1alpha1.PortPublish) bool {
	switch {
	case !h.Address.IsValid():
		return true
	case h.Address.IsLoopback():
		return p.Spec.Loopback
	case len(p.Spec.HostAddresses) == 0:
		return true
	}
	return slices.Contains(v1alpha1.Addrs(p.Spec.HostAddresses), h.Address)
}

// hostPorts refuses ports that Kubernetes leads elsewhere, before Patchbay's rules
// see the packets. A publish without a node conflicts only with the ports that
// Services have on all nodes.
func hostPorts(p *v1alpha1.PortPublish, a *v1alpha1.NamespaceAttachment, w World) *refusal {
	if w.PortHolders == nil {
		return nil
	}
	for _, h := range w.PortHolders(nodeOf(p, a, w)) {
		if h.InWay(p) {
			return refuse(v1alpha1.ReasonHostPortConflict, "spec.ports: %s %d is %s: choose another hostPort, or change that", h.Protocol, h.Port, h.Name)
		}
	}
	return nil
}
