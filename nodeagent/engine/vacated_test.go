package engine

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/patchbay-dev/patchbay/api/v1alpha1"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
)

// TestVacated follows whose connections end: only connections of addresses that no
// attachment has any more where the node reached them.
func TestVacated(t *testing.T) {
	w := newWorld(t)
	layer2 := bnet("layer2", "10.9.0.0/24")
	layer2.Spec.Gateway.Mode = v1alpha1.GatewayNone
	lan := bnet("lan", "10.8.0.0/24")
	lan.Spec.Gateway.Mode = v1alpha1.GatewayExternal
	beside := nsa("beside", "lan", "10.8.0.11/24")
	one, two, unreached := nsa("one", "red", "10.0.0.11/24"), nsa("two", "red", "10.0.0.12/24"), nsa("unreached", "layer2", "10.9.0.11/24")
	w.set(bnet("red", "10.0.0.0/24"))
	w.set(layer2)
	w.set(lan)
	for _, a := range []*v1alpha1.NamespaceAttachment{one, two, unreached, beside} {
		w.set(a)
	}
	w.e.Synced(true)
	w.turns(20)
	w.expectForgotten("all are built")

	w.e = w.engine()
	w.e.Update([]Input{yes(InputOf(bnet("red", "10.0.0.0/24"))), yes(InputOf(layer2)), yes(InputOf(lan)), yes(InputOf(one)), yes(InputOf(two)), yes(InputOf(unreached)), yes(InputOf(beside))}, nil)
	w.e.Synced(true)
	w.turns(20)
	w.expectForgotten("a restart")

	w.set(nsa("one", "red", "10.0.0.21/24"))
	w.turns(20)
	w.expectForgotten("another address", "10.0.0.11")
	w.set(nsa("one", "red", "10.0.0.21/25"))
	w.turns(20)
	w.expectForgotten("another prefix length")
	w.e.Update(nil, []netstate.Owner{own(two), own(unreached)})
	w.turns(20)
	w.expectForgotten("two are gone, one of them unreached", "10.0.0.12")
	w.e.Update(nil, []netstate.Owner{own(beside)})
	w.turns(20)
	w.expectForgotten("one on a LAN is gone", "10.8.0.11")
}

func (w *world) expectForgotten(what string, want ...string) {
	w.t.Helper()
	slices.SortFunc(w.n.forgotten, netip.Addr.Compare)
	if fmt.Sprint(w.n.forgotten) != fmt.Sprint(want) {
		w.t.Errorf("%s: connections of %v end, want %v", what, w.n.forgotten, want)
	}
	w.n.forgotten = nil
}
