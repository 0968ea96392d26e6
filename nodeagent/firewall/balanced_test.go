package firewall

import (
	"net"
	"net/netip"
	"testing"

	"github.com/patchbay-dev/patchbay/nodeagent/firewall/firewalltest"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
	"github.com/patchbay-dev/patchbay/test/netlab"
	"github.com/patchbay-dev/patchbay/test/sandbox"
)

// TestBalanced has ports with three targets. The share of each target in 300 connections is
// within five standard deviations.
func TestBalanced(t *testing.T) {
	if !sandbox.Enter(t) {
		return
	}
	buildWorld(t, "80")
	eachKind(t, func(t *testing.T, k kind) {
		eachFamily(t, func(t *testing.T, every, node, out string, targets []string) {
			servers := onPort(targets, "80")
			for _, host := range []string{every, node} {
				t.Run(host, func(t *testing.T) { balanced(t, k, host, node, servers) })
			}
			t.Run("before a wildcard", func(t *testing.T) { beforeWildcard(t, k, every, node, servers) })
			t.Run("for one client", func(t *testing.T) { gated(t, k, every, node, out, servers) })
		})
	})
}

// TestBalancedRange shares the ports of a range, which the targets keep.
func TestBalancedRange(t *testing.T) {
	if !sandbox.Enter(t) {
		return
	}
	buildWorld(t, "9000", "9004")
	eachKind(t, func(t *testing.T, k kind) {
		eachFamily(t, func(t *testing.T, every, node, _ string, targets []string) {
			for _, host := range []string{every, node} {
				p := firewalltest.Balance(host, "tcp", 9000, onPort(targets[:2], "9000")...)
				p.HostPortEnd = 9004
				b := holding(t, k, p)
				firewalltest.Same(t, "held", netstate.Object(p), k.loaded(t, netstate.SourceLocal).Held()[p.Key()])
				shares := map[string]int{}
				for range 40 {
					for _, address := range []string{net.JoinHostPort(node, "9000"), net.JoinHostPort(node, "9004")} {
						c := connect(t, "out", "tcp", address)
						shares[c.server]++
						c.Close()
					}
				}
				for _, target := range append(onPort(targets[:2], "9000"), onPort(targets[:2], "9004")...) {
					if n := shares[target]; n < 4 {
						t.Errorf("%s got %d of 40 connections: %v", target, n, shares)
					}
				}
				clean(t, b)
			}
		})
	})
}

// holding is a backend with the world's objects and publishes.
func holding(t *testing.T, k kind, publishes ...netstate.Object) Backend {
	t.Helper()
	b := k.open(t, netstate.SourceLocal)
	firewalltest.Apply(t, b, firewalltest.Creates(worldObjects()...), firewalltest.Creates(publishes...))
	return b
}

// beforeWildcard has the slots of an address come before the target of all addresses.
func beforeWildcard(t *testing.T, k kind, every, node string, servers []string) {
	b := holding(t, k, firewalltest.Publish(every, "tcp", 8001, servers[0]), firewalltest.Balance(node, "tcp", 8001, servers[1:]...))
	for range 20 {
		c := connect(t, "out", "tcp", net.JoinHostPort(node, "8001"))
		if c.server == servers[0] {
			t.Errorf("%s answers, which is the wildcard's", c.server)
		}
		c.Close()
	}
	clean(t, b)
}

// gated has slots for the client alone.
func gated(t *testing.T, k kind, every, node, out string, servers []string) {
	source := firewalltest.Addr(out)
	b := holding(t, k, firewalltest.From(firewalltest.Balance(every, "tcp", 8001, servers...), netip.PrefixFrom(source, source.BitLen()).String()))
	port := net.JoinHostPort(node, "8001")
	connect(t, "out", "tcp", port).stays(t)
	if answer, err := netlab.Ask(netlab.Node, "tcp", port, enough); err == nil {
		t.Errorf("the node gets the answer %q", answer)
	}
	clean(t, b)
}

func balanced(t *testing.T, k kind, host, node string, servers []string) {
	tcp, udp := firewalltest.Balance(host, "tcp", 8001, servers...), firewalltest.Balance(host, "udp", 8001, servers...)
	b := holding(t, k, tcp, udp)
	port := net.JoinHostPort(node, "8001")
	for _, from := range []netlab.Netns{"out", netlab.Node} {
		shares := map[string]int{}
		for range 300 {
			c := connect(t, from, "tcp", port)
			c.stays(t)
			shares[c.server]++
			c.Close()
		}
		for _, target := range servers {
			if n := shares[target]; n < 60 || n > 140 {
				t.Errorf("from %s: %s got %d of 300 connections: %v", from, target, n, shares)
			}
		}
	}
	var senders []*line
	for range 30 {
		senders = append(senders, connect(t, "out", "udp", port))
	}
	for _, s := range senders {
		firewalltest.Same(t, "the server of a sender", s.server, s.names(t, "hello"))
	}
	oneGone(t, b, port, servers, tcp, udp, senders)
	clean(t, b)
}

// oneGone takes the second target away: its flows end, all other flows go on, and no
// connection fails after that.
func oneGone(t *testing.T, b Backend, port string, servers []string, tcp, udp netstate.Publish, senders []*line) {
	var live []*line
	for range 30 {
		live = append(live, connect(t, "out", "tcp", port))
	}
	rest := firewalltest.Targets(servers[0], servers[2])
	fewerTCP, fewerUDP := tcp, udp
	fewerTCP.Targets, fewerUDP.Targets = rest, rest
	firewalltest.Apply(t, b, firewalltest.Updates(tcp, fewerTCP), firewalltest.Updates(udp, fewerUDP))
	for range 60 {
		c := connect(t, "out", "tcp", port)
		if c.server == servers[1] {
			t.Errorf("%s still gets connections", c.server)
		}
		c.Close()
	}
	ended := 0
	for _, c := range live {
		if c.server != servers[1] {
			c.stays(t)
			continue
		}
		ended++
		if ended == 1 {
			c.silent(t)
		}
	}
	if ended == 0 || ended == len(live) {
		t.Errorf("%d of %d connections were to the target that is gone", ended, len(live))
	}
	for _, s := range senders {
		if now := s.names(t, "hello"); s.server != servers[1] && now != s.server || now == servers[1] {
			t.Errorf("%s answered a sender, now %s does", s.server, now)
		}
	}
}
