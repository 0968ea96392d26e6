package compile

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/patchbay-dev/patchbay/api/v1alpha1"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
)

func on(node netstate.Node) Context {
	node.Name = "node1"
	return Context{Source: netstate.SourceLocal, Node: node}
}

func network(spec v1alpha1.BridgeNetworkSpec) *v1alpha1.BridgeNetwork {
	return &v1alpha1.BridgeNetwork{ObjectMeta: metav1.ObjectMeta{Name: "red"}, Spec: spec}
}

func TestNames(t *testing.T) {
	for name, want := range map[string]string{"red": "br-red", "twelve-chars": "br-twelve-chars"} {
		n := network(v1alpha1.BridgeNetworkSpec{})
		n.Name = name
		got := BridgeName(n)
		if got != want {
			t.Errorf("bridge of %s: %s, want %s", name, got, want)
		}
	}
	n := network(v1alpha1.BridgeNetworkSpec{})
	n.Name = "a-name-that-does-not-fit"
	if got := BridgeName(n); len(got) != len("br-")+8 {
		t.Errorf("bridge of %s: %s, want br- and 8 digits", n.Name, got)
	}
	seen := map[string]bool{}
	for i := range 1000 {
		a := &v1alpha1.NamespaceAttachment{ObjectMeta: metav1.ObjectMeta{Namespace: "lab", Name: fmt.Sprint(i)}}
		seen[HostInterfaceName(a)] = true
	}
	if len(seen) != 1000 {
		t.Errorf("%d names for 1000 attachments", len(seen))
	}
}

// TestForwardingInACluster: in a cluster other software may need forwarding, even
// where Patchbay switched it on. Without a cluster Patchbay guards it, and switches
// it off again.
func TestForwardingInACluster(t *testing.T) {
	for _, test := range []struct {
		source  netstate.Source
		already bool
		want    []netstate.Object
	}{
		{netstate.SourceLocal, true, nil},
		{netstate.SourceLocal, false, []netstate.Object{netstate.Sysctl{Path: "net/ipv4/ip_forward", Value: "1", Restore: true}, netstate.ForwardGuard{Family: netstate.IPv4}}},
		{netstate.SourceCluster, true, []netstate.Object{netstate.Sysctl{Path: "net/ipv4/ip_forward", Value: "1"}}},
		{netstate.SourceCluster, false, []netstate.Object{netstate.Sysctl{Path: "net/ipv4/ip_forward", Value: "1"}}},
	} {
		c := on(netstate.Node{Forwarding: map[netstate.Family]bool{netstate.IPv4: test.already}})
		c.Source = test.source
		if got := forwarding(c, netstate.IPv4); !slices.Equal(got, test.want) {
			t.Errorf("%s, already %v: %v, want %v", test.source, test.already, got, test.want)
		}
	}
}

func TestMACsAreLocalUnicastAndPerNode(t *testing.T) {
	one, other := deriveMAC("bnet", "node1", "red"), deriveMAC("bnet", "node2", "red")
	if one[0]&0x03 != 0x02 || one == other || one != deriveMAC("bnet", "node1", "red") {
		t.Errorf("%s and %s", one, other)
	}
}

func TestCompileIsPure(t *testing.T) {
	n := network(v1alpha1.BridgeNetworkSpec{Subnets: []v1alpha1.Subnet{"10.0.0.0/24", "fd00::/64"}})
	one, _ := Network(n, on(netstate.Node{}))
	other, _ := Network(n, on(netstate.Node{}))
	if !maps.Equal(one.Objects, other.Objects) {
		t.Errorf("two compilations differ: %v and %v", one.Objects, other.Objects)
	}
}

// TestNodeDecides shows what the node's own state changes.
func TestNodeDecides(t *testing.T) {
	routed := network(v1alpha1.BridgeNetworkSpec{Subnets: []v1alpha1.Subnet{"10.0.0.0/24"}})
	forward := netstate.Sysctl{Path: "net/ipv4/ip_forward", Value: "1", Restore: true}
	for name, test := range map[string]struct {
		node   netstate.Node
		object netstate.Object
		want   bool
	}{
		"forwarding is off":              {netstate.Node{}, forward, true},
		"forwarding is on already":       {netstate.Node{Forwarding: map[netstate.Family]bool{netstate.IPv4: true}}, forward, false},
		"a foreign bridge, br_netfilter": {netstate.Node{BridgeNF: map[netstate.Family]bool{netstate.IPv4: true}, Links: map[string]netstate.NodeLink{"br0": {Type: netstate.Bridge}}}, netstate.ForeignBridge{Link: "br0"}, true},
		"a foreign bridge, oddly named":  {netstate.Node{BridgeNF: map[netstate.Family]bool{netstate.IPv4: true}, Links: map[string]netstate.NodeLink{"br@0": {Type: netstate.Bridge}}}, netstate.ForeignBridge{Link: "br@0"}, false},
		"our own bridge is no foreign":   {netstate.Node{BridgeNF: map[netstate.Family]bool{netstate.IPv4: true}, Links: map[string]netstate.NodeLink{"br0": {Type: netstate.Bridge, Ours: true}}}, netstate.ForeignBridge{Link: "br0"}, false},
		"no IPv6, no sysctl for it":      {netstate.Node{NoIPv6: true}, linkSysctl("", "br-red", "ipv6", "disable_ipv6", "1"), false},
		"IPv6 unused is off":             {netstate.Node{}, linkSysctl("", "br-red", "ipv6", "disable_ipv6", "1"), true},
	} {
		r, p := Network(routed, on(test.node))
		if p != nil {
			t.Fatal(p)
		}
		if got := r.Objects[test.object.Key()] == test.object; got != test.want {
			t.Errorf("%s: %s wanted: %v, want %v", name, test.object.Key(), got, test.want)
		}
	}
}

func TestMTU(t *testing.T) {
	mtu := int32(1400)
	node := netstate.Node{DefaultLink: "eth0", Links: map[string]netstate.NodeLink{"eth0": {MTU: 9000}, "eth1": {MTU: 1450}}}
	for name, test := range map[string]struct {
		spec v1alpha1.BridgeNetworkSpec
		want int
	}{
		"spec":          {v1alpha1.BridgeNetworkSpec{Bridge: v1alpha1.BridgeSpec{MTU: &mtu}}, 1400},
		"uplink":        {v1alpha1.BridgeNetworkSpec{Uplink: &v1alpha1.UplinkSpec{Interface: "eth1"}}, 1450},
		"default route": {v1alpha1.BridgeNetworkSpec{}, 9000},
	} {
		if got := View(network(test.spec), node).MTU; got != test.want {
			t.Errorf("%s: %d, want %d", name, got, test.want)
		}
	}
	if got := View(network(v1alpha1.BridgeNetworkSpec{}), netstate.Node{}).MTU; got != 1500 {
		t.Errorf("without a default route: %d, want 1500", got)
	}
}

func TestProblems(t *testing.T) {
	node := netstate.Node{
		DefaultLink: "eth0",
		Links:       map[string]netstate.NodeLink{"eth0": {}, "eth1": {Master: "br9"}},
		Routing:     netstate.Routing{Routes: []netstate.ForeignRoute{{Table: netstate.TableMain, Own: true, Link: "eth0", Dst: netip.MustParsePrefix("10.0.0.0/16")}}},
	}
	uplink := func(name string) v1alpha1.BridgeNetworkSpec {
		return v1alpha1.BridgeNetworkSpec{Gateway: v1alpha1.GatewaySpec{Mode: v1alpha1.GatewayNone}, Uplink: &v1alpha1.UplinkSpec{Interface: name}}
	}
	for want, spec := range map[string]v1alpha1.BridgeNetworkSpec{
		"SubnetOverlap: spec.subnets: 10.0.3.0/24 overlaps the route to 10.0.0.0/16 on eth0 of node node1: choose another subnet":                               {Subnets: []v1alpha1.Subnet{"10.0.3.0/24"}},
		"UplinkInUse: spec.uplink.interface: eth0 carries the default route of node node1, which would lose its network: use another interface":                 uplink("eth0"),
		"UplinkInUse: spec.uplink.interface: eth1 of node node1 is already a port of br9: remove it from there, or use another interface":                       uplink("eth1"),
		"AddressConflict: spec.egress.sourceAddress: 192.0.2.9 is not an address of node node1: replies would not find back; name one that is, or leave it out": {Subnets: []v1alpha1.Subnet{"172.30.0.0/24"}, Egress: v1alpha1.EgressSpec{SourceAddress: "192.0.2.9"}},
		"UplinkNotFound: spec.uplink.interface: node node1 has no interface eth7: name one it has":                                                              uplink("eth7"),
	} {
		_, p := Network(network(spec), on(node))
		if p == nil || p.Error() != want {
			t.Errorf("got %v\nwant %s", p, want)
		}
	}
}

// TestExternalBridgeIsNotGuarded shows that the other ports of a foreign bridge are
// not closed, and that a note says so.
func TestExternalBridgeIsNotGuarded(t *testing.T) {
	n := network(v1alpha1.BridgeNetworkSpec{
		Bridge:  v1alpha1.BridgeSpec{Name: "br0", Lifecycle: v1alpha1.External},
		Gateway: v1alpha1.GatewaySpec{Mode: v1alpha1.GatewayExternal},
	})
	r, p := Network(n, on(netstate.Node{Links: map[string]netstate.NodeLink{"br0": {Type: netstate.Bridge}}}))
	if p != nil {
		t.Fatal(p)
	}
	if policy := r.Objects[netstate.LinkPolicy{Link: "br0"}.Key()]; policy != (netstate.LinkPolicy{Link: "br0"}) {
		t.Errorf("policy of br0: %v", policy)
	}
	if note := Joined(r.Notes); note == nil || note.Reason != v1alpha1.ReasonUnsupported {
		t.Errorf("note: %v", note)
	}
}

func TestTheNodesOwnAddressIsRefused(t *testing.T) {
	node := netstate.Node{Addresses: []netstate.NodeAddress{{Link: "eth0", Prefix: netip.MustParsePrefix("10.0.0.7/24")}}}
	a := &v1alpha1.NamespaceAttachment{Spec: v1alpha1.NamespaceAttachmentSpec{Target: v1alpha1.AttachmentTarget{Netns: &v1alpha1.NetnsTarget{Name: "net1"}}, Network: "red"}}
	_, _, p := Attachment(a, &NetworkView{Name: "red"}, Place{Target: netstate.End{Netns: "a", Name: "eth0"}, Addresses: []netip.Prefix{netip.MustParsePrefix("10.0.0.7/24")}}, on(node))
	if p == nil || p.Reason != v1alpha1.ReasonAddressConflict {
		t.Errorf("got %v", p)
	}
}

func TestAntiSpoofUnavailable(t *testing.T) {
	c := on(netstate.Node{Name: "n"})
	c.NoAntiSpoof = true
	filters := func(s netstate.Set) (n int) {
		for k := range s {
			if k.Kind == netstate.KindPortFilter || k.Kind == netstate.KindPortAddress {
				n++
			}
		}
		return n
	}
	for _, asked := range []bool{true, false} {
		n := network(v1alpha1.BridgeNetworkSpec{Subnets: []v1alpha1.Subnet{"10.0.0.0/24"}, Isolation: v1alpha1.IsolationSpec{AntiSpoof: &asked}})
		r, problem := Network(n, c)
		if problem != nil {
			t.Fatal(problem)
		}
		if note := Joined(r.Notes); (note != nil && note.Reason == v1alpha1.ReasonAntiSpoofUnavailable) != asked {
			t.Errorf("with antiSpoof %t the note is %v", asked, note)
		}
		a := &v1alpha1.NamespaceAttachment{}
		a.Name, a.Spec.Network, a.Spec.Target.Netns = "a", n.Name, &v1alpha1.NetnsTarget{Name: "a"}
		v := View(n, c.Node)
		for _, without := range []bool{true, false} {
			c.NoAntiSpoof = without
			r, _, _ := Attachment(a, &v, Place{}, c)
			if (filters(r.Objects) > 0) != (asked && !without) {
				t.Errorf("with antiSpoof %t, and a firewall that cannot %t, there are %d filters", asked, without, filters(r.Objects))
			}
		}
		c.NoAntiSpoof = true
	}
}

func TestMergedPrefixes(t *testing.T) {
	var in []netip.Prefix
	for _, s := range []string{"10.0.0.0/8", "10.1.0.0/16", "192.168.0.0/16", "192.168.0.0/16", "fd00::/8"} {
		in = append(in, netip.MustParsePrefix(s))
	}
	if got := fmt.Sprint(merged(in, netip.IPv4Unspecified())); got != "[10.0.0.0/8 192.168.0.0/16]" {
		t.Errorf("got %s", got)
	}
}

func TestJoinedNotes(t *testing.T) {
	crowd := problem(v1alpha1.ReasonProgrammed, "published; but to few")
	hairpin := problem(v1alpha1.ReasonHairpinUnavailable, "published; but not to itself")
	lost := problem(v1alpha1.ReasonHostPortConflict, "spec.ports: taken")
	for _, c := range []struct {
		list []*Problem
		want *Problem
	}{
		{nil, nil},
		{[]*Problem{crowd}, crowd},
		{[]*Problem{crowd, hairpin}, problem(v1alpha1.ReasonHairpinUnavailable, "published; but to few; but not to itself")},
		{[]*Problem{lost, crowd}, problem(v1alpha1.ReasonHostPortConflict, "spec.ports: taken; published; but to few")},
	} {
		if got := Joined(c.list); fmt.Sprint(got) != fmt.Sprint(c.want) {
			t.Errorf("%v: got %v, want %v", c.list, got, c.want)
		}
	}
	var r Result
	if r.note(crowd, nil, crowd); len(r.Notes) != 1 {
		t.Errorf("noted twice: %v", r.Notes)
	}
}

// TestForwardOpening has FORWARD of iptables opened for packets to a network and from
// it by the node's ways out; for a publish on an interface of its own; and on a foreign
// bridge for the published ports.
func TestForwardOpening(t *testing.T) {
	four := func(o netstate.Opening) netstate.Object { o.Family = netstate.IPv4; return o }
	c := on(netstate.Node{DefaultLinks: []string{"eth0", "odd+"}, GatewayLinks: []string{"tap1", "wg0"}, Addresses: []netstate.NodeAddress{{Link: "br0", Prefix: netip.MustParsePrefix("10.0.0.1/24")}}})
	c.Blockers = []netstate.Blocker{{Name: "chain FORWARD", Families: []netstate.Family{netstate.IPv4}, Openable: true, Names: []string{"eth0", "tap*"}}}
	view := NetworkView{Bridge: "br-red", Gateways: []netip.Addr{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("fd00::1")},
		Subnets: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/24"), netip.MustParsePrefix("fd00::/64")}}
	r := Result{Objects: netstate.Set{}}
	addGateway(&r, view, c)
	opened(t, "a network", r, four(netstate.Opening{Link: "br-red"}), four(netstate.Opening{Link: "br-red", Out: "eth0"}), four(netstate.Opening{Link: "br-red", Out: "wg0"}))

	p := publishOf()
	p.Spec.Ports = []v1alpha1.PublishedPort{{Protocol: "TCP", HostPort: 8080, TargetPort: 80}, {Protocol: "UDP", HostPort: 9000, HostPortEnd: 9009, TargetPort: 7000}}
	target := AttachmentView{Reachable: true, Way: "br-red", Reached: []netip.Prefix{netip.MustParsePrefix("10.0.0.5/24")}, Gateways: view.Gateways}
	r, _ = Publish(p, []AttachmentView{target}, c)
	opened(t, "a publish", r, four(netstate.Opening{Link: "br-red"}))
	target.Way, target.External = "br0", true
	r, _ = Publish(p, []AttachmentView{target}, c)
	opened(t, "a publish on a bridge of others", r,
		four(netstate.Opening{Link: "br0", To: netip.MustParseAddrPort("10.0.0.5:80"), Proto: "tcp"}),
		four(netstate.Opening{Link: "br0", To: netip.MustParseAddrPort("10.0.0.5:7000"), End: 7009, Proto: "udp"}))

	c.Blockers[0].Openable = false
	r, _ = Publish(p, []AttachmentView{target}, c)
	opened(t, "what cannot be opened", r)
}

func opened(t *testing.T, name string, r Result, want ...netstate.Object) {
	t.Helper()
	got := netstate.Set{}
	for _, o := range r.Objects {
		if o.Key().Kind == netstate.KindOpening {
			got.Add(o)
		}
	}
	if !maps.Equal(got, netstate.Set{}.Add(want...)) {
		t.Errorf("%s: opened %v, want %v", name, slices.Collect(maps.Values(got)), want)
	}
}
