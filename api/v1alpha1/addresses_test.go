package v1alpha1

import (
	"fmt"
	"testing"
)

func TestGateways(t *testing.T) {
	both := []Subnet{"10.0.0.0/24", "fd00::/64"}
	for _, c := range []struct {
		mode    GatewayMode
		subnets []Subnet
		named   []IPAddress
		want    string
	}{
		{GatewayBridge, both, nil, "[10.0.0.1 fd00::1]"},
		{GatewayBridge, both, []IPAddress{"fd00::fe"}, "[10.0.0.1 fd00::fe]"},
		{"", both, []IPAddress{"10.0.0.254"}, "[10.0.0.254 fd00::1]"},
		{GatewayBridge, nil, nil, "[]"},
		{GatewayExternal, both, []IPAddress{"10.0.0.254"}, "[10.0.0.254]"},
		{GatewayNone, both, nil, "[]"},
	} {
		s := BridgeNetworkSpec{Subnets: c.subnets, Gateway: GatewaySpec{Mode: c.mode, Addresses: c.named}}
		if got := fmt.Sprint(s.Gateways()); got != c.want {
			t.Errorf("mode %q, subnets %v, addresses %v: %s, want %s", c.mode, c.subnets, c.named, got, c.want)
		}
	}
}

func TestAllowedPrefixes(t *testing.T) {
	s := NamespaceAttachmentSpec{AllowedAddresses: []Subnet{"10.0.0.7", "10.1.0.0/16", "fd00::7"}}
	if got, want := fmt.Sprint(s.AllowedPrefixes()), "[10.0.0.7/32 10.1.0.0/16 fd00::7/128]"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}
