package firewall

import (
	"bufio"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/patchbay-dev/patchbay/nodeagent/firewall/firewalltest"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
	"github.com/patchbay-dev/patchbay/nodeagent/plan"
	"github.com/patchbay-dev/patchbay/test/sandbox"
)

// worldObjects is what Patchbay would hold for the world: br-red and br-iso let
// in only connections to published ports, br-blue everything.
func worldObjects() netstate.Set {
	s := netstate.Set{}.Add(
		netstate.Realm{Link: "br-red", Guarded: true},
		netstate.Realm{Link: "br-blue"},
		netstate.Realm{Link: "br-iso", Isolated: true},
		netstate.Masquerade{Link: "br-red", Subnet: firewalltest.Prefix("10.68.0.0/24"), Egress: true},
		netstate.Masquerade{Link: "br-red", Subnet: firewalltest.Prefix("fd00:68::/64"), Egress: true},
		netstate.Masquerade{Link: "br-blue", Subnet: firewalltest.Prefix("10.69.0.0/24")},
		netstate.Masquerade{Link: "br-blue", Subnet: firewalltest.Prefix("fd00:69::/64")},
		netstate.Masquerade{Link: "br-iso", Subnet: firewalltest.Prefix("10.70.0.0/24")},
		netstate.Masquerade{Link: "br-iso", Subnet: firewalltest.Prefix("fd00:70::/64")},
	)
	for _, p := range places {
		s.Add(netstate.PortFilter{Link: p.port, MAC: p.mac}, netstate.PortAddress{Link: p.port, MAC: p.mac, Addr: p.v4},
			netstate.PortAddress{Link: p.port, MAC: p.mac, Addr: p.v6})
	}
	for _, proto := range []string{"tcp", "udp"} {
		s.Add(firewalltest.Publish("0.0.0.0", proto, 8001, placeA.v4.String()+":80"), firewalltest.Publish("::", proto, 8001, "["+placeA.v6.String()+"]:80"),
			firewalltest.Publish(node4, proto, 8011, placeB.v4.String()+":80"), firewalltest.Publish(node6, proto, 8011, "["+placeB.v6.String()+"]:80"),
			firewalltest.Publish("0.0.0.0", proto, 8021, placeE.v4.String()+":80"), firewalltest.Publish("::", proto, 8021, "["+placeE.v6.String()+"]:80"))
	}
	return s
}

func TestTraffic(t *testing.T) {
	if !sandbox.Enter(t) {
		return
	}
	buildWorld(t)
	for _, p := range places {
		for _, port := range []string{"80", "81"} {
			serveTCP(t, p.netns, net.JoinHostPort(p.v4.String(), port))
			serveTCP(t, p.netns, net.JoinHostPort(p.v6.String(), port))
			serveUDP(t, p.netns, net.JoinHostPort(p.v4.String(), port))
			serveUDP(t, p.netns, net.JoinHostPort(p.v6.String(), port))
		}
	}
	for _, a := range []string{out4, out6} {
		serveTCP(t, "out", net.JoinHostPort(a, "80"))
	}
	for _, a := range []string{"127.0.0.1", "::1", nodeLocal, nodeLinkLocal + "%eth-out"} {
		serveTCP(t, "", net.JoinHostPort(a, "8001"))
		serveUDP(t, "", net.JoinHostPort(a, "8001"))
	}
	for _, on := range []bool{false, true} {
		eachKind(t, func(t *testing.T, k kind) {
			if on && k.name == "iptables-legacy" {
				// What br_netfilter changes is the hooks', not the tables'.
				return
			}
			bridgeNF(t, on)
			b := k.open(t, netstate.SourceLocal)
			firewalltest.Apply(t, b, firewalltest.Creates(able(b, worldObjects())...))
			for _, network := range []string{"tcp", "udp"} {
				t.Run("published "+network, func(t *testing.T) { published(t, network) })
				t.Run("guarded "+network, func(t *testing.T) { guarded(t, network) })
				t.Run("isolated "+network, func(t *testing.T) { isolated(t, network, on) })
			}
			t.Run("masquerade", func(t *testing.T) { masqueraded(t, b) })
			t.Run("forward guard", func(t *testing.T) { forwardGuarded(t, b) })
			t.Run("back", func(t *testing.T) { backed(t, b) })
			firewalltest.Apply(t, b, firewalltest.Deletes(firewalltest.List(b.Held())...))
			firewalltest.Same(t, "what is left", "", firewall(t))
		}, fmt.Sprintf("br_netfilter %t ", on))
	}
}

// families46 runs a check for both families with the node's, outside's and a
// place's addresses.
func families46(t *testing.T, check func(t *testing.T, node, out string, of func(place) string)) {
	t.Helper()
	t.Run("ipv4", func(t *testing.T) { check(t, node4, out4, func(p place) string { return p.v4.String() }) })
	t.Run("ipv6", func(t *testing.T) { check(t, node6, out6, func(p place) string { return p.v6.String() }) })
}

// published reaches ports of the node's addresses; loopback and link-local ones
// stay the node's own.
func published(t *testing.T, network string) {
	families46(t, func(t *testing.T, node, out string, of func(place) string) {
		for _, port := range []string{"8001", "8011"} {
			host := net.JoinHostPort(node, port)
			reaches(t, "out", network, host, out)
			reaches(t, "", network, host, "")
			reaches(t, "a", network, host, "")
			reaches(t, "b", network, host, "")
			reaches(t, "c", network, host, of(placeC))
		}
		// A neighbour's gateway address is the node's as well.
		reaches(t, "c", network, net.JoinHostPort(gateway(of(placeC)), "8001"), of(placeC))
		refused(t, network, probe{"c", net.JoinHostPort(gateway(of(placeC)), "8011")}, probe{"out", net.JoinHostPort(node, "8002")})
	})
	for _, own := range []string{"127.0.0.1", "::1", nodeLocal} {
		reaches(t, "", network, net.JoinHostPort(own, "8001"), own)
	}
	reaches(t, "out", network, net.JoinHostPort(nodeLinkLocal+"%eth0", "8001"), "")
}

func gateway(address string) string { return address[:len(address)-3] + "1" }

func guarded(t *testing.T, network string) {
	families46(t, func(t *testing.T, node, out string, of func(place) string) {
		closed, open := net.JoinHostPort(of(placeA), "81"), net.JoinHostPort(of(placeA), "80")
		refused(t, network, probe{"out", closed}, probe{"out", open}, probe{"c", open}, probe{"c", closed})
		reaches(t, "", network, net.JoinHostPort(of(placeA), "81"), "")
		reaches(t, "b", network, net.JoinHostPort(of(placeA), "81"), of(placeB))
		reaches(t, "out", network, net.JoinHostPort(of(placeC), "81"), out)
		reaches(t, "a", network, net.JoinHostPort(of(placeC), "81"), of(placeA))
		foreignDNAT(t, network, node, of(placeA))
	})
}

// foreignDNAT has a foreign rule lead a port to one that is not published.
func foreignDNAT(t *testing.T, network, node, target string) {
	t.Helper()
	to, family := net.JoinHostPort(target, "81"), "ip"
	if firewalltest.Addr(target).Is6() {
		family = "ip6"
	}
	firewalltest.Run(t, `nft add table inet foreign
		nft add chain inet foreign pre '{ type nat hook prerouting priority -101; }'
		nft add rule inet foreign pre `+network+` dport 9001 dnat `+family+` to `+to)
	defer firewalltest.Run(t, "nft delete table inet foreign")
	refused(t, network, probe{"out", net.JoinHostPort(node, "9001")})
}

// isolated has neighbours that reach each other only where a port is published,
// and not even there with br_netfilter, which bridges what came from a port to
// another isolated one.
func isolated(t *testing.T, network string, brNetfilter bool) {
	families46(t, func(t *testing.T, node, out string, of func(place) string) {
		viaGateway := func(verb string) {
			firewalltest.Run(t, fmt.Sprintf("ip -n d route %s %s via %s; ip -n e route %[1]s %[4]s via %[3]s", verb, of(placeE), gateway(of(placeD)), of(placeD)))
		}
		viaGateway("add")
		defer viaGateway("del")
		refused(t, network, probe{"d", net.JoinHostPort(of(placeE), "81")}, probe{"d", net.JoinHostPort(of(placeE), "80")})
		if !brNetfilter {
			reaches(t, "d", network, net.JoinHostPort(node, "8021"), "")
			reaches(t, "e", network, net.JoinHostPort(gateway(of(placeE)), "8021"), "")
		}
		reaches(t, "out", network, net.JoinHostPort(of(placeE), "81"), out)
		reaches(t, "out", network, net.JoinHostPort(node, "8021"), out)
		reaches(t, "a", network, net.JoinHostPort(of(placeE), "81"), of(placeA))
		if pings(t, "d", of(placeE)) {
			t.Error("isolated neighbours ping each other")
		}
	})
}

func masqueraded(t *testing.T, b Backend) {
	families46(t, func(t *testing.T, node, out string, of func(place) string) {
		server := net.JoinHostPort(out, "80")
		bits, second := 24, "192.0.2.77"
		if firewalltest.Addr(out).Is6() {
			bits, second = 64, "2001:db8:1::77"
		}
		subnet := netip.PrefixFrom(firewalltest.Addr(of(placeA)), bits).Masked()
		normal := netstate.Masquerade{Link: "br-red", Subnet: subnet, Egress: true}
		reaches(t, "a", "tcp", server, node)
		reaches(t, "c", "tcp", server, of(placeC))
		exclude := netstate.NoMasquerade{Link: "br-red", Subnet: subnet, Dst: netip.PrefixFrom(firewalltest.Addr(out), bits).Masked()}
		firewalltest.Apply(t, b, firewalltest.Creates(exclude))
		reaches(t, "a", "tcp", server, of(placeA))
		firewalltest.Apply(t, b, firewalltest.Deletes(exclude))
		other := normal
		other.Source = firewalltest.Addr(second)
		firewalltest.Run(t, fmt.Sprintf("ip addr add %s/%d dev eth-out nodad", second, bits))
		firewalltest.Apply(t, b, firewalltest.Updates(normal, other))
		reaches(t, "a", "tcp", server, second)
		off := netstate.Masquerade{Link: "br-red", Subnet: subnet}
		firewalltest.Apply(t, b, firewalltest.Updates(other, off))
		reaches(t, "a", "tcp", server, of(placeA))
		firewalltest.Run(t, fmt.Sprintf("ip addr del %s/%d dev eth-out", second, bits))
		firewalltest.Apply(t, b, firewalltest.Updates(off, normal))
		reaches(t, "a", "tcp", server, node)
	})
}

func forwardGuarded(t *testing.T, b Backend) {
	for _, far := range []string{far4, far6} {
		guard := netstate.ForwardGuard{Family: netstate.FamilyOf(firewalltest.Addr(far))}
		if !pings(t, "out", far) {
			t.Errorf("out does not ping %s before the guard", far)
		}
		firewalltest.Apply(t, b, firewalltest.Creates(guard))
		if pings(t, "out", far) {
			t.Errorf("out pings %s through the guard", far)
		}
		if !pings(t, "a", far) {
			t.Errorf("a does not ping %s through the guard", far)
		}
		firewalltest.Apply(t, b, firewalltest.Deletes(guard))
	}
	firewalltest.Apply(t, b, firewalltest.Creates(netstate.ForwardGuard{Family: netstate.IPv4}, netstate.ForwardGuard{Family: netstate.IPv6}))
	published(t, "tcp")
	firewalltest.Apply(t, b, firewalltest.Deletes(netstate.ForwardGuard{Family: netstate.IPv4}, netstate.ForwardGuard{Family: netstate.IPv6}))
}

// backed has a target whose default route is elsewhere.
func backed(t *testing.T, b Backend) {
	firewalltest.Run(t, "ip -n b route del default; ip -n b -6 route del default")
	refused(t, "tcp", probe{"out", node4 + ":8011"}, probe{"out", "[" + node6 + "]:8011"})
	for _, p := range []netstate.Publish{firewalltest.Publish(node4, "tcp", 8011, "10.68.0.102:80"), firewalltest.Publish(node6, "tcp", 8011, "[fd00:68::102]:80")} {
		firewalltest.Apply(t, b, firewalltest.Updates(p, firewalltest.Back(p)))
	}
	families46(t, func(t *testing.T, node, _ string, of func(place) string) {
		reaches(t, "out", "tcp", net.JoinHostPort(node, "8011"), gateway(of(placeB)))
	})
	firewalltest.Run(t, "ip -n b route add default via 10.68.0.1; ip -n b route add default via fd00:68::1")
	for _, p := range []netstate.Publish{firewalltest.Publish(node4, "tcp", 8011, "10.68.0.102:80"), firewalltest.Publish(node6, "tcp", 8011, "[fd00:68::102]:80")} {
		firewalltest.Apply(t, b, firewalltest.Updates(firewalltest.Back(p), p))
	}
}

// TestUnheard sends payload that no server answers.
func TestUnheard(t *testing.T) {
	if !sandbox.Enter(t) {
		return
	}
	buildWorld(t)
	bridgeNF(t, false)
	eachKind(t, unheard)
}

func unheard(t *testing.T, k kind) {
	b := k.open(t, netstate.SourceLocal)
	firewalltest.Apply(t, b, firewalltest.Creates(able(b, worldObjects())...))
	defer clean(t, b)
	for _, a := range []netip.Addr{placeA.v4, placeA.v6} {
		to := netip.AddrPortFrom(a, 81).String()
		box, stop := serveInbox(t, "a", to)
		defer stop()
		for _, netns := range []string{"out", "c"} {
			c, err := in(t, netns, func() (net.Conn, error) { return net.Dial("udp", to) })
			if err != nil {
				t.Fatal(err)
			}
			fmt.Fprint(c, "attack")
			c.Close()
		}
		reaches(t, "b", "udp", to, "")
		if !box.has("hello") || box.has("attack") {
			t.Errorf("%s got %q", to, box.got)
		}
	}
}

func TestConntrack(t *testing.T) {
	if !sandbox.Enter(t) {
		return
	}
	buildWorld(t)
	bridgeNF(t, false)
	for _, p := range []place{placeA, placeB} {
		for _, a := range []netip.Addr{p.v4, p.v6} {
			serveTCP(t, p.netns, netip.AddrPortFrom(a, 80).String())
			serveUDP(t, p.netns, netip.AddrPortFrom(a, 80).String())
		}
	}
	for _, c := range []struct{ host, anyHost, first, second string }{
		{node4, "0.0.0.0", placeA.v4.String(), placeB.v4.String()}, {node6, "::", placeA.v6.String(), placeB.v6.String()}} {
		for _, host := range []string{c.host, c.anyHost} {
			eachKind(t, func(t *testing.T, k kind) {
				connections(t, k, c.host, host, net.JoinHostPort(c.first, "80"), net.JoinHostPort(c.second, "80"))
			}, host+" ")
		}
	}
}

// connections run while publishes change.
func connections(t *testing.T, k kind, node, host, first, second string) {
	steps := 0
	b := k.make(t, Options{Source: netstate.SourceLocal, Step: func() { steps++ }})
	lasting, moving := firewalltest.Publish(host, "tcp", 8001, first), firewalltest.Publish(host, "tcp", 8002, first)
	dns := firewalltest.Publish(host, "udp", 53, first)

	_, stop := serveInbox(t, "", net.JoinHostPort(node, "53"))
	defer stop()
	sender := connect(t, "udp", net.JoinHostPort(node, "53"))
	sender.says(t, net.JoinHostPort(node, "53"))
	// The tables that the firewall needs are steps of their own.
	firewalltest.Apply(t, b, firewalltest.Creates(firewalltest.Publish(host, "tcp", 8003, first)))
	steps = 0
	firewalltest.Apply(t, b, firewalltest.Creates(lasting, moving, dns))
	sender.says(t, first)
	firewalltest.Same(t, "steps", 2, steps)

	live, moved := connect(t, "tcp", net.JoinHostPort(node, "8001")), connect(t, "tcp", net.JoinHostPort(node, "8002"))
	live.says(t, "")
	moved.says(t, "")
	movedTo, dnsTo := moving, dns
	movedTo.Targets, dnsTo.Targets = firewalltest.Targets(second), firewalltest.Targets(second)
	firewalltest.Apply(t, b, firewalltest.Updates(moving, movedTo), firewalltest.Updates(dns, dnsTo))
	sender.says(t, second)
	live.says(t, "")
	moved.silent(t)

	again := k.loaded(t, netstate.SourceLocal)
	firewalltest.Apply(t, again, firewalltest.Creates(lasting, movedTo, dnsTo))
	live.says(t, "")
	firewalltest.Apply(t, b, firewalltest.Deletes(movedTo, dnsTo))
	sender.says(t, net.JoinHostPort(node, "53"))
	live.says(t, "")
	firewalltest.Apply(t, b, []plan.Step{{Op: plan.Delete, Key: lasting.Key(), Old: lasting}})
	live.silent(t)
	sender.Close()
}

// line is a connection from out that is kept open.
type line struct {
	net.Conn
	in *bufio.Reader
}

func connect(t *testing.T, network, address string) *line {
	t.Helper()
	c, err := in(t, "out", func() (net.Conn, error) { return net.DialTimeout(network, address, patience) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	l := &line{c, bufio.NewReader(c)}
	if network == "tcp" {
		if _, err := l.in.ReadString('\n'); err != nil {
			t.Fatal(err)
		}
	}
	return l
}

// says exchanges a message and expects the UDP server at the address to answer.
func (l *line) says(t *testing.T, server string) {
	t.Helper()
	l.SetDeadline(time.Now().Add(patience))
	fmt.Fprintln(l, "hello")
	buffer := make([]byte, 200)
	n, err := l.in.Read(buffer)
	if err != nil {
		t.Errorf("%s: %v", l.RemoteAddr(), err)
		return
	}
	if server == "" {
		return
	}
	if got, _, _ := strings.Cut(string(buffer[:n]), " "); got != server {
		t.Errorf("%s: %s answers, want %s", l.RemoteAddr(), got, server)
	}
}

func (l *line) silent(t *testing.T) {
	t.Helper()
	l.SetDeadline(time.Now().Add(enough))
	fmt.Fprintln(l, "hello")
	if text, err := l.in.ReadString('\n'); err == nil {
		t.Errorf("%s still answers %q", l.RemoteAddr(), text)
	}
}
