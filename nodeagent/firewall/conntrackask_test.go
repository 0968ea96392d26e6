package firewall

import (
	"net"
	"slices"
	"testing"

	"github.com/patchbay-dev/patchbay/nodeagent/firewall/conntrack"
	"github.com/patchbay-dev/patchbay/nodeagent/firewall/firewalltest"
	"github.com/patchbay-dev/patchbay/test/sandbox"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// TestAsk has the kernel tell of exactly those connections that are asked for.
func TestAsk(t *testing.T) {
	if !sandbox.Enter(t) {
		return
	}
	buildWorld(t, "80")
	four, six := net.JoinHostPort(target4(0), "80"), net.JoinHostPort(target6(0), "80")
	holding(t, kinds[0], firewalltest.Publish("0.0.0.0", "tcp", 8001, four), firewalltest.Publish("0.0.0.0", "udp", 8001, four),
		firewalltest.Publish("0.0.0.0", "tcp", 8002, four), firewalltest.Publish("::", "tcp", 8001, six), firewalltest.Publish("::", "tcp", 8002, six))
	for _, to := range []string{node4 + ":8001", node4 + ":8002", "[" + node6 + "]:8001", "[" + node6 + "]:8002"} {
		connect(t, "out", "tcp", to)
	}
	connect(t, "out", "udp", node4+":8001")
	is := func(c conntrack.Connection) bool { return c.Orig.Proto == 6 && c.Orig.Dst.Port() == 8001 }
	told(t, unix.AF_INET, conntrack.Ask{Proto: 6, Port: 8001}, 1, is)
	told(t, unix.AF_INET6, conntrack.Ask{Proto: 6, Port: 8001}, 1, is)
	told(t, unix.AF_INET, conntrack.Ask{Proto: 17, Port: 8001}, 1, func(c conntrack.Connection) bool { return c.Orig.Proto == 17 })
	told(t, unix.AF_INET, conntrack.Ask{From: firewalltest.Addr(target4(0))}, 3, func(c conntrack.Connection) bool { return c.Reply.Src.Addr() == firewalltest.Addr(target4(0)) })
	told(t, unix.AF_INET, conntrack.Ask{Src: firewalltest.Addr(out4)}, 3, func(c conntrack.Connection) bool { return c.Orig.Src.Addr() == firewalltest.Addr(out4) })
	told(t, unix.AF_INET, conntrack.Ask{Dst: firewalltest.Addr(node4)}, 3, func(c conntrack.Connection) bool { return c.Orig.Dst.Addr() == firewalltest.Addr(node4) })
	told(t, unix.AF_INET, conntrack.Ask{Dst: firewalltest.Addr(target4(0))}, 0, nil)
	told(t, unix.AF_INET, conntrack.Ask{Proto: 6, Port: 8002, Src: firewalltest.Addr(out4)}, 1, func(c conntrack.Connection) bool { return c.Orig.Dst.Port() == 8002 })
	told(t, unix.AF_INET, conntrack.Ask{}, 3, func(conntrack.Connection) bool { return true })
	told(t, unix.AF_INET6, conntrack.Ask{}, 2, func(conntrack.Connection) bool { return true })
}

// told expects a dump of so many connections to publishes, all of which are right.
func told(t *testing.T, family netlink.InetFamily, a conntrack.Ask, count int, right func(conntrack.Connection) bool) {
	t.Helper()
	entries, err := conntrack.DumpConnections(family, a)
	if err != nil {
		t.Fatal(err)
	}
	var list []conntrack.Connection
	for _, e := range entries {
		if c, ok := conntrack.ParseConnection(e); ok && (c.Orig.Dst.Port() == 8001 || c.Orig.Dst.Port() == 8002) {
			list = append(list, c)
		}
	}
	if len(list) != count || slices.ContainsFunc(list, func(c conntrack.Connection) bool { return !right(c) }) {
		t.Errorf("asked for %+v, told of %v, want %d", a, list, count)
	}
}
