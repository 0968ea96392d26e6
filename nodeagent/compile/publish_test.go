package compile

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/patchbay-dev/patchbay/api/v1alpha1"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
)

func publishOf(hosts ...v1alpha1.IPAddress) *v1alpha1.PortPublish {
	p := &v1alpha1.PortPublish{}
	p.Spec.Attachment, p.Spec.HostAddresses = "web", hosts
	p.Spec.Ports = []v1alpha1.PublishedPort{{Protocol: v1alpha1.TCP, HostPort: 8001, TargetPort: 80}}
	return p
}

// view is a target with default routes of those families that it has a gateway
// of.
func view(addresses []string, gateways ...string) AttachmentView {
	v := AttachmentView{Reachable: true, Bridged: true, Host: netstate.End{Name: "veth" + addresses[0][:1]}}
	for _, a := range addresses {
		v.Addresses = append(v.Addresses, netip.MustParsePrefix(a))
	}
	v.Reached = v.Addresses
	for _, g := range gateways {
		v.Gateways = append(v.Gateways, netip.MustParseAddr(g))
	}
	return v
}

func published(t *testing.T, p *v1alpha1.PortPublish, views ...AttachmentView) (map[string]string, *Problem) {
	t.Helper()
	r, problem := Publish(p, views, on(netstate.Node{}))
	if problem != nil {
		t.Fatal(problem)
	}
	out := map[string]string{}
	for k, o := range r.Objects {
		if k.Kind == netstate.KindPublish {
			out[k.Name] = o.String()
		}
	}
	if len(out) != len(r.Claims) {
		t.Errorf("%d ports, %d claims", len(out), len(r.Claims))
	}
	return out, Joined(r.Notes)
}

// TestPublishSeveral has targets of one family, of both, with and without a
// default route of their own.
func TestPublishSeveral(t *testing.T) {
	lost := view([]string{"10.0.0.9/24"})
	lost.Reachable, lost.Reached = false, nil
	got, _ := published(t, publishOf(),
		view([]string{"10.0.0.12/24", "fd00::12/64"}, "10.0.0.1", "fd00::1"), view([]string{"10.0.0.2/24"}), lost, view([]string{"fd00::3/64"}, "10.0.0.1"))
	want := map[string]string{
		"0.0.0.0:8001/tcp": "to 10.0.0.2:80 masqueraded, 10.0.0.12:80",
		"[::]:8001/tcp":    "to [fd00::3]:80 masqueraded, [fd00::12]:80",
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("published %v, want %v", got, want)
	}
	if _, problem := Publish(publishOf(), []AttachmentView{lost, lost}, on(netstate.Node{})); problem == nil || problem.Reason != v1alpha1.ReasonUnsupported {
		t.Errorf("targets without a way to the node: %v", problem)
	}
	node := netstate.Node{Addresses: []netstate.NodeAddress{{Prefix: netip.MustParsePrefix("192.0.2.1/24")}}}
	if _, problem := Publish(publishOf("192.0.2.1"), []AttachmentView{view([]string{"fd00::3/64"})}, on(node)); problem == nil {
		t.Error("an IPv4 address leads to an IPv6 target")
	}
}

// TestPublishCrowd has more targets than there are slots.
func TestPublishCrowd(t *testing.T) {
	var views []AttachmentView
	for i := range netstate.MaxTargets + 2 {
		views = append(views, view([]string{fmt.Sprintf("10.0.%d.1/16", i)}, "10.0.255.1"))
	}
	got, note := published(t, publishOf(), views[1:]...)
	if n := strings.Count(got["0.0.0.0:8001/tcp"], ":80"); n != netstate.MaxTargets {
		t.Errorf("%d targets", n)
	}
	if note == nil || !strings.Contains(note.Message, "of 121 targets on this node only 120") {
		t.Errorf("the note is %v", note)
	}
	if _, note := published(t, publishOf(), views[2:]...); note != nil {
		t.Errorf("the note on as many as there are slots is %v", note)
	}
}

// TestPublishRanges has ranges that keep their ports and shifted ones, for some
// sources, and on loopback, where these do not count.
func TestPublishRanges(t *testing.T) {
	p := publishOf()
	p.Spec.Loopback = true
	p.Spec.SourceRanges = []v1alpha1.Subnet{"192.0.2.0/24", "10.0.0.0/8", "10.1.0.0/16"}
	p.Spec.Ports = []v1alpha1.PublishedPort{
		{Protocol: v1alpha1.TCP, HostPort: 8000, HostPortEnd: 8010}, {Protocol: v1alpha1.UDP, HostPort: 8000, HostPortEnd: 8003, TargetPort: 53},
		{Protocol: v1alpha1.TCP, HostPort: 80, HostPortEnd: 80},
	}
	both := view([]string{"10.0.0.2/24", "fd00::2/64"}, "10.0.0.1", "fd00::1")
	both.Way = "br-red"
	got, note := published(t, p, both)
	want := map[string]string{
		"0.0.0.0:8000-8010/tcp": "to 10.0.0.2:8000 from 10.0.0.0/8, 192.0.2.0/24", "127.0.0.1:8000-8010/tcp": "to 10.0.0.2:8000", "[::]:8000-8010/tcp": "to [fd00::2]:8000 from nobody",
		"0.0.0.0:8000-8003/udp": "to 10.0.0.2:53 from 10.0.0.0/8, 192.0.2.0/24", "127.0.0.1:8000-8003/udp": "to 10.0.0.2:53", "[::]:8000-8003/udp": "to [fd00::2]:53 from nobody",
		"0.0.0.0:80/tcp": "to 10.0.0.2:80 from 10.0.0.0/8, 192.0.2.0/24", "127.0.0.1:80/tcp": "to 10.0.0.2:80", "[::]:80/tcp": "to [fd00::2]:80 from nobody",
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("published %v, want %v", got, want)
	}
	if note == nil || note.Reason != v1alpha1.ReasonUnsupported || !strings.Contains(note.Message, "only on 127.0.0.1") {
		t.Errorf("the note is %v", note)
	}
	p.Spec.SourceRanges = append(p.Spec.SourceRanges, "0.0.0.0/0")
	if got, _ = published(t, p, both); got["0.0.0.0:80/tcp"] != "to 10.0.0.2:80" {
		t.Errorf("for everyone it is %q", got["0.0.0.0:80/tcp"])
	}
	if _, problem := Publish(p, []AttachmentView{both, both}, on(netstate.Node{})); problem == nil || !strings.Contains(problem.Message, "the range 8000-8003 leads to other ports") {
		t.Errorf("a shifted range for two: %v", problem)
	}
	p.Spec.Ports = []v1alpha1.PublishedPort{p.Spec.Ports[0], p.Spec.Ports[2]}
	other := view([]string{"10.0.0.3/24"}, "10.0.0.1")
	if got, _ = published(t, p, both, other); got["0.0.0.0:8000-8010/tcp"] != "to 10.0.0.2:8000, 10.0.0.3:8000" {
		t.Errorf("a range for two: %v", got)
	}
}

// TestPublishForNobody: sources of a family in which the publish does not answer.
func TestPublishForNobody(t *testing.T) {
	p := publishOf()
	p.Spec.SourceRanges = []v1alpha1.Subnet{"2001:db8::/32"}
	four, both := view([]string{"10.0.0.2/24"}, "10.0.0.1"), view([]string{"10.0.0.2/24", "fd00::2/64"}, "10.0.0.1", "fd00::1")
	if r, problem := Publish(p, []AttachmentView{four}, on(netstate.Node{})); problem != nil || len(r.Lacks) != 1 || !strings.Contains(r.Lacks[0].Message, "nobody may connect") {
		t.Errorf("lacks %v, problem %v", r.Lacks, problem)
	}
	if r, problem := Publish(p, []AttachmentView{both}, on(netstate.Node{})); problem != nil || len(r.Lacks) != 0 {
		t.Errorf("with both families: lacks %v, problem %v", r.Lacks, problem)
	}
}

// TestPublishLoopback wants the guard with the sysctl, for IPv4 alone.
func TestPublishLoopback(t *testing.T) {
	p := publishOf()
	p.Spec.Loopback = true
	one, two := view([]string{"10.0.0.2/24"}, "10.0.0.1"), view([]string{"fd00::2/64"}, "fd00::1")
	one.Way, two.Way = "br-red", "br-blue"
	r, problem := Publish(p, []AttachmentView{one}, on(netstate.Node{}))
	sysctl := netstate.Sysctl{Link: "br-red", Path: "net/ipv4/conf/br-red/route_localnet", Value: "1", Restore: true}
	if problem != nil || len(r.Notes) > 0 || len(r.Lacks) > 0 || r.Objects[sysctl.Key()] != sysctl || r.Objects[netstate.LoopbackGuard{Link: "br-red"}.Key()] == nil {
		t.Errorf("%v %v: %v", problem, r.Notes, r.Objects)
	}
	r, problem = Publish(p, []AttachmentView{two}, on(netstate.Node{}))
	if problem != nil || len(r.Lacks) != 1 || r.Lacks[0].Reason != v1alpha1.ReasonUnsupported || r.Objects[netstate.LoopbackGuard{Link: "br-blue"}.Key()] != nil || len(r.Claims) != 1 {
		t.Errorf("%v %v: %v", problem, r.Lacks, r.Objects)
	}
}

// TestPublishHidden says where servers do not see their clients.
func TestPublishHidden(t *testing.T) {
	_, note := published(t, publishOf(), view([]string{"10.0.0.2/24"}))
	if note == nil || note.Reason != v1alpha1.ReasonProgrammed || !strings.Contains(note.Message, "hidden from 10.0.0.2 behind") {
		t.Errorf("the note is %v", note)
	}
	_, note = published(t, publishOf(), view([]string{"10.0.0.2/24"}), view([]string{"10.0.0.3/24"}), view([]string{"10.0.0.4/24"}), view([]string{"10.0.0.5/24"}, "10.0.0.1"))
	if note == nil || !strings.Contains(note.Message, "hidden from 3 of 4 targets") {
		t.Errorf("the note is %v", note)
	}
	blocked := on(netstate.Node{})
	blocked.Blockers = []netstate.Blocker{{Name: "chain x", Cause: "by its rule `drop`", Families: []netstate.Family{netstate.IPv4}}}
	r, _ := Publish(publishOf(), []AttachmentView{view([]string{"10.0.0.2/24"})}, blocked)
	blocked.Blockers[0].Translated = true
	passed, _ := Publish(publishOf(), []AttachmentView{view([]string{"10.0.0.2/24"})}, blocked)
	if len(passed.Lacks) > 0 {
		t.Errorf("it lacks %v where what is translated passes", passed.Lacks)
	}
	if len(r.Lacks) != 1 || r.Lacks[0].Reason != v1alpha1.ReasonForwardBlocked || !strings.Contains(r.Lacks[0].Message, "chain x drops forwarded packets by its rule `drop`, and names no ") || len(r.Notes) == 0 {
		t.Errorf("it lacks %v, with the note %v", r.Lacks, r.Notes)
	}
}

// TestPublishExternal has a foreign bridge on which the node has no address, an
// address of one family, and the network's gateways.
func TestPublishExternal(t *testing.T) {
	network := &NetworkView{Name: "lan", Bridge: "br0", Mode: v1alpha1.GatewayExternal, Gateways: []netip.Addr{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("fd00::1")}}
	a := &v1alpha1.NamespaceAttachment{Spec: v1alpha1.NamespaceAttachmentSpec{Target: v1alpha1.AttachmentTarget{Netns: &v1alpha1.NetnsTarget{Name: "web"}}, Network: "lan"}}
	at := Place{Target: netstate.End{Netns: "web", Name: "eth0"}, Addresses: []netip.Prefix{netip.MustParsePrefix("10.0.0.5/24"), netip.MustParsePrefix("fd00::5/64")}}
	const (
		noWay = "Unsupported: spec.attachment: web has no way to the node, which has no address in its subnet on bridge br0"
		four  = "published; but not to fd00::5: the node has no address in its subnet on bridge br0; clients' addresses are hidden from 10.0.0.5"
	)
	for _, c := range []struct {
		link      string
		addresses []string
		want      string
	}{
		{"br0", nil, noWay},
		{"br1", []string{"10.0.0.9/24"}, noWay},
		{"br0", []string{"10.1.0.9/24", "10.0.0.9/32"}, noWay},
		{"br0", []string{"10.0.0.9/24"}, four},
		{"br0", []string{"10.0.0.9/24", "fd00::9/64"}, "hidden from 10.0.0.5 and fd00::5 behind the node's, since the default route there leads elsewhere: name the node's address on the bridge"},
		{"br0", []string{"10.0.0.1/24", "fd00::9/64"}, "hidden from fd00::5 behind"},
		{"br0", []string{"10.0.0.1/24", "fd00::1/64"}, "<nil>"},
	} {
		var node netstate.Node
		for _, p := range c.addresses {
			node.Addresses = append(node.Addresses, netstate.NodeAddress{Link: c.link, Prefix: netip.MustParsePrefix(p)})
		}
		_, v, problem := Attachment(a, network, at, on(node))
		if problem != nil {
			t.Fatal(problem)
		}
		r, problem := Publish(publishOf(), []AttachmentView{v}, on(node))
		got := fmt.Sprint(Joined(r.Notes))
		if problem != nil {
			got = problem.Error()
		}
		if !strings.Contains(got, c.want) || (problem != nil) != (len(r.Claims) == 0) {
			t.Errorf("%v on %s: %d claims, %s, want %s", c.addresses, c.link, len(r.Claims), got, c.want)
		}
	}
}

// TestPublishOwnAddress names addresses that the node has from other resources.
func TestPublishOwnAddress(t *testing.T) {
	c := on(netstate.Node{})
	c.Own = []netip.Addr{netip.MustParseAddr("10.0.0.1")}
	target := []AttachmentView{view([]string{"10.0.0.2/24"}, "10.0.0.1")}
	if r, problem := Publish(publishOf("10.0.0.1"), target, c); problem != nil || len(r.Claims) != 1 {
		t.Errorf("one of its own: %v, %d claims", problem, len(r.Claims))
	}
	if _, problem := Publish(publishOf("10.0.0.7"), target, c); problem == nil || !strings.Contains(problem.Message, "10.0.0.7 is not an address of node") {
		t.Errorf("another: %v", problem)
	}
}
