package compile

import (
	"net/netip"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/patchbay-dev/patchbay/api/v1alpha1"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
)

// TestNoIPv6 compiles an attachment for a namespace in which IPv6 is off: nothing of
// IPv6 is wanted there, and its address stays claimed.
func TestNoIPv6(t *testing.T) {
	c := on(netstate.Node{})
	v := View(network(v1alpha1.BridgeNetworkSpec{Subnets: []v1alpha1.Subnet{"10.1.0.0/24", "fd01::/64"}}), c.Node)
	a := &v1alpha1.NamespaceAttachment{ObjectMeta: metav1.ObjectMeta{Namespace: "lab", Name: "box"}, Spec: v1alpha1.NamespaceAttachmentSpec{
		Target: v1alpha1.AttachmentTarget{Netns: &v1alpha1.NetnsTarget{Name: "box", Lifecycle: v1alpha1.External}},
		Routes: []v1alpha1.RouteSpec{{To: "fd09::/64", Via: "fd01::9"}, {To: "10.9.0.0/16", Via: "10.1.0.9"}},
	}}
	at := Place{Target: netstate.End{Netns: "box", Name: "eth0"}, Addresses: []netip.Prefix{netip.MustParsePrefix("10.1.0.2/24"), netip.MustParsePrefix("fd01::2/64")}}
	r, view, p := Attachment(a, &v, at, c)
	if p != nil || len(view.Addresses) != 2 || len(r.Notes) > 0 {
		t.Fatalf("with IPv6: %v, %v, %v", p, view.Addresses, r.Notes)
	}
	at.NoIPv6 = []string{"box"}
	r, view, p = Attachment(a, &v, at, c)
	if p != nil || len(view.Addresses) != 1 || len(view.Gateways) != 1 || len(r.Lacks) > 0 {
		t.Errorf("without IPv6: %v, %v, %v, %v", p, view.Addresses, view.Gateways, r.Lacks)
	}
	if len(r.Notes) != 1 || r.Notes[0].Reason != v1alpha1.ReasonIPv6Disabled || !strings.Contains(r.Notes[0].Message, "fd01::2/64") {
		t.Errorf("notes: %v", r.Notes)
	}
	for k := range r.Objects {
		if k.Netns == "box" && (strings.Contains(k.Name, "::") || strings.HasSuffix(k.Name, "disable_ipv6")) {
			t.Errorf("wants %v", k)
		}
	}
	claimed := false
	for _, one := range r.Claims {
		claimed = claimed || one.Thing.Address == at.Addresses[1].Addr()
	}
	if !claimed {
		t.Error("the IPv6 address is not set aside")
	}
	at.Addresses = at.Addresses[1:]
	if r, _, _ = Attachment(a, &v, at, c); len(r.Lacks) != 1 || r.Lacks[0].Reason != v1alpha1.ReasonIPv6Disabled {
		t.Errorf("with no other address: %v", r.Lacks)
	}
}
