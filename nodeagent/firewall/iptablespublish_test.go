package firewall

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"testing"

	"github.com/patchbay-dev/patchbay/nodeagent/firewall/firewalltest"
	"github.com/patchbay-dev/patchbay/nodeagent/firewall/iptsave"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
	"github.com/patchbay-dev/patchbay/nodeagent/plan"
	"github.com/patchbay-dev/patchbay/test/sandbox"
)

// TestIPTablesPublishes has ranges, sources and loopback.
func TestIPTablesPublishes(t *testing.T) {
	if !sandbox.Enter(t) {
		return
	}
	buildWorld(t)
	bridgeNF(t, false)
	firewalltest.Run(t, "ip addr add 192.0.2.55/32 dev eth-out; ip -n out addr add 192.0.2.10/24 dev eth0; sysctl -qw net.ipv4.conf.br-red.route_localnet=1")
	for port := 9000; port <= 9002; port++ {
		for _, at := range []netip.Addr{placeA.v4, placeA.v6} {
			serveTCP(t, "a", netip.AddrPortFrom(at, uint16(port)).String())
			serveUDP(t, "a", netip.AddrPortFrom(at, uint16(port)).String())
			serveUDP(t, "a", netip.AddrPortFrom(at, uint16(port+1000)).String())
		}
	}
	serveTCP(t, "a", placeA.v4.String()+":80")
	serveTCP(t, "b", placeB.v4.String()+":80")
	serveTCP(t, "", "127.0.0.1:7777")
	// An attachment that sends to the node's loopback; without us it gets there.
	firewalltest.Run(t, `ip -n a route add 127.0.0.1/32 via 10.68.0.1 table 99; ip -n a rule add pref 1 lookup local; ip -n a rule add pref 0 to 127.0.0.1 lookup 99
		ip -n a rule del pref 0 lookup local; ip netns exec a sysctl -qw net.ipv4.conf.all.route_localnet=1`)
	reaches(t, "a", "tcp", "127.0.0.1:7777", placeA.v4.String())
	eachVariant(t, func(t *testing.T, k kind, _ iptsave.Variant) {
		b := k.open(t, netstate.SourceLocal)
		firewalltest.Apply(t, b, firewalltest.Creates(worldWithoutPublishes(b)...))
		defer clean(t, b)
		families46(t, func(t *testing.T, node, _ string, of func(place) string) { ipRanges(t, b, node, of(placeA)) })
		t.Run("sources", func(t *testing.T) { sources4(t, b) })
		t.Run("loopback", func(t *testing.T) { onLoopback(t, b) })
	})
}

// ipRanges reaches every port of a range that stays, and of one that is shifted.
func ipRanges(t *testing.T, b Backend, node, target string) {
	any := "0.0.0.0"
	if firewalltest.Addr(node).Is6() {
		any = "::"
	}
	firewalltest.Apply(t, b, firewalltest.Creates(firewalltest.Ranged(any, "tcp", 9000, 9002, net.JoinHostPort(target, "9000")), firewalltest.Ranged(node, "udp", 20000, 20002, net.JoinHostPort(target, "10000"))))
	for i := range 3 {
		reaches(t, "out", "tcp", net.JoinHostPort(node, fmt.Sprint(9000+i)), "")
		reaches(t, "b", "tcp", net.JoinHostPort(node, fmt.Sprint(9000+i)), "")
		c := connect(t, "udp", net.JoinHostPort(node, fmt.Sprint(20000+i)))
		c.says(t, net.JoinHostPort(target, fmt.Sprint(10000+i)))
		c.Close()
	}
	refused(t, "tcp", probe{"out", net.JoinHostPort(node, "9003")}, probe{"out", net.JoinHostPort(target, "9001")})
	refused(t, "udp", probe{"out", net.JoinHostPort(node, "20003")}, probe{"out", net.JoinHostPort(target, "10001")})
}

// sources4 has a publish of an address for some clients, before one of all addresses for
// all clients.
func sources4(t *testing.T, b Backend) {
	some := firewalltest.From(firewalltest.Publish(node4, "tcp", 8001, placeA.v4.String()+":80"), "192.0.2.10/32", "10.68.0.0/24")
	firewalltest.Apply(t, b, firewalltest.Creates(some, firewalltest.Publish("0.0.0.0", "tcp", 8001, placeB.v4.String()+":80")))
	refused(t, "tcp", probe{"out", node4 + ":8001"})
	reaches(t, "b", "tcp", node4+":8001", "")
	reaches(t, "out", "tcp", "192.0.2.55:8001", out4)
	firewalltest.Run(t, "ip -n out route replace 192.0.2.1/32 dev eth0 src 192.0.2.10")
	defer firewalltest.Run(t, "ip -n out route del 192.0.2.1/32 dev eth0")
	reaches(t, "out", "tcp", node4+":8001", "192.0.2.10")
}

// onLoopback reaches a publish from the node alone; what else listens on its
// loopback stays out of reach of the bridge, whatever route_localnet is.
func onLoopback(t *testing.T, b Backend) {
	firewalltest.Apply(t, b, firewalltest.Creates(firewalltest.Publish("127.0.0.1", "tcp", 8005, placeA.v4.String()+":80"), netstate.LoopbackGuard{Link: "br-red"}))
	reaches(t, "", "tcp", "127.0.0.1:8005", "")
	reaches(t, "", "tcp", "127.0.0.1:7777", "127.0.0.1")
	refused(t, "tcp", probe{"a", "127.0.0.1:7777"}, probe{"out", node4 + ":8005"}, probe{"b", node4 + ":8005"})
}

// TestIPTablesCrash ends after each restore of building and of removing.
func TestIPTablesCrash(t *testing.T) {
	if !sandbox.Enter(t) {
		return
	}
	eachVariant(t, func(t *testing.T, k kind, v iptsave.Variant) {
		want := richIP()
		for n := 1; ; n++ {
			ended := cutOff(t, k, n, firewalltest.Creates(firewalltest.List(want)...))
			again := k.loaded(t, netstate.SourceLocal)
			repair(t, again, want)
			firewalltest.Same(t, "held after a repair", want, k.loaded(t, netstate.SourceLocal).Held())
			cutOff(t, k, n, firewalltest.Deletes(firewalltest.List(want)...))
			again = k.loaded(t, netstate.SourceLocal)
			firewalltest.Apply(t, again, firewalltest.Deletes(firewalltest.List(again.Held())...))
			firewalltest.Same(t, "what is left", "", firewall(t))
			if ended {
				return
			}
			if n > 40 {
				t.Fatal("it never comes to an end")
			}
		}
	})
}

// cutOff applies steps and lets nothing run after n restores. It reports whether
// that was the end anyway.
func cutOff(t *testing.T, k kind, n int, steps []plan.Step) bool {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := 0
	b := k.make(t, Options{Source: netstate.SourceLocal, Step: func() {
		if done++; done == n {
			cancel()
		}
	}})
	return b.Apply(ctx, steps) == nil
}
