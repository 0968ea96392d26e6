package firewall

import (
	"bufio"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/patchbay-dev/patchbay/nodeagent/firewall/conntrack"
	"github.com/patchbay-dev/patchbay/nodeagent/firewall/firewalltest"
	"github.com/patchbay-dev/patchbay/nodeagent/firewall/nfnl"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
	"github.com/patchbay-dev/patchbay/test/sandbox"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// serveAll serves TCP and UDP on ports of a place.
func serveAll(t *testing.T, p place, ports ...uint16) {
	t.Helper()
	for _, port := range ports {
		for _, a := range []netip.Addr{p.v4, p.v6} {
			serveTCP(t, p.netns, netip.AddrPortFrom(a, port).String())
			serveUDP(t, p.netns, netip.AddrPortFrom(a, port).String())
		}
	}
}

// both is a publish for TCP and UDP in both families; host is the node's address
// or empty for every one.
func both(host4, host6 string, first, last uint16, to place, port uint16) []netstate.Publish {
	var out []netstate.Publish
	for _, proto := range []string{"tcp", "udp"} {
		for host, target := range map[string]netip.Addr{host4: to.v4, host6: to.v6} {
			p := firewalltest.Publish(host, proto, first, netip.AddrPortFrom(target, port).String())
			p.HostPortEnd = last
			out = append(out, p)
		}
	}
	return out
}

func set(list ...[]netstate.Publish) netstate.Set {
	s := netstate.Set{}
	for _, l := range list {
		for _, p := range l {
			s.Add(p)
		}
	}
	return s
}

// without is the world with these publishes in place of its own.
func without(publishes netstate.Set) netstate.Set {
	s := worldObjects()
	for k := range s {
		if k.Kind == netstate.KindPublish {
			delete(s, k)
		}
	}
	return s.Add(firewalltest.List(publishes)...)
}

// TestRanges reaches ports of ranges from everywhere, and those beside them from
// nowhere.
func TestRanges(t *testing.T) {
	if !sandbox.Enter(t) {
		return
	}
	buildWorld(t)
	serveAll(t, placeA, 9000, 9005, 9010, 9011, 80, 82, 83)
	serveAll(t, placeB, 9005, 9015)
	for _, on := range []bool{false, true} {
		eachKind(t, func(t *testing.T, k kind) {
			bridgeNF(t, on)
			b := k.open(t, netstate.SourceLocal)
			want := without(set(both("0.0.0.0", "::", 9000, 9010, placeA, 9000), both(node4, node6, 9005, 9015, placeB, 9005), both("0.0.0.0", "::", 9100, 9102, placeA, 80)))
			firewalltest.Apply(t, b, firewalltest.Creates(able(b, want)...))
			for _, network := range []string{"tcp", "udp"} {
				families46(t, func(t *testing.T, node, out string, of func(place) string) { ranges(t, network, node, out, of) })
			}
			firewalltest.Apply(t, b, firewalltest.Deletes(firewalltest.List(b.Held())...))
			firewalltest.Same(t, "what is left", "", firewall(t))
		}, fmt.Sprintf("br_netfilter %t ", on))
	}
}

func ranges(t *testing.T, network, node, out string, of func(place) string) {
	other := gateway(of(placeC))
	for _, port := range []string{"9000", "9005", "9010", "9100", "9102"} {
		reaches(t, "c", network, net.JoinHostPort(other, port), of(placeC))
		reaches(t, "a", network, net.JoinHostPort(other, port), "")
		reaches(t, "b", network, net.JoinHostPort(other, port), "")
		reaches(t, "", network, net.JoinHostPort(other, port), "")
	}
	reaches(t, "out", network, net.JoinHostPort(node, "9000"), out)
	reaches(t, "out", network, net.JoinHostPort(node, "9102"), out)
	// B has the range of this address alone; A's serves what it leaves over.
	reaches(t, "out", network, net.JoinHostPort(node, "9015"), out)
	refused(t, network, probe{"out", net.JoinHostPort(node, "9010")}, probe{"c", net.JoinHostPort(other, "9015")},
		probe{"c", net.JoinHostPort(other, "9011")}, probe{"c", net.JoinHostPort(other, "8999")}, probe{"c", net.JoinHostPort(other, "9103")})
	// The real ports stay closed, and an address that is not the node's is not led
	// anywhere.
	refused(t, network, probe{"out", net.JoinHostPort(of(placeA), "9000")}, probe{"c", net.JoinHostPort(of(placeA), "82")})
	foreign := "203.0.113.5"
	if firewalltest.Addr(node).Is6() {
		foreign = "2001:db8:99::5"
	}
	firewalltest.Run(t, fmt.Sprintf("ip -n out route add %s via %s", foreign, node))
	refused(t, network, probe{"out", net.JoinHostPort(foreign, "9000")}, probe{"out", net.JoinHostPort(foreign, "9100")})
	firewalltest.Run(t, "ip -n out route del "+foreign)
}

// TestGates lets in by source: single ports, ranges and slots, of an address and
// of every one.
func TestGates(t *testing.T) {
	if !sandbox.Enter(t) {
		return
	}
	buildWorld(t)
	bridgeNF(t, false)
	serveAll(t, placeA, 80, 9000)
	serveAll(t, placeB, 80)
	for _, c := range []struct{ any, node, out, far, other string }{{"0.0.0.0", node4, out4, far4, "198.51.100.1"}, {"::", node6, out6, far6, "2001:db8:2::1"}} {
		a, bAddr := placeA.v4, placeB.v4
		if firewalltest.Addr(c.node).Is6() {
			a, bAddr = placeA.v6, placeB.v6
		}
		bits := fmt.Sprintf("/%d", a.BitLen())
		target := func(of netip.Addr, port uint16) string { return netip.AddrPortFrom(of, port).String() }
		for _, network := range []string{"tcp", "udp"} {
			eachKind(t, func(t *testing.T, k kind) {
				b := k.open(t, netstate.SourceLocal)
				balanced := firewalltest.From(firewalltest.Balance(c.any, network, 8012, target(a, 80), target(bAddr, 80)), c.out+bits)
				firewalltest.Apply(t, b, firewalltest.Creates(able(b, without(netstate.Set{}.Add(
					firewalltest.From(firewalltest.Publish(c.any, network, 8010, target(a, 80)), c.out+bits),
					firewalltest.From(firewalltest.Ranged(c.any, network, 9000, 9001, target(a, 9000)), c.out+bits),
					firewalltest.From(firewalltest.Ranged(c.any, network, 9100, 9101, target(a, 80)), c.out+bits), balanced,
					firewalltest.Publish(c.any, network, 8020, target(a, 80)), firewalltest.From(firewalltest.Publish(c.node, network, 8020, target(bAddr, 80)), c.far+bits),
					firewalltest.Publish(c.any, network, 8030, target(a, 80)), firewalltest.From(firewalltest.Publish(c.node, network, 8030, target(bAddr, 80))))))...))
				for _, port := range []string{"8010", "9000", "9100", "8012"} {
					reaches(t, "out", network, net.JoinHostPort(c.node, port), c.out)
					refused(t, network, probe{"far", net.JoinHostPort(c.node, port)}, probe{"c", net.JoinHostPort(c.node, port)},
						probe{"b", net.JoinHostPort(c.node, port)}, probe{"", net.JoinHostPort(c.node, port)})
				}
				reaches(t, "far", network, net.JoinHostPort(c.node, "8020"), c.far)
				reaches(t, "out", network, net.JoinHostPort(c.other, "8020"), c.out)
				reaches(t, "out", network, net.JoinHostPort(c.other, "8030"), c.out)
				refused(t, network, probe{"out", net.JoinHostPort(c.node, "8020")}, probe{"out", net.JoinHostPort(c.node, "8030")}, probe{"far", net.JoinHostPort(c.node, "8030")})
				firewalltest.Apply(t, b, firewalltest.Deletes(firewalltest.List(b.Held())...))
				firewalltest.Same(t, "what is left", "", firewall(t))
			}, network+" "+c.node+" ")
		}
	}
}

// TestNarrowed cuts the flows of sources that may no longer connect, and those
// alone.
func TestNarrowed(t *testing.T) {
	if !sandbox.Enter(t) {
		return
	}
	buildWorld(t)
	bridgeNF(t, false)
	serveAll(t, placeA, 80)
	for _, c := range []struct{ any, node, out, far, target string }{{"0.0.0.0", node4, out4 + "/32", far4 + "/32", placeA.v4.String()}, {"::", node6, out6 + "/128", far6 + "/128", placeA.v6.String()}} {
		for _, network := range []string{"tcp", "udp"} {
			eachKind(t, func(t *testing.T, k kind) {
				b := k.open(t, netstate.SourceLocal)
				open := firewalltest.Publish(c.any, network, 8001, net.JoinHostPort(c.target, "80"))
				shifted := firewalltest.Ranged(c.any, network, 8000, 8004, net.JoinHostPort(c.target, "79"))
				for _, open := range []netstate.Publish{open, shifted} {
					firewalltest.Apply(t, b, firewalltest.Creates(able(b, without(netstate.Set{}.Add(open)))...))
					out, far := connectFrom(t, "out", network, net.JoinHostPort(c.node, "8001")), connectFrom(t, "far", network, net.JoinHostPort(c.node, "8001"))
					out.says(t, "")
					far.says(t, "")
					one, two := firewalltest.From(open, c.out), firewalltest.From(open, c.out, c.far)
					firewalltest.Apply(t, b, firewalltest.Updates(open, two))
					far.says(t, "")
					out.says(t, "")
					firewalltest.Apply(t, b, firewalltest.Updates(two, one))
					out.says(t, "")
					far.silent(t)
					firewalltest.Apply(t, b, firewalltest.Updates(one, two))
					out.says(t, "")
					firewalltest.Apply(t, b, firewalltest.Updates(two, open))
					out.says(t, "")
					out.Close()
					far.Close()
					firewalltest.Apply(t, b, firewalltest.Deletes(firewalltest.List(b.Held())...))
				}
			}, network+" "+c.node+" ")
		}
	}
}

// connectFrom is connect from any namespace.
func connectFrom(t *testing.T, netns, network, address string) *line {
	t.Helper()
	c, err := in(t, netns, func() (net.Conn, error) { return net.DialTimeout(network, address, patience) })
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

// TestOthersComeAndGo: flows of publishes that stay live through a hundred further ones,
// also for the same target, and through a specific one for another address.
func TestOthersComeAndGo(t *testing.T) {
	if !sandbox.Enter(t) {
		return
	}
	buildWorld(t)
	bridgeNF(t, false)
	serveAll(t, placeA, 80, 9000)
	for _, c := range []struct{ any, node, other, target string }{{"0.0.0.0", node4, "198.51.100.1", placeA.v4.String()}, {"::", node6, "2001:db8:2::1", placeA.v6.String()}} {
		b := backend(t, netstate.SourceLocal)
		var lines []*line
		for _, network := range []string{"tcp", "udp"} {
			firewalltest.Apply(t, b, firewalltest.Creates(firewalltest.List(without(netstate.Set{}.Add(firewalltest.Publish(c.any, network, 8001, net.JoinHostPort(c.target, "80")),
				firewalltest.Ranged(c.any, network, 9000, 9001, net.JoinHostPort(c.target, "9000")))))...))
			lines = append(lines, connect(t, network, net.JoinHostPort(c.node, "8001")), connect(t, network, net.JoinHostPort(c.node, "9000")))
		}
		alive := func() {
			for _, l := range lines {
				l.says(t, "")
			}
		}
		alive()
		others := netstate.Set{}
		for i := range uint16(50) {
			for _, network := range []string{"tcp", "udp"} {
				others.Add(firewalltest.Publish(c.any, network, 20000+i, net.JoinHostPort(c.target, "80")), firewalltest.Ranged(c.other, network, 9000+10*i, 9004+10*i, net.JoinHostPort(c.target, fmt.Sprint(9000+10*i))))
			}
		}
		for range 2 {
			for _, o := range firewalltest.List(others)[:100] {
				firewalltest.Apply(t, b, firewalltest.Creates(o))
			}
			alive()
			firewalltest.Apply(t, b, firewalltest.Deletes(firewalltest.List(others)[:100]...))
			alive()
		}
		firewalltest.Apply(t, b, firewalltest.Deletes(firewalltest.List(b.Held())...))
		for _, l := range lines {
			l.silent(t)
		}
	}
}

// TestChangedPortsKeepConnections: an entry of conntrack stays the same one while
// some publish leads it where it goes, whichever that is.
func TestChangedPortsKeepConnections(t *testing.T) {
	if !sandbox.Enter(t) {
		return
	}
	buildWorld(t)
	bridgeNF(t, false)
	serveAll(t, placeA, 80, 8001)
	for _, c := range []struct{ any, node, out, target string }{{"0.0.0.0", node4, out4 + "/32", placeA.v4.String()}, {"::", node6, out6 + "/128", placeA.v6.String()}} {
		eachKind(t, func(t *testing.T, k kind) {
			b, to := k.open(t, netstate.SourceLocal), func(port string) string { return net.JoinHostPort(c.target, port) }
			last := firewalltest.Ranged(c.any, "tcp", 8000, 8010, to("8000"))
			firewalltest.Apply(t, b, firewalltest.Creates(able(b, without(netstate.Set{}.Add(last)))...))
			stays := connect(t, "tcp", net.JoinHostPort(c.node, "8001"))
			entry := conntrackIDs(t, 8001)
			firewalltest.Same(t, "entries", 1, len(entry))
			for _, now := range []netstate.Publish{
				firewalltest.Ranged(c.any, "tcp", 7990, 8020, to("7990")),
				firewalltest.Publish(c.any, "tcp", 8001, to("8001")),
				firewalltest.Ranged(c.node, "tcp", 8001, 8002, to("8001")),
				firewalltest.From(firewalltest.Ranged(c.any, "tcp", 8000, 8002, to("8000")), c.out),
			} {
				firewalltest.Apply(t, b, firewalltest.Deletes(last), firewalltest.Creates(now))
				firewalltest.Same(t, "entry after "+now.Key().String(), entry, conntrackIDs(t, 8001))
				stays.says(t, "")
				last = now
			}
			elsewhere := firewalltest.Ranged(c.any, "tcp", 8001, 8009, to("80"))
			firewalltest.Apply(t, b, firewalltest.Deletes(last), firewalltest.Creates(elsewhere))
			stays.silent(t)
			firewalltest.Apply(t, b, firewalltest.Deletes(firewalltest.List(b.Held())...))
		}, c.node+" ")
	}
}

// conntrackIDs are the kernel's numbers of the connections to a port.
func conntrackIDs(t *testing.T, port uint16) (ids []string) {
	t.Helper()
	for _, family := range []netlink.InetFamily{unix.AF_INET, unix.AF_INET6} {
		entries, err := conntrack.DumpConnections(family, conntrack.Ask{Proto: conntrack.Protocols["tcp"], Port: port})
		if err != nil {
			t.Fatal(err)
		}
		for _, entry := range entries {
			c, _ := conntrack.ParseConnection(entry)
			for kind, v := range nfnl.Attributes(c.Raw) {
				if kind == nl.CTA_ID {
					ids = append(ids, fmt.Sprintf("%s %x", c.Orig.Src, v))
				}
			}
		}
	}
	return ids
}

// TestSpecificOvertakes: UDP senders go over to the publish of their address when
// it comes, and back to the one for every address when it goes.
func TestSpecificOvertakes(t *testing.T) {
	if !sandbox.Enter(t) {
		return
	}
	buildWorld(t)
	bridgeNF(t, false)
	serveAll(t, placeA, 80)
	serveAll(t, placeB, 80)
	for _, c := range []struct{ any, node, first, second string }{{"0.0.0.0", node4, placeA.v4.String(), placeB.v4.String()}, {"::", node6, placeA.v6.String(), placeB.v6.String()}} {
		b := backend(t, netstate.SourceLocal)
		first, second := net.JoinHostPort(c.first, "80"), net.JoinHostPort(c.second, "80")
		firewalltest.Apply(t, b, firewalltest.Creates(firewalltest.List(without(netstate.Set{}.Add(firewalltest.Publish(c.any, "udp", 8001, first))))...))
		sender := connect(t, "udp", net.JoinHostPort(c.node, "8001"))
		sender.says(t, first)
		specific := firewalltest.Publish(c.node, "udp", 8001, second)
		firewalltest.Apply(t, b, firewalltest.Creates(specific))
		sender.says(t, second)
		firewalltest.Apply(t, b, firewalltest.Deletes(specific))
		sender.says(t, first)
		sender.Close()
		firewalltest.Apply(t, b, firewalltest.Deletes(firewalltest.List(b.Held())...))
	}
}

// TestChangesAtRandom has the kernel hold the objects that were applied last after any
// change, also where elements overlap the ones that they replace.
func TestChangesAtRandom(t *testing.T) {
	if !sandbox.Enter(t) {
		return
	}
	random := rand.New(rand.NewPCG(6, 1))
	b, have := backend(t, netstate.SourceLocal), netstate.Set{}
	for range 60 {
		want := netstate.Set{}
		for port := uint16(1000); port < 1100; port += 20 {
			if p := firewalltest.RandomPublish(random, port); random.IntN(4) > 0 {
				want.Add(p)
			}
		}
		// As an engine does: what goes, goes before.
		var gone []netstate.Object
		for k, o := range have {
			if want[k] == nil {
				gone = append(gone, o)
			}
		}
		if random.IntN(2) == 0 {
			firewalltest.Apply(t, b, firewalltest.Deletes(gone...))
			firewalltest.Apply(t, b, firewalltest.Creates(firewalltest.List(missing(b, want))...))
		} else {
			firewalltest.Apply(t, b, firewalltest.Creates(firewalltest.List(missing(b, want))...), firewalltest.Deletes(gone...))
		}
		have = want
		again := loaded(t, netstate.SourceLocal)
		firewalltest.Same(t, "held", want, again.Held())
		firewalltest.Same(t, "intact", true, again.Intact())
		if t.Failed() {
			return
		}
	}
	firewalltest.Apply(t, b, firewalltest.Deletes(firewalltest.List(have)...))
	firewalltest.Same(t, "ruleset", "", firewalltest.Ruleset(t))
}

// TestSourcesWithinOthers changes sources into some that hold the former or lie
// within them.
func TestSourcesWithinOthers(t *testing.T) {
	if !sandbox.Enter(t) {
		return
	}
	b, p := backend(t, netstate.SourceLocal), firewalltest.Ranged("0.0.0.0", "tcp", 80, 90, "10.0.0.2:80")
	last := p
	for _, sources := range [][]string{{"10.0.0.0/8"}, {"10.1.0.0/16", "10.2.0.0/16"}, {"10.0.0.0/8", "10.1.0.0/16"}, {"10.1.2.3/32"}, {"0.0.0.0/0"}, {}, {"10.1.2.0/24"}} {
		now := firewalltest.From(p, sources...)
		firewalltest.Apply(t, b, firewalltest.Updates(last, now))
		firewalltest.Same(t, "held", netstate.Set{}.Add(now), loaded(t, netstate.SourceLocal).Held())
		last = now
	}
}

// TestThousandsGated has a gate on each of many ports; one more is no slower than
// the engine may be.
func TestThousandsGated(t *testing.T) {
	if !sandbox.Enter(t) {
		return
	}
	want := netstate.Set{}
	for i := range 2000 {
		want.Add(firewalltest.From(firewalltest.Publish("0.0.0.0", "tcp", uint16(20000+i), fmt.Sprintf("10.68.%d.%d:80", i/250, 1+i%250)), "10.0.0.0/8"))
	}
	b := backend(t, netstate.SourceLocal)
	begin := time.Now()
	firewalltest.Apply(t, b, firewalltest.Creates(firewalltest.List(want)...))
	t.Logf("2,000 gated ports: %s", time.Since(begin))
	begin = time.Now()
	firewalltest.Apply(t, b, firewalltest.Creates(firewalltest.From(firewalltest.Publish("0.0.0.0", "tcp", 80, "10.68.0.1:80"), "10.0.0.0/8")))
	t.Logf("one more: %s", time.Since(begin))
	firewalltest.Apply(t, b, firewalltest.Deletes(firewalltest.Publish("0.0.0.0", "tcp", 80, "10.68.0.1:80")))
	firewalltest.Same(t, "observed", want, loaded(t, netstate.SourceLocal).Held())
	firewalltest.Apply(t, b, firewalltest.Deletes(firewalltest.List(want)...))
	firewalltest.Same(t, "ruleset", "", firewalltest.Ruleset(t))
}
