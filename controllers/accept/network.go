package accept

import (
	"maps"
	"net/netip"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/patchbay-dev/patchbay/api/v1alpha1"
	"github.com/patchbay-dev/patchbay/nodeagent/ipam"
)

// Network judges a BridgeNetwork.
func Network(n *v1alpha1.BridgeNetwork, _ World) metav1.Condition {
	r := first(
		func() *refusal { return selectors(n) },
		func() *refusal { return gatewayAddresses(n) },
		func() *refusal { return excluded(n) },
		func() *refusal { return sourceAddress(n) },
	)
	return condition(n.Generation, r, "the network may be built on the nodes that it selects")
}

func selectors(n *v1alpha1.BridgeNetwork) *refusal {
	if err := selectorError(n.Spec.NodeSelector); err != nil {
		return refuse(v1alpha1.ReasonUnsupported, "spec.nodeSelector: %v; correct the selector", err)
	}
	if n.Spec.AllowedNamespaces == nil {
		return nil
	}
	if err := selectorError(n.Spec.AllowedNamespaces.Selector); err != nil {
		return refuse(v1alpha1.ReasonUnsupported, "spec.allowedNamespaces.selector: %v; correct the selector", err)
	}
	return nil
}

// selectorError is always the same one of a selector's errors, for a verdict that
// reads otherwise is written; LabelSelectorAsSelector returns that of the first
// label in a map's order.
func selectorError(s *metav1.LabelSelector) error {
	if s == nil {
		return nil
	}
	for _, key := range slices.Sorted(maps.Keys(s.MatchLabels)) {
		one := &metav1.LabelSelector{MatchLabels: map[string]string{key: s.MatchLabels[key]}}
		if _, err := metav1.LabelSelectorAsSelector(one); err != nil {
			return err
		}
	}
	_, err := metav1.LabelSelectorAsSelector(s)
	return err
}

func gatewayAddresses(n *v1alpha1.BridgeNetwork) *refusal {
	subnets := v1alpha1.Prefixes(n.Spec.Subnets)
	for _, addr := range v1alpha1.Addrs(n.Spec.Gateway.Addresses) {
		if s, ok := subnetOf(addr, subnets); ok && ipam.Reserved(s, addr) != "" {
			return refuse(v1alpha1.ReasonAddressConflict,
				"spec.gateway.addresses: %s is the %s of %s; choose another address of the subnet", addr, ipam.Reserved(s, addr), s)
		}
	}
	return nil
}

func excluded(n *v1alpha1.BridgeNetwork) *refusal {
	if n.Spec.IPAM == nil {
		return nil
	}
	for _, e := range n.Spec.IPAM.Exclude {
		r, err := ipam.ParseRange(string(e))
		switch {
		case err != nil:
			return refuse(v1alpha1.ReasonUnsupported, "spec.ipam.exclude: %s is neither a CIDR, an address nor first-last; correct it", e)
		case !r.IsValid():
			return refuse(v1alpha1.ReasonUnsupported, "spec.ipam.exclude: %s must go from a lower to a higher address of one family", e)
		}
	}
	return nil
}

func sourceAddress(n *v1alpha1.BridgeNetwork) *refusal {
	addr, err := netip.ParseAddr(n.Spec.Egress.SourceAddress)
	if err != nil {
		return nil
	}
	for _, s := range v1alpha1.Prefixes(n.Spec.Subnets) {
		if s.Addr().Is4() == addr.Is4() {
			return nil
		}
	}
	return refuse(v1alpha1.ReasonUnsupported,
		"spec.egress.sourceAddress: %s has no subnet of its family in spec.subnets; leave it out or add the subnet", addr)
}
