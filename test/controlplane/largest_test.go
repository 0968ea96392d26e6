package controlplane

import (
	"fmt"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// TestLargest: an object with as much in every list as its schema allows stays
// within what the API server spends on its rules.
func TestLargest(t *testing.T) {
	for kind, spec := range map[string]map[string]any{
		"BridgeNetwork": {
			"subnets": []any{"10.0.0.0/8", "fd00::/64"},
			"gateway": map[string]any{"addresses": []any{"10.255.255.254", "fd00::ffff:ffff:ffff:ffff"}},
			"ipam":    map[string]any{"exclude": many(32, "fd00::ffff:ffff:0:%[1]x-fd00::ffff:ffff:1:%[1]x")},
			"egress":  map[string]any{"excludeDestinations": many(64, "2001:db8:ffff:ffff:ffff:ffff:ffff:%x/128")},
		},
		"NamespaceAttachment": {
			"target":       map[string]any{"netns": map[string]any{"name": "ns1"}},
			"addresses":    many(8, "2001:db8:ffff:ffff:ffff:ffff:1:%x/64"),
			"mtu":          int64(1280),
			"defaultRoute": true,
			"routes":       routes(32),
			"pointToPoint": map[string]any{"netns": map[string]any{"name": "ns2", "addresses": many(8, "2001:db8:ffff:ffff:ffff:ffff:2:%x/64")}},
		},
		"PortPublish": {
			"attachment":    "net1",
			"hostAddresses": many(16, "2001:db8:ffff:ffff:ffff:ffff:ffff:%x"),
			"ports":         ports(64),
		},
	} {
		t.Run(kind, func(t *testing.T) {
			o := object(kind, namespaceOf(kind), "largest", map[string]any{"spec": spec})
			if err := api.Create(testContext(t), o, client.DryRunAll, client.FieldValidation(metav1.FieldValidationStrict)); err != nil {
				t.Error(err)
			}
		})
	}
}

func many(n int, format string) (out []any) {
	for i := range n {
		out = append(out, fmt.Sprintf(format, 0x1000+i))
	}
	return out
}

func routes(n int) (out []any) {
	for _, to := range many(n, "2001:db8:ffff:ffff:ffff:ffff:ffff:%x/128") {
		out = append(out, map[string]any{"to": to, "via": "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff"})
	}
	return out
}

func ports(n int) (out []any) {
	for i := range n {
		out = append(out, map[string]any{"hostPort": int64(20000 + i), "targetPort": int64(30000 + i), "protocol": "SCTP"})
	}
	return out
}
