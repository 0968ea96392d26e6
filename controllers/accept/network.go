package accept

import (
	"maps"
	"net/netip"
	"slices"
	"strings"

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
	subnets := prefixes(n.Spec.Subnets)
	for _, a := range n.Spec.Gateway.Addresses {
		addr, err := netip.ParseAddr(string(a))
		if err != nil {
			continue
		}
		if s, ok := subnetOf(addr, subnets); ok && reserved(addr, s) != "" {
			return refuse(v1alpha1.ReasonAddressConflict,
				"spec.gateway.addresses: %s is the %s of %s; choose another address of the subnet", addr, reserved(addr, s), s)
		}
	}
	return nil
}

// gateways are the addresses that spec says or implies; mode Bridge implies the
// first usable address of each subnet whose family has none.
func gateways(n *v1alpha1.BridgeNetwork) []netip.Addr {
	if n.Spec.Gateway.Mode == v1alpha1.GatewayNone {
		return nil
	}
	var out []netip.Addr
	for _, a := range n.Spec.Gateway.Addresses {
		if addr, err := netip.ParseAddr(string(a)); err == nil {
			out = append(out, addr)
		}
	}
	if n.Spec.Gateway.Mode == v1alpha1.GatewayExternal {
		return out
	}
	for _, s := range prefixes(n.Spec.Subnets) {
		if !containsFamily(out, s.Addr().Is4()) {
			out = append(out, s.Masked().Addr().Next())
		}
	}
	return out
}

func containsFamily(list []netip.Addr, is4 bool) bool {
	for _, a := range list {
		if a.Is4() == is4 {
			return true
		}
	}
	return false
}

func excluded(n *v1alpha1.BridgeNetwork) *refusal {
	if n.Spec.IPAM == nil {
		return nil
	}
	for _, e := range n.Spec.IPAM.Exclude {
		from, to, ok := bounds(string(e))
		switch {
		case !ok:
			return refuse(v1alpha1.ReasonUnsupported, "spec.ipam.exclude: %s is neither a CIDR, an address nor first-last; correct it", e)
		case from.Is4() != to.Is4() || to.Less(from):
			return refuse(v1alpha1.ReasonUnsupported, "spec.ipam.exclude: %s must go from a lower to a higher address of one family", e)
		}
	}
	return nil
}

// bounds are the first and last address of a CIDR, an address or a range.
func bounds(s string) (from, to netip.Addr, ok bool) {
	if p, err := netip.ParsePrefix(s); err == nil {
		return p.Masked().Addr(), ipam.Last(p), true
	}
	first, second, isRange := strings.Cut(s, "-")
	if !isRange {
		second = first
	}
	from, err1 := netip.ParseAddr(first)
	to, err2 := netip.ParseAddr(second)
	return from, to, err1 == nil && err2 == nil
}

func sourceAddress(n *v1alpha1.BridgeNetwork) *refusal {
	addr, err := netip.ParseAddr(n.Spec.Egress.SourceAddress)
	if err != nil {
		return nil
	}
	for _, s := range prefixes(n.Spec.Subnets) {
		if s.Addr().Is4() == addr.Is4() {
			return nil
		}
	}
	return refuse(v1alpha1.ReasonUnsupported,
		"spec.egress.sourceAddress: %s has no subnet of its family in spec.subnets; leave it out or add the subnet", addr)
}
