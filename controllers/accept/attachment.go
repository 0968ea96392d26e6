package accept

import (
	"net/netip"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/patchbay-dev/patchbay/api/v1alpha1"
	"github.com/patchbay-dev/patchbay/nodeagent/ipam"
)

// Attachment judges a NamespaceAttachment. It is Unknown, Pending, while all that
// is missing is its pod, or the pod's node.
func Attachment(a *v1alpha1.NamespaceAttachment, w World) metav1.Condition {
	accepted := "bound to node " + BindingOf(a, w).Node
	if IsParent(a) {
		accepted = "each pod that spec.target.podSelector selects gets an attachment of its own"
	}
	return condition(a.Generation, attachment(a, w), accepted)
}

func attachment(a *v1alpha1.NamespaceAttachment, w World) *refusal {
	return first(
		func() *refusal { return target(a, w) },
		func() *refusal { return node(a, w) },
		func() *refusal { return link(a, w) },
		func() *refusal { return placed(a, w) },
	)
}

// node has nothing to say of a pod that has none yet, and of pods that are each
// on their own.
func node(a *v1alpha1.NamespaceAttachment, w World) *refusal {
	name := BindingOf(a, w).Node
	if name == "" {
		if a.Spec.Target.Netns == nil {
			return nil
		}
		return refuse(v1alpha1.ReasonNodeNotFound, "spec.target.netns.nodeName must name the node that the namespace is on")
	}
	_, ok := w.nodeLabels(name)
	switch {
	case ok:
		return nil
	case w.Standalone:
		return refuse(v1alpha1.ReasonNodeNotFound, "spec.target.netns.nodeName is %s, but this node is %s; correct it or leave it out", name, w.NodeName)
	case a.Spec.Target.Pod != nil:
		return refuse(v1alpha1.ReasonNodeNotFound, "node %s of pod %s does not exist; bring it back or delete the pod", name, podName(a))
	}
	return refuse(v1alpha1.ReasonNodeNotFound, "node %s does not exist; correct spec.target.netns.nodeName", name)
}

// link is what the attachment is wired to, and how.
func link(a *v1alpha1.NamespaceAttachment, w World) *refusal {
	if a.Spec.Network == "" {
		return routes(a, onLink(a, nil))
	}
	n := w.Network(a.Spec.Network)
	if n == nil {
		return refuse(v1alpha1.ReasonNetworkNotFound, "BridgeNetwork %s does not exist; create it or correct spec.network", a.Spec.Network)
	}
	return first(
		func() *refusal { return staying(a, n) },
		func() *refusal { return networkAccepted(n, w) },
		func() *refusal { return selected(a, n, w) },
		func() *refusal { return allowed(a, n, w) },
		func() *refusal { return staticOnly(a, n) },
		func() *refusal { return addresses(a, n) },
		func() *refusal { return allowedAddresses(a, n) },
		func() *refusal { return defaultRoute(a, n) },
		func() *refusal { return mtu(a, n) },
		func() *refusal { return routes(a, onLink(a, n)) },
	)
}

func networkAccepted(n *v1alpha1.BridgeNetwork, w World) *refusal {
	if c := Network(n, w); c.Status != metav1.ConditionTrue {
		return refuse(v1alpha1.ReasonNetworkNotFound, "BridgeNetwork %s is not accepted: %s", n.Name, c.Message)
	}
	return nil
}

// staying: a network that is being deleted keeps its attachments until they go,
// and takes no new ones.
func staying(a *v1alpha1.NamespaceAttachment, n *v1alpha1.BridgeNetwork) *refusal {
	if n.DeletionTimestamp.IsZero() || meta.IsStatusConditionTrue(a.Status.Conditions, v1alpha1.ConditionAccepted) {
		return nil
	}
	return refuse(v1alpha1.ReasonNetworkNotFound,
		"BridgeNetwork %s is being deleted; name another in spec.network, or create it anew when it is gone", n.Name)
}

func selected(a *v1alpha1.NamespaceAttachment, n *v1alpha1.BridgeNetwork, w World) *refusal {
	name := BindingOf(a, w).Node
	if name == "" || Selects(n, name, w) {
		return nil
	}
	return refuse(v1alpha1.ReasonNetworkNotFound,
		"BridgeNetwork %s does not select node %s; change its spec.nodeSelector or label the node", n.Name, name)
}

func allowed(a *v1alpha1.NamespaceAttachment, n *v1alpha1.BridgeNetwork, w World) *refusal {
	rule := n.Spec.AllowedNamespaces
	switch {
	case rule == nil && w.Standalone, rule != nil && rule.From == v1alpha1.FromAll:
		return nil
	case rule != nil && rule.From == v1alpha1.FromSelector && matches(rule.Selector, w.namespaceLabels(a.Namespace)):
		return nil
	}
	return refuse(v1alpha1.ReasonNamespaceNotAllowed,
		"BridgeNetwork %s does not let namespace %s attach; include it in the network's spec.allowedNamespaces", n.Name, a.Namespace)
}

// staticOnly refuses to allocate addresses of a joined LAN: its router does that.
func staticOnly(a *v1alpha1.NamespaceAttachment, n *v1alpha1.BridgeNetwork) *refusal {
	if n.Spec.Uplink == nil || len(n.Spec.Subnets) == 0 || len(a.Spec.Addresses) > 0 {
		return nil
	}
	if IsParent(a) {
		return refuse(v1alpha1.ReasonUnsupported,
			"BridgeNetwork %s has an uplink, where no addresses are allocated; give each pod an attachment with spec.target.pod and spec.addresses", n.Name)
	}
	return refuse(v1alpha1.ReasonUnsupported,
		"BridgeNetwork %s has an uplink, where no addresses are allocated; set spec.addresses to a free one of %s", n.Name, join(v1alpha1.Prefixes(n.Spec.Subnets)))
}

// addresses must fit a network with subnets; on pure layer 2 anything goes.
func addresses(a *v1alpha1.NamespaceAttachment, n *v1alpha1.BridgeNetwork) *refusal {
	subnets := v1alpha1.Prefixes(n.Spec.Subnets)
	if len(subnets) == 0 {
		return nil
	}
	for _, p := range v1alpha1.Prefixes(a.Spec.Addresses) {
		s, ok := subnetOf(p.Addr(), subnets)
		if !ok || p.Bits() != s.Bits() {
			return refuse(v1alpha1.ReasonAddressConflict,
				"spec.addresses: %s is not an address of BridgeNetwork %s; choose one of %s, with that prefix length", p, n.Name, join(subnets))
		}
		if what := taken(p.Addr(), s, n); what != "" {
			return refuse(v1alpha1.ReasonAddressConflict,
				"spec.addresses: %s is the %s of %s on BridgeNetwork %s; choose another address", p, what, s, n.Name)
		}
	}
	return nil
}

// allowedAddresses must leave the node's own: who may send as its gateway takes the
// traffic of the whole network.
func allowedAddresses(a *v1alpha1.NamespaceAttachment, n *v1alpha1.BridgeNetwork) *refusal {
	if n.Spec.Gateway.Mode == v1alpha1.GatewayExternal {
		return nil
	}
	for _, p := range a.Spec.AllowedPrefixes() {
		for _, g := range n.Spec.Gateways() {
			if p.Contains(g) {
				return refuse(v1alpha1.ReasonAddressConflict,
					"spec.allowedAddresses: %s is of the gateway %s, which the node has on BridgeNetwork %s; choose others", p, g, n.Name)
			}
		}
	}
	return nil
}

func taken(addr netip.Addr, s netip.Prefix, n *v1alpha1.BridgeNetwork) string {
	for _, g := range n.Spec.Gateways() {
		if addr == g {
			return "gateway address"
		}
	}
	return ipam.Reserved(s, addr)
}

func defaultRoute(a *v1alpha1.NamespaceAttachment, n *v1alpha1.BridgeNetwork) *refusal {
	if a.Spec.DefaultRoute == nil || !*a.Spec.DefaultRoute || len(n.Spec.Gateways()) > 0 {
		return nil
	}
	return refuse(v1alpha1.ReasonUnsupported,
		"spec.defaultRoute: BridgeNetwork %s has no gateway address; set its spec.gateway.addresses or leave defaultRoute out", n.Name)
}

// mtu: the kernel turns IPv6 off on an interface below 1280.
func mtu(a *v1alpha1.NamespaceAttachment, n *v1alpha1.BridgeNetwork) *refusal {
	if a.Spec.MTU == nil || *a.Spec.MTU >= 1280 || len(a.Spec.Addresses) > 0 {
		return nil
	}
	for _, s := range v1alpha1.Prefixes(n.Spec.Subnets) {
		if s.Addr().Is6() {
			return refuse(v1alpha1.ReasonUnsupported, "spec.mtu: BridgeNetwork %s has the IPv6 subnet %s, which needs at least 1280", n.Name, s)
		}
	}
	return nil
}

// onLink are the prefixes that the target reaches without a router.
func onLink(a *v1alpha1.NamespaceAttachment, n *v1alpha1.BridgeNetwork) []netip.Prefix {
	out := v1alpha1.Prefixes(a.Spec.Addresses)
	if n != nil && len(out) == 0 {
		out = v1alpha1.Prefixes(n.Spec.Subnets)
	}
	if peer := a.Spec.PointToPoint; peer != nil {
		for _, p := range peerAddresses(peer) {
			out = append(out, netip.PrefixFrom(p.Addr(), p.Addr().BitLen()))
		}
	}
	return out
}

func peerAddresses(p *v1alpha1.PointToPoint) []netip.Prefix {
	switch {
	case p.Host != nil:
		return v1alpha1.Prefixes(p.Host.Addresses)
	case p.Netns != nil:
		return v1alpha1.Prefixes(p.Netns.Addresses)
	}
	return nil
}

func routes(a *v1alpha1.NamespaceAttachment, reachable []netip.Prefix) *refusal {
	for _, r := range a.Spec.Routes {
		via, err := netip.ParseAddr(string(r.Via))
		if err != nil || via.IsLinkLocalUnicast() {
			continue
		}
		if _, ok := subnetOf(via, reachable); ok {
			continue
		}
		if len(reachable) == 0 {
			return refuse(v1alpha1.ReasonUnsupported, "spec.routes: %s cannot go via %s, for the attachment has no address; set spec.addresses", r.To, via)
		}
		return refuse(v1alpha1.ReasonUnsupported, "spec.routes: %s cannot go via %s, which is not on the link; choose a next hop in %s", r.To, via, join(reachable))
	}
	return nil
}
