package conntrack

import (
	"net/netip"
	"testing"

	"github.com/patchbay-dev/patchbay/nodeagent/firewall/firewalltest"
)

func FuzzConnection(f *testing.F) {
	f.Add([]byte{2, 0, 0, 0, 52, 0, 1, 128, 20, 0, 1, 128, 8, 0, 1, 0, 10, 0, 0, 1, 8, 0, 2, 0, 10, 0, 0, 2,
		28, 0, 2, 128, 5, 0, 1, 0, 17, 0, 0, 0, 6, 0, 2, 0, 0, 53, 0, 0, 6, 0, 3, 0, 0, 53, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) { ParseConnection(b) })
}

// TestAsks: few ports and addresses are asked for one by one, all else by one dump
// of everything.
func TestAsks(t *testing.T) {
	x := flowIndex{ports: map[flowKey]Flows{{6, 80}: nil}, gone: map[netip.Addr]bool{firewalltest.Addr("10.0.0.1"): true}}
	firewalltest.Same(t, "asks", 4, len(x.asks()))
	x.gone[firewalltest.Addr("fd00::1")] = true
	firewalltest.Same(t, "with one of IPv6", 1, len(x.asks()))
	delete(x.gone, firewalltest.Addr("fd00::1"))
	x.ranges = Flows{{}}
	firewalltest.Same(t, "with a range", 1, len(x.asks()))
	x.ranges = nil
	for port := range uint16(maxAsks) {
		x.ports[flowKey{17, port}] = nil
	}
	firewalltest.Same(t, "of many", 1, len(x.asks()))
	firewalltest.Same(t, "it is of everything", true, x.asks()[0] == (Ask{}))
}
