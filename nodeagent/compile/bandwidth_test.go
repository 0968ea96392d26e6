package compile

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/patchbay-dev/patchbay/api/v1alpha1"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
)

func quantity(s string) *resource.Quantity {
	q := resource.MustParse(s)
	return &q
}

// limits compiles an attachment and returns what limits it.
func limits(t *testing.T, spec v1alpha1.NamespaceAttachmentSpec, network *NetworkView) string {
	t.Helper()
	spec.Target.Netns = &v1alpha1.NetnsTarget{Name: "net1"}
	a := &v1alpha1.NamespaceAttachment{ObjectMeta: metav1.ObjectMeta{Namespace: "lab", Name: "net1"}, Spec: spec}
	r, _, p := Attachment(a, network, Place{Target: netstate.End{Netns: "net1", Name: "eth0"}, Addresses: []netip.Prefix{netip.MustParsePrefix("10.0.0.2/24")}}, on(netstate.Node{}))
	if p != nil {
		t.Fatal(p)
	}
	var b strings.Builder
	for _, k := range r.Objects.Keys() {
		l, _ := r.Objects[k].(netstate.Link)
		if k.Kind == netstate.KindShaper || k.Kind == netstate.KindRedirect || l.Type == netstate.IFB {
			fmt.Fprintf(&b, "%s: %s\n", k, r.Objects[k])
		}
	}
	for _, c := range r.Claims {
		if c.Field == "spec.bandwidth.egressRate" {
			fmt.Fprintf(&b, "claims %s\n", c.Thing)
		}
	}
	return b.String()
}

func TestBandwidth(t *testing.T) {
	red := &NetworkView{Name: "red", Bridge: "br-red", MTU: 1500}
	toHost := v1alpha1.PointToPoint{Host: &v1alpha1.HostEnd{Addresses: []v1alpha1.Subnet{"10.0.0.1/24"}}}
	toNetns := v1alpha1.PointToPoint{Netns: &v1alpha1.NetnsEnd{Name: "net2", Interface: "eth7"}}
	for name, test := range map[string]struct {
		spec    v1alpha1.NamespaceAttachmentSpec
		network *NetworkView
		want    string
	}{
		"none": {network: red},
		"both ways on a bridge": {v1alpha1.NamespaceAttachmentSpec{Network: "red",
			Bandwidth: &v1alpha1.Bandwidth{IngressRate: quantity("100M"), EgressRate: quantity("5M")}}, red, `link ifb9e09dc34: ifb mac=7a:83:bb:48:99:2f mtu=1500 up
bandwidth ifb9e09dc34: rate=5Mbit/s burst=63KiB queue=94KiB
bandwidth veth9e09dc34: rate=100Mbit/s burst=245KiB queue=856KiB
redirect veth9e09dc34: through ifb9e09dc34
claims interface ifb9e09dc34
`},
		"to the host, a burst": {v1alpha1.NamespaceAttachmentSpec{PointToPoint: &toHost, HostInterface: "p2p",
			Bandwidth: &v1alpha1.Bandwidth{EgressRate: quantity("5M"), Burst: quantity("8Mi")}}, nil, `link ifb9e09dc34: ifb mac=7a:83:bb:48:99:2f mtu=1500 up
bandwidth ifb9e09dc34: rate=5Mbit/s burst=1MiB queue=1055KiB
redirect p2p: through ifb9e09dc34
claims interface ifb9e09dc34
`},
		"only what it receives": {v1alpha1.NamespaceAttachmentSpec{Network: "red",
			Bandwidth: &v1alpha1.Bandwidth{IngressRate: quantity("100M")}}, red, "bandwidth veth9e09dc34: rate=100Mbit/s burst=245KiB queue=856KiB\n"},
		"between two namespaces": {v1alpha1.NamespaceAttachmentSpec{PointToPoint: &toNetns,
			Bandwidth: &v1alpha1.Bandwidth{IngressRate: quantity("100M"), EgressRate: quantity("5M")}}, nil, `bandwidth netns/net1 eth0: rate=5Mbit/s burst=63KiB queue=94KiB
bandwidth netns/net2 eth7: rate=100Mbit/s burst=245KiB queue=856KiB
`},
	} {
		t.Run(name, func(t *testing.T) {
			if d := cmp.Diff(test.want, limits(t, test.spec, test.network)); d != "" {
				t.Errorf("-want +got:\n%s", d)
			}
		})
	}
}
