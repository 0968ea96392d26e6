package engine

import (
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/patchbay-dev/patchbay/api/v1alpha1"
	"github.com/patchbay-dev/patchbay/nodeagent/kernel"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
	"github.com/patchbay-dev/patchbay/nodeagent/plan"
)

// TestObstructed: what keeps a link from carrying packets, although the link is as
// wanted, is said without any step, and is no longer when it is gone.
func TestObstructed(t *testing.T) {
	w := newWorld(t)
	w.k.node.Links["br0"] = netstate.NodeLink{Type: netstate.Bridge, MTU: 1500}
	ext := bnet("ext", "10.1.0.0/24")
	ext.Spec.Bridge.Name, ext.Spec.Bridge.Lifecycle, ext.Spec.Gateway.Mode = "br0", v1alpha1.External, v1alpha1.GatewayExternal
	for _, o := range []v1alpha1.Object{bnet("red", "10.0.0.0/24"), ext, nsa("a", "red", "10.0.0.2/24"), nsa("b", "ext", "10.1.0.2/24")} {
		w.set(o)
	}
	w.turns(20)
	host := netstate.Link{Name: w.e.resolver.Resources[own(nsa("b", ""))].View.Host.Name}.Key()
	inside := netstate.Link{Netns: "a", Name: "eth0"}.Key()
	for _, c := range []struct {
		key             netstate.Key
		owner           string
		change          func(*netstate.Link)
		reason, message string
	}{
		{host, "b", func(l *netstate.Link) { l.Waits = "listening" }, v1alpha1.ReasonPending, "is listening: the bridge's spanning tree lets it forward"},
		{host, "b", func(l *netstate.Link) { l.Waits = "blocking" }, v1alpha1.ReasonPending, "is blocking: it waits for the bridge's spanning tree"},
		{host, "b", func(l *netstate.Link) { l.Waits = netstate.BridgeDown }, v1alpha1.ReasonPending, "ip link set br0 up"},
		{inside, "a", func(l *netstate.Link) { l.Taken = "egress" }, v1alpha1.ReasonObstructed, "tc -n a filter del dev eth0 egress"},
		{inside, "a", func(l *netstate.Link) { l.Planted = "10.0.0.9=02:00:00:00:00:99 10.0.0.1=02:00:00:00:00:99" }, v1alpha1.ReasonObstructed, "ip -n a neigh del 10.0.0.1 dev eth0"},
	} {
		w.k.appErr = func(s plan.Step) error {
			t.Errorf("%s: step %s %s", c.message, s.Op, s.Key)
			return nil
		}
		before := w.k.set[c.key].(netstate.Link)
		now := before
		c.change(&now)
		w.k.set[c.key] = now
		w.k.fn(kernel.Event{Key: c.key})
		w.turns(3)
		if got := w.r.status[own(nsa(c.owner, ""))].Ready; got.Status != metav1.ConditionFalse || got.Reason != c.reason || !strings.Contains(got.Message, c.message) {
			t.Errorf("%v, want False %s %s", got, c.reason, c.message)
		}
		w.k.set[c.key] = before
		w.k.fn(kernel.Event{Key: c.key})
		w.turns(3)
		if got := w.r.status[own(nsa(c.owner, ""))].Ready; got.Status != metav1.ConditionTrue {
			t.Errorf("once it is gone: %v", got)
		}
	}
	// A neighbour that is no gateway, and a gateway at its own address, are no fault.
	l := w.k.set[inside].(netstate.Link)
	l.Planted = "10.0.0.9=02:00:00:00:00:99 10.0.0.1=" + w.k.set[netstate.Link{Name: "br-red"}.Key()].(netstate.Link).MAC.String()
	w.k.set[inside] = l
	w.k.fn(kernel.Event{Key: inside})
	w.turns(3)
	if got := w.r.status[own(nsa("a", ""))].Ready; got.Status != metav1.ConditionTrue {
		t.Errorf("with right neighbours: %v", got)
	}
}

// TestLinkRunsAgain: the objects on a link that has a carrier again are looked at.
func TestLinkRunsAgain(t *testing.T) {
	w := newWorld(t)
	w.set(bnet("red", "10.0.0.0/24"))
	w.turns(20)
	bridge := netstate.Link{Name: "br-red"}
	key := netstate.Address{Link: "br-red", Prefix: pfx("10.0.0.1/24")}.Key()
	a := w.k.set[key].(netstate.Address)
	a.Astray = "without its connected route"
	w.k.set[key] = a
	w.k.fn(kernel.Event{Key: bridge.Key(), Object: w.k.set[bridge.Key()], Runs: true})
	w.turns(3)
	if got := w.k.set[key].(netstate.Address); got.Astray != "" {
		t.Errorf("the address is still %s", got)
	}
}

// TestSilentSysctl: a sysctl without notifications by the kernel is read.
func TestSilentSysctl(t *testing.T) {
	w := newWorld(t)
	w.set(bnet("red", "10.0.0.0/24"))
	w.set(nsa("a", "red", "10.0.0.2/24"))
	p := pp("web", "a", "", 80)
	p.Spec.Loopback = true
	w.set(p)
	w.turns(20)
	key := netstate.Sysctl{Link: "br-red", Path: "net/ipv4/conf/br-red/route_localnet", Restore: true}.Key()
	s := w.k.set[key].(netstate.Sysctl)
	s.Value = "0"
	w.k.set[key] = s
	if d := w.turn(); d > silentPause {
		t.Errorf("the next look is in %s", d)
	}
	w.later(silentPause)
	w.turns(3)
	if got := w.k.set[key].(netstate.Sysctl); got.Value != "1" {
		t.Errorf("it stays %s", got)
	}
}
