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
	return out, r.Note
}

// TestPublishSeveral has targets of one family, of both, with and without a
// default route of their own.
func TestPublishSeveral(t *testing.T) {
	lost := view([]string{"10.0.0.9/24"})
	lost.Reachable = false
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
