package v1alpha1

import (
	"net/netip"
	"slices"
)

// Prefixes parses addresses and subnets that the CRDs have validated; anything
// else is left out.
func Prefixes(in []Subnet) []netip.Prefix { return parsed(in, netip.ParsePrefix) }

// Addrs parses addresses that the CRDs have validated; anything else is left out.
func Addrs(in []IPAddress) []netip.Addr { return parsed(in, netip.ParseAddr) }

func parsed[S ~string, T any](in []S, parse func(string) (T, error)) []T {
	var out []T
	for _, text := range in {
		if v, err := parse(string(text)); err == nil {
			out = append(out, v)
		}
	}
	return out
}

// Gateways returns the gateway addresses that a network names. Where the bridge
// holds them, a subnet without one of its family has its first usable address.
func (s *BridgeNetworkSpec) Gateways() []netip.Addr {
	named := Addrs(s.Gateway.Addresses)
	switch s.Gateway.Mode {
	case GatewayNone:
		return nil
	case GatewayExternal:
		return named
	}
	var out []netip.Addr
	for _, subnet := range Prefixes(s.Subnets) {
		gateway := subnet.Masked().Addr().Next()
		if i := slices.IndexFunc(named, func(a netip.Addr) bool { return a.Is4() == gateway.Is4() }); i >= 0 {
			gateway = named[i]
		}
		out = append(out, gateway)
	}
	return out
}

// AllowedPrefixes returns the allowed addresses as prefixes.
func (s *NamespaceAttachmentSpec) AllowedPrefixes() []netip.Prefix {
	return parsed(s.AllowedAddresses, func(text string) (netip.Prefix, error) {
		if a, err := netip.ParseAddr(text); err == nil {
			return netip.PrefixFrom(a, a.BitLen()), nil
		}
		return netip.ParsePrefix(text)
	})
}
