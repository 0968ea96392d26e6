package nat

import (
	"net"
	"net/netip"
	"slices"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
	"github.com/patchbay-dev/patchbay/test/sandbox"
)

// TestAsk has the kernel tell of exactly those connections that are asked for.
func TestAsk(t *testing.T) {
	if !sandbox.Enter(t) {
		return
	}
	buildWorld(t)
	bridgeNF(t, false)
	serveAll(t, placeA, 80)
	b := backend(t, netstate.SourceLocal)
	six := net.JoinHostPort(placeA.v6.String(), "80")
	four := net.JoinHostPort(placeA.v4.String(), "80")
	apply(t, b, creates(list(without(netstate.Set{}.Add(publish("0.0.0.0", "tcp", 8001, four), publish("0.0.0.0", "udp", 8001, four),
		publish("0.0.0.0", "tcp", 8002, four), publish("::", "tcp", 8001, six), publish("::", "tcp", 8002, six))))...))
	for _, to := range []string{node4 + ":8001", node4 + ":8002", "[" + node6 + "]:8001", "[" + node6 + "]:8002"} {
		connect(t, "tcp", to).says(t, "")
	}
	connect(t, "udp", node4+":8001").says(t, four)
	is := func(c connection) bool { return c.orig.proto == 6 && c.orig.dst.Port() == 8001 }
	told(t, unix.AF_INET, ask{proto: 6, port: 8001}, 1, is)
	told(t, unix.AF_INET6, ask{proto: 6, port: 8001}, 1, is)
	told(t, unix.AF_INET, ask{proto: 17, port: 8001}, 1, func(c connection) bool { return c.orig.proto == 17 })
	told(t, unix.AF_INET, ask{from: placeA.v4}, 3, func(c connection) bool { return c.reply.src.Addr() == placeA.v4 })
	told(t, unix.AF_INET, ask{src: addr(out4)}, 3, func(c connection) bool { return c.orig.src.Addr() == addr(out4) })
	told(t, unix.AF_INET, ask{dst: addr(node4)}, 3, func(c connection) bool { return c.orig.dst.Addr() == addr(node4) })
	told(t, unix.AF_INET, ask{dst: placeA.v4}, 0, nil)
	told(t, unix.AF_INET, ask{proto: 6, port: 8002, src: addr(out4)}, 1, func(c connection) bool { return c.orig.dst.Port() == 8002 })
	told(t, unix.AF_INET, ask{}, 3, func(connection) bool { return true })
	told(t, unix.AF_INET6, ask{}, 2, func(connection) bool { return true })
}

// told expects a dump of so many connections to publishes, all of which are right.
func told(t *testing.T, family netlink.InetFamily, a ask, count int, right func(connection) bool) {
	t.Helper()
	entries, err := dumpConnections(family, a)
	if err != nil {
		t.Fatal(err)
	}
	var list []connection
	for _, e := range entries {
		if c, ok := parseConnection(e); ok && (c.orig.dst.Port() == 8001 || c.orig.dst.Port() == 8002) {
			list = append(list, c)
		}
	}
	if len(list) != count || slices.ContainsFunc(list, func(c connection) bool { return !right(c) }) {
		t.Errorf("asked for %+v, told of %v, want %d", a, list, count)
	}
}

// TestAsks: few ports and addresses are asked for one by one, all else by one dump
// of everything.
func TestAsks(t *testing.T) {
	x := flowIndex{ports: map[flowKey]flows{{6, 80}: nil}, gone: map[netip.Addr]bool{addr("10.0.0.1"): true}}
	same(t, "asks", 4, len(x.asks()))
	x.gone[addr("fd00::1")] = true
	same(t, "with one of IPv6", 1, len(x.asks()))
	delete(x.gone, addr("fd00::1"))
	x.ranges = flows{{}}
	same(t, "with a range", 1, len(x.asks()))
	x.ranges = nil
	for port := range uint16(maxAsks) {
		x.ports[flowKey{17, port}] = nil
	}
	same(t, "of many", 1, len(x.asks()))
	same(t, "it is of everything", true, x.asks()[0] == (ask{}))
}
