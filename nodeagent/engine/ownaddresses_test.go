package engine

import (
	"testing"

	"github.com/patchbay-dev/patchbay/api/v1alpha1"
	"github.com/patchbay-dev/patchbay/nodeagent/kernel"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
)

// TestOwnAddressNamed has publishes follow the addresses that networks give the node.
func TestOwnAddressNamed(t *testing.T) {
	w := newWorld(t)
	p, missing := pp("web", "a", "10.1.0.1", 80), pp("other", "a", "10.1.0.7", 81)
	w.set(p)
	w.set(missing)
	w.set(nsa("a", "red", "10.0.0.11/24"))
	w.set(bnet("red", "10.0.0.0/24"))
	w.e.Synced(true)
	w.turns(20)
	const not = "is not an address of node"
	w.expectReady("without the network", p, "False", v1alpha1.ReasonHostPortConflict, not)

	blue := bnet("blue", "10.1.0.0/24")
	w.set(blue)
	w.turns(20)
	w.expectReady("with it", p, "True", v1alpha1.ReasonProgrammed, "")
	w.expectReady("another address of its", missing, "False", v1alpha1.ReasonHostPortConflict, not)

	moved := bnet("blue", "10.1.0.0/24")
	moved.Spec.Gateway.Addresses = []v1alpha1.IPAddress{"10.1.0.7"}
	w.set(moved)
	w.turns(20)
	w.expectReady("with another gateway", p, "False", v1alpha1.ReasonHostPortConflict, not)
	w.expectReady("that named it", missing, "True", v1alpha1.ReasonProgrammed, "")

	w.e.Update(nil, []netstate.Owner{own(moved)})
	w.turns(20)
	w.expectReady("when the network has gone", missing, "False", v1alpha1.ReasonHostPortConflict, not)
	w.set(moved)
	w.turns(20)
	w.expectReady("when the network is back", missing, "True", v1alpha1.ReasonProgrammed, "")
	w.e.Update(nil, []netstate.Owner{own(moved)})
	w.turns(20)
	w.expectReady("when it has gone again", missing, "False", v1alpha1.ReasonHostPortConflict, not)
}

// TestWayByOthersAddress has a publish follow an address that another program gives a
// bridge of Patchbay, or a foreign one.
func TestWayByOthersAddress(t *testing.T) {
	for _, bridge := range []string{"br-lan", "br0"} {
		w := newWorld(t)
		lan := bnet("lan", "10.5.0.0/24")
		lan.Spec.Gateway.Mode = v1alpha1.GatewayExternal
		if bridge == "br0" {
			w.k.node.Links["br0"] = netstate.NodeLink{Type: netstate.Bridge, MTU: 1500}
			lan.Spec.Bridge.Name, lan.Spec.Bridge.Lifecycle = "br0", v1alpha1.External
		}
		p := pp("web", "a", "", 80)
		w.set(lan)
		w.set(nsa("a", "lan", "10.5.0.11/24"))
		w.set(p)
		w.e.Synced(true)
		w.turns(20)
		w.expectReady(bridge+" without", p, "False", v1alpha1.ReasonUnsupported, "has no way to the node")

		given := netstate.Address{Link: bridge, Prefix: pfx("10.5.0.9/24")}
		w.k.node.Addresses = []netstate.NodeAddress{{Link: bridge, Prefix: given.Prefix}}
		w.later(nodePause)
		w.k.fn(kernel.Event{Key: given.Key(), Object: given})
		w.turns(20)
		w.expectReady(bridge+" with an address", p, "True", v1alpha1.ReasonProgrammed, "")

		w.k.node.Addresses = nil
		w.later(nodePause)
		w.k.fn(kernel.Event{Key: given.Key(), Gone: true})
		w.turns(20)
		w.expectReady(bridge+" without again", p, "False", v1alpha1.ReasonUnsupported, "has no way to the node")
	}
}
