package engine

import (
	"errors"
	"fmt"
	"testing"

	"github.com/patchbay-dev/patchbay/api/v1alpha1"
	"github.com/patchbay-dev/patchbay/nodeagent/compile"
	"github.com/patchbay-dev/patchbay/nodeagent/kernel"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
	"github.com/patchbay-dev/patchbay/nodeagent/plan"
)

// crowd joins foreign ports to a bridge.
func (w *world) crowd(bridge string, from, to int) {
	for i := from; i < to; i++ {
		w.k.node.Links[fmt.Sprint("tap", i)] = netstate.NodeLink{Type: netstate.OtherLink, Master: bridge}
	}
}

// external is a network on a foreign bridge that has this many ports left.
func (w *world) external(room int) *v1alpha1.BridgeNetwork {
	w.k.node.Links["br0"] = netstate.NodeLink{Type: netstate.Bridge, MTU: 1500}
	w.crowd("br0", 0, compile.MaxPorts-room)
	n := bnet("red", "10.0.0.0/24")
	n.Spec.Gateway.Mode = v1alpha1.GatewayNone
	n.Spec.Bridge.Name, n.Spec.Bridge.Lifecycle = "br0", v1alpha1.External
	n.Spec.Isolation.Ingress = v1alpha1.IngressOpen
	return n
}

func (w *world) reasonOf(o v1alpha1.Object) string {
	c := w.r.status[own(o)].Ready
	return string(c.Status) + " " + c.Reason
}

func (w *world) expectReasons(what string, want map[v1alpha1.Object]string) {
	w.t.Helper()
	for o, reason := range want {
		if got := w.reasonOf(o); got != reason {
			w.t.Errorf("%s: %s is %s, want %s", what, own(o), got, reason)
		}
	}
}

// TestBridgeFull: a bridge has 1,023 ports, foreign ones among them. A further attachment
// waits without a timer and without work, and gets the first port that is free, of an
// attachment or foreign; an attachment with a port keeps it.
func TestBridgeFull(t *testing.T) {
	const full, have = "False BridgeFull", "True Programmed"
	w := newWorld(t)
	n := w.external(2)
	w.set(n)
	a, b, c, d := nsa("a", "red"), nsa("b", "red"), nsa("c", "red"), nsa("d", "red")
	for _, o := range []v1alpha1.Object{a, b, c, d} {
		w.set(o)
		w.turns(20)
	}
	w.e.Synced(true)
	w.turns(20)
	w.expectReasons("at first", map[v1alpha1.Object]string{a: have, b: have, c: full, d: full})
	const text = "spec.network: there is no free port of bridge br0: a Linux bridge takes 1,023 ports, those of others among them: use a second network or another node; this attachment gets a port as soon as one is free"
	if got := w.r.status[own(c)].Ready.Message; got != text {
		t.Errorf("c says %q", got)
	}
	if s := w.r.status[own(n)]; s.Bridge.Ports != 1023 || s.Ready.Message != "1023 of the 1,023 ports that bridge br0 takes are used: plan a second network" {
		t.Errorf("the network has %d ports and says %q", s.Bridge.Ports, s.Ready.Message)
	}
	if d := w.turn(); d != idle {
		t.Errorf("it looks again in %s", d)
	}
	// A waiting attachment is not compiled while other resources come and go.
	w.set(bnet("blue", "10.1.0.0/24"))
	w.set(nsa("x", "blue"))
	w.turns(20)
	h := newHistory(w)
	w.e.Remove(yes(InputOf(nsa("x", "blue"))))
	w.turns(20)
	if h.compiled[own(c).String()] > 0 {
		t.Error("c is compiled again for a release that does not concern it")
	}
	w.e.Remove(yes(InputOf(a)))
	w.turns(20)
	w.expectReasons("after a", map[v1alpha1.Object]string{b: have, c: have, d: full})
	// The next process decides alike.
	w.k.held = w.k.inventory()
	w.e = w.engine()
	for _, o := range []v1alpha1.Object{n, d, c, b} {
		w.set(o)
	}
	w.turns(20)
	w.expectReasons("after a restart", map[v1alpha1.Object]string{b: have, c: have, d: full})
	// Foreign ports join: an attachment with a port keeps it. They leave: a waiting
	// attachment gets a port.
	w.crowd("br0", 2000, 2001)
	w.nodeChanged()
	w.expectReasons("others joined", map[v1alpha1.Object]string{b: have, c: have, d: full})
	delete(w.k.node.Links, "tap2000")
	delete(w.k.node.Links, "tap1")
	w.nodeChanged()
	w.expectReasons("others left", map[v1alpha1.Object]string{b: have, c: have, d: have})
	if s := w.r.status[own(n)]; s.Bridge.Ports != 1023 {
		t.Errorf("the network has %d ports", s.Bridge.Ports)
	}
	for i := range 200 {
		delete(w.k.node.Links, fmt.Sprint("tap", i))
	}
	w.nodeChanged()
	if s := w.r.status[own(n)]; s.Bridge.Ports != 0 || s.Ready.Reason != v1alpha1.ReasonProgrammed {
		t.Errorf("with few ports the network has %d and says %q", s.Bridge.Ports, s.Ready.Message)
	}
}

// nodeChanged has something foreign change on the node.
func (w *world) nodeChanged() {
	w.later(nodePause)
	w.k.fn(kernel.Event{Key: netstate.Link{Name: "tap0"}.Key()})
	w.turns(20)
}

// TestUplinkIsAPort counts an uplink before and after it has joined.
func TestUplinkIsAPort(t *testing.T) {
	w := newWorld(t)
	w.k.node.Links["nic1"] = netstate.NodeLink{Type: netstate.OtherLink, MTU: 1500}
	w.crowd("br-red", 0, 1021)
	n := bnet("red", "10.0.0.0/24")
	n.Spec.Uplink, n.Spec.Gateway.Mode = &v1alpha1.UplinkSpec{Interface: "nic1"}, v1alpha1.GatewayNone
	a, b := nsa("a", "red"), nsa("b", "red")
	for _, o := range []v1alpha1.Object{n, a, b} {
		w.set(o)
		w.turns(20)
	}
	w.expectReasons("not joined", map[v1alpha1.Object]string{a: "True Programmed", b: "False BridgeFull"})
	w.k.node.Links["nic1"] = netstate.NodeLink{Type: netstate.OtherLink, MTU: 1500, Master: "br-red"}
	w.nodeChanged()
	w.expectReasons("joined", map[v1alpha1.Object]string{a: "True Programmed", b: "False BridgeFull"})
}

// TestKernelSaysBridgeFull: foreign ports joined before the news of them arrived.
func TestKernelSaysBridgeFull(t *testing.T) {
	w := newWorld(t)
	w.set(bnet("red", "10.0.0.0/24"))
	w.turns(20)
	a := nsa("a", "red")
	w.k.appErr = func(s plan.Step) error {
		if s.Key.Kind == netstate.KindLink && s.Key.Netns == "" {
			return fmt.Errorf("create link: %w", errors.Join(kernel.ErrBridgeFull))
		}
		return nil
	}
	w.set(a)
	w.turns(20)
	w.expectReasons("full", map[v1alpha1.Object]string{a: "False BridgeFull"})
	w.later(nodePause)
	w.turn()
	if d := w.turn(); d != idle {
		t.Errorf("it tries again in %s", d)
	}
	w.k.appErr = nil
	w.k.node.Links["tap0"] = netstate.NodeLink{Type: netstate.OtherLink}
	w.nodeChanged()
	w.expectReasons("others left", map[v1alpha1.Object]string{a: "True Programmed"})
}
