package accept

import (
	"fmt"
	"net/netip"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/patchbay-dev/patchbay/api/v1alpha1"
)

// Publish judges a PortPublish. It is Unknown, Pending, while its attachment is.
func Publish(p *v1alpha1.PortPublish, w World) metav1.Condition {
	return condition(p.Generation, publish(p, w), fmt.Sprintf("leads to NamespaceAttachment %s/%s", p.Namespace, p.Spec.Attachment))
}

func publish(p *v1alpha1.PortPublish, w World) *refusal {
	name := types.NamespacedName{Namespace: p.Namespace, Name: p.Spec.Attachment}
	a := w.Attachment(name)
	if a == nil {
		return refuse(v1alpha1.ReasonAttachmentNotFound, "NamespaceAttachment %s does not exist; create it or correct spec.attachment", name)
	}
	r := attachment(a, w)
	switch {
	case r != nil && r.reason == v1alpha1.ReasonPending:
		return refuse(r.reason, "NamespaceAttachment %s is %s", name, r.message)
	case r != nil:
		return refuse(v1alpha1.ReasonAttachmentNotFound, "NamespaceAttachment %s is not accepted: %s", name, r.message)
	}
	f, why := reachable(a, w)
	if why != "" {
		return refuse(v1alpha1.ReasonUnsupported, "NamespaceAttachment %s %s", name, why)
	}
	return first(
		func() *refusal { return hostAddresses(p, name, f) },
		func() *refusal { return hostPorts(p, a, w) },
	)
}

// nodeOf is the node of a publish: that of its attachment, or of a child the one
// that it was made for.
func nodeOf(p *v1alpha1.PortPublish, a *v1alpha1.NamespaceAttachment, w World) string {
	if v1alpha1.Parent(p) != "" {
		return p.Annotations[v1alpha1.AnnotationNodeName]
	}
	return BindingOf(a, w).Node
}

// families says in which address families the host reaches something.
type families struct{ v4, v6 bool }

func familiesOf(list []netip.Prefix) families {
	var f families
	for _, p := range list {
		f.v4 = f.v4 || p.Addr().Is4()
		f.v6 = f.v6 || p.Addr().Is6()
	}
	return f
}

func (f families) none() bool { return !f.v4 && !f.v6 }

// reachable says in which families the host reaches an attachment, or why in
// none.
func reachable(a *v1alpha1.NamespaceAttachment, w World) (families, string) {
	switch peer := a.Spec.PointToPoint; {
	case peer != nil && peer.Host == nil:
		return families{}, "joins two namespaces and has no end on the host; publish an attachment to a network or to the host"
	case peer != nil:
		mine, theirs := familiesOf(v1alpha1.Prefixes(a.Spec.Addresses)), familiesOf(v1alpha1.Prefixes(peer.Host.Addresses))
		f := families{mine.v4 && theirs.v4, mine.v6 && theirs.v6}
		if f.none() {
			return f, "has no address in common with the host; set its spec.addresses and spec.pointToPoint.host.addresses"
		}
		return f, ""
	case a.Spec.Network == "":
		return families{}, "has only its loopback; set its spec.network or spec.pointToPoint"
	}
	return reachableOn(w.Network(a.Spec.Network), a)
}

// reachableOn says by which families the host reaches an attachment, or why it does
// not. In mode External the host may have a way by addresses of its own.
func reachableOn(n *v1alpha1.BridgeNetwork, a *v1alpha1.NamespaceAttachment) (families, string) {
	subnets := v1alpha1.Prefixes(n.Spec.Subnets)
	switch mode := n.Spec.Gateway.Mode; {
	case mode == v1alpha1.GatewayNone:
		return families{}, fmt.Sprintf("is on BridgeNetwork %s, which the host cannot reach; set the network's spec.gateway.mode to Bridge", n.Name)
	case mode == v1alpha1.GatewayBridge && len(subnets) == 0:
		return families{}, fmt.Sprintf("is on BridgeNetwork %s, which the host cannot reach; set the network's spec.subnets", n.Name)
	}
	list := v1alpha1.Prefixes(a.Spec.Addresses)
	if len(list) == 0 {
		list = subnets
	}
	f := familiesOf(list)
	if f.none() {
		return f, fmt.Sprintf("has no address: BridgeNetwork %s has no subnets; set spec.addresses of the attachment", n.Name)
	}
	return f, ""
}

func hostAddresses(p *v1alpha1.PortPublish, name types.NamespacedName, f families) *refusal {
	for _, addr := range v1alpha1.Addrs(p.Spec.HostAddresses) {
		if addr.Is4() && f.v4 || addr.Is6() && f.v6 {
			continue
		}
		return refuse(v1alpha1.ReasonUnsupported,
			"spec.hostAddresses: %s cannot lead to NamespaceAttachment %s, which has no address of its family; leave it out", addr, name)
	}
	return nil
}
