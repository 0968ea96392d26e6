package compile

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/patchbay-dev/patchbay/api/v1alpha1"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
)

func rule(priority uint32, change func(*netstate.RouteRule)) netstate.RouteRule {
	r := netstate.RouteRule{Family: netstate.IPv4, Priority: priority, Longer: -1, Table: 100}
	change(&r)
	return r
}

// TestCoveringRoutes has a subnet beside every kind of route of the node.
func TestCoveringRoutes(t *testing.T) {
	via := netip.MustParseAddr("192.0.2.1")
	for _, c := range []struct {
		name  string
		route netstate.ForeignRoute
		// want is a part of the refusal or of the note; empty is neither.
		refused, noted string
	}{
		{"def1 by a gateway", netstate.ForeignRoute{Dst: netip.MustParsePrefix("0.0.0.0/1"), Link: "tun0", Via: via}, "", "0.0.0.0/1 via 192.0.2.1 dev tun0"},
		{"wide by several gateways", netstate.ForeignRoute{Dst: netip.MustParsePrefix("10.0.0.0/8"), Link: "eth1", Gated: true}, "", "10.0.0.0/8 dev eth1"},
		{"wide into a tunnel", netstate.ForeignRoute{Dst: netip.MustParsePrefix("10.0.0.0/8"), Link: "wg0", Tunnel: true}, "", "10.0.0.0/8 dev wg0"},
		{"the tunnel's own range", netstate.ForeignRoute{Dst: netip.MustParsePrefix("10.0.0.0/8"), Link: "wg0", Tunnel: true, Own: true}, "10.0.0.0/8 on wg0", ""},
		{"the node's own range", netstate.ForeignRoute{Dst: netip.MustParsePrefix("10.0.0.0/8"), Link: "eth0", Own: true}, "10.0.0.0/8 on eth0", ""},
		{"neighbours without an address", netstate.ForeignRoute{Dst: netip.MustParsePrefix("10.0.0.0/8"), Link: "eth0"}, "10.0.0.0/8 on eth0", ""},
		{"wide and dropping", netstate.ForeignRoute{Dst: netip.MustParsePrefix("10.0.0.0/8"), Drops: "blackhole"}, "", "blackhole 10.0.0.0/8"},
		{"equal by a gateway", netstate.ForeignRoute{Dst: netip.MustParsePrefix("10.0.0.0/24"), Link: "tun0", Via: via}, "10.0.0.0/24 on tun0", ""},
		{"inside into a tunnel", netstate.ForeignRoute{Dst: netip.MustParsePrefix("10.0.0.7/32"), Link: "tun0", Tunnel: true}, "10.0.0.7/32 on tun0", ""},
		{"inside and dropping", netstate.ForeignRoute{Dst: netip.MustParsePrefix("10.0.0.7/32"), Drops: "unreachable"}, "unreachable 10.0.0.7", ""},
		{"elsewhere", netstate.ForeignRoute{Dst: netip.MustParsePrefix("172.16.0.0/12"), Link: "eth0", Own: true}, "", ""},
		{"of the bridge", netstate.ForeignRoute{Dst: netip.MustParsePrefix("10.0.0.0/25"), Link: "br-red"}, "", ""},
	} {
		c.route.Table = netstate.TableMain
		n := network(v1alpha1.BridgeNetworkSpec{Subnets: []v1alpha1.Subnet{"10.0.0.0/24"}})
		n.Name = "red"
		r, p := Network(n, on(netstate.Node{Name: "n", Routing: netstate.Routing{Routes: []netstate.ForeignRoute{c.route}}}))
		if (p != nil) != (c.refused != "") || p != nil && (p.Reason != v1alpha1.ReasonSubnetOverlap || !strings.Contains(p.Message, c.refused)) {
			t.Errorf("%s: %v, want a refusal with %q", c.name, p, c.refused)
		}
		note := Joined(r.Notes)
		if (note != nil) != (c.noted != "") || note != nil && !strings.Contains(note.Message, c.noted) {
			t.Errorf("%s: note %v, want one with %q", c.name, note, c.noted)
		}
	}
}

// TestDetours has packets to 10.0.0.0/24, which leads to br-red, beside every kind of
// rule.
func TestDetours(t *testing.T) {
	out := netstate.ForeignRoute{Table: 100, Dst: netip.MustParsePrefix("0.0.0.0/0"), Link: "eth0"}
	for _, c := range []struct {
		name  string
		rules []netstate.RouteRule
		// want are the priorities that are found; with a minus, for some packets alone.
		want []int
	}{
		{"a table with a default route", []netstate.RouteRule{rule(10, func(*netstate.RouteRule) {})}, []int{10}},
		{"to elsewhere", []netstate.RouteRule{rule(10, func(r *netstate.RouteRule) { r.To = netip.MustParsePrefix("10.0.1.0/24") })}, nil},
		{"to a part", []netstate.RouteRule{rule(10, func(r *netstate.RouteRule) { r.To, r.Drops = netip.MustParsePrefix("10.0.0.8/29"), "blackhole" })}, []int{10}},
		{"from somebody", []netstate.RouteRule{rule(10, func(r *netstate.RouteRule) { r.From = netip.MustParsePrefix("203.0.113.4/32") })}, []int{-10}},
		{"from an interface", []netstate.RouteRule{rule(10, func(r *netstate.RouteRule) { r.In = "eth7" })}, []int{-10}},
		{"from the bridge itself", []netstate.RouteRule{rule(10, func(r *netstate.RouteRule) { r.In = "br-red" })}, nil},
		{"with a mark", []netstate.RouteRule{rule(10, func(r *netstate.RouteRule) { r.Narrow = true })}, nil},
		{"of the other family", []netstate.RouteRule{rule(10, func(r *netstate.RouteRule) { r.Family = netstate.IPv6 })}, nil},
		{"without its default route", []netstate.RouteRule{rule(10, func(r *netstate.RouteRule) { r.Longer = 0 })}, nil},
		{"an empty table", []netstate.RouteRule{rule(10, func(r *netstate.RouteRule) { r.Table = 200 })}, nil},
		{"a table that leads to the bridge", []netstate.RouteRule{rule(10, func(r *netstate.RouteRule) { r.Table = 300 })}, nil},
		{"after the main table", []netstate.RouteRule{rule(32767, func(*netstate.RouteRule) {})}, nil},
		{"after the main table for it", []netstate.RouteRule{
			rule(9, func(r *netstate.RouteRule) { r.Table, r.Longer = netstate.TableMain, 0 }), rule(10, func(*netstate.RouteRule) {})}, nil},
		{"after the main table for these addresses", []netstate.RouteRule{
			rule(9, func(r *netstate.RouteRule) { r.Table, r.To = netstate.TableMain, netip.MustParsePrefix("10.0.0.0/16") }), rule(10, func(*netstate.RouteRule) {})}, nil},
		{"after the main table for others", []netstate.RouteRule{
			rule(9, func(r *netstate.RouteRule) {
				r.Table, r.From = netstate.TableMain, netip.MustParsePrefix("10.9.0.0/16")
			}), rule(10, func(*netstate.RouteRule) {})}, []int{10}},
	} {
		routing := netstate.Routing{Rules: c.rules, Routes: []netstate.ForeignRoute{
			out, {Table: 300, Dst: netip.MustParsePrefix("0.0.0.0/0"), Link: "eth0"}, {Table: 300, Dst: netip.MustParsePrefix("10.0.0.0/24"), Link: "br-red"}}}
		var got []int
		for _, d := range detours(routing, netip.MustParsePrefix("10.0.0.0/24"), "br-red") {
			n := int(d.rule.Priority)
			if !d.always {
				n = -n
			}
			got = append(got, n)
		}
		if len(got) != len(c.want) || len(got) > 0 && got[0] != c.want[0] {
			t.Errorf("%s: got %v, want %v", c.name, got, c.want)
		}
	}
}

func TestWaysOut(t *testing.T) {
	node := func(links map[string]netstate.NodeLink) netstate.Node {
		n := netstate.Node{Name: "n", Links: links, DefaultLinks: []string{"eth0"}, Ways: map[netstate.Family][]string{netstate.IPv4: {"eth0", "eth1"}}}
		return n
	}
	for _, c := range []struct {
		name          string
		links         map[string]netstate.NodeLink
		lacks, reason string
	}{
		{"all well", nil, "", ""},
		{"the default way forwards nothing", map[string]netstate.NodeLink{"eth0": {NoForward: true}}, v1alpha1.ReasonForwardBlocked, ""},
		{"another way forwards nothing", map[string]netstate.NodeLink{"eth1": {NoForward: true}}, "", v1alpha1.ReasonForwardBlocked},
		{"one way is down", map[string]netstate.NodeLink{"eth0": {Down: true}}, "", v1alpha1.ReasonUplinkDown},
		{"all ways are down", map[string]netstate.NodeLink{"eth0": {Down: true}, "eth1": {Down: true}}, v1alpha1.ReasonUplinkDown, ""},
		{"XDP", map[string]netstate.NodeLink{"eth1": {XDP: true}}, "", v1alpha1.ReasonProgrammed},
	} {
		var r Result
		r.waysOut(node(c.links), netstate.IPv4)
		r.waysOut(node(c.links), netstate.IPv6)
		reason := func(list []*Problem) string {
			if p := Joined(list); p != nil {
				return p.Reason
			}
			return ""
		}
		if reason(r.Lacks) != c.lacks || reason(r.Notes) != c.reason {
			t.Errorf("%s: lacks %v, notes %v", c.name, Joined(r.Lacks), Joined(r.Notes))
		}
	}
}
