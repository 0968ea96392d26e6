package v1alpha1

import "net/netip"

// AllowedPrefixes are the allowed addresses as prefixes; what the CRD would
// refuse is left out.
func (s *NamespaceAttachmentSpec) AllowedPrefixes() []netip.Prefix {
	var out []netip.Prefix
	for _, text := range s.AllowedAddresses {
		if p, err := netip.ParsePrefix(string(text)); err == nil {
			out = append(out, p)
		} else if a, err := netip.ParseAddr(string(text)); err == nil {
			out = append(out, netip.PrefixFrom(a, a.BitLen()))
		}
	}
	return out
}
