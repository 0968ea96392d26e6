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
	"github.com/patchbay-dev/patchbay/test/sandbox"
)

// TestBalanced has ports with the three targets a, b and c. What each gets of
// 300 connections is within five standard deviations.
func TestBalanced(t *testing.T) {
	if !sandbox.Enter(t) {
		return
	}
	buildWorld(t)
	bridgeNF(t, false)
	for _, p := range []place{placeA, placeB, placeC} {
		for _, a := range []netip.Addr{p.v4, p.v6} {
			serveName(t, p.netns, netip.AddrPortFrom(a, 80).String())
			serveUDP(t, p.netns, netip.AddrPortFrom(a, 80).String())
		}
	}
	eachKind(t, balancedBy)
}

func balancedBy(t *testing.T, k kind) {
	families46(t, func(t *testing.T, node, _ string, of func(place) string) {
		any := "0.0.0.0"
		if firewalltest.Addr(node).Is6() {
			any = "::"
		}
		var servers []string
		for _, p := range []place{placeA, placeB, placeC} {
			servers = append(servers, net.JoinHostPort(of(p), "80"))
		}
		for _, host := range []string{any, node} {
			t.Run(host, func(t *testing.T) { balanced(t, k, host, node, servers) })
		}
		t.Run("before a wildcard", func(t *testing.T) { beforeWildcard(t, k, any, node, servers) })
	})
}

// TestBalancedRange shares the ports of a range, which stay what they are.
func TestBalancedRange(t *testing.T) {
	if !sandbox.Enter(t) {
		return
	}
	buildWorld(t)
	bridgeNF(t, false)
	for _, p := range []place{placeA, placeB} {
		for _, a := range []netip.Addr{p.v4, p.v6} {
			serveName(t, p.netns, netip.AddrPortFrom(a, 9000).String())
			serveName(t, p.netns, netip.AddrPortFrom(a, 9004).String())
		}
	}
	eachKind(t, func(t *testing.T, k kind) {
		families46(t, func(t *testing.T, node, _ string, of func(place) string) {
			any := "0.0.0.0"
			if firewalltest.Addr(node).Is6() {
				any = "::"
			}
			for _, host := range []string{any, node} {
				b := k.open(t, netstate.SourceLocal)
				p := firewalltest.Balance(host, "tcp", 9000, net.JoinHostPort(of(placeA), "9000"), net.JoinHostPort(of(placeB), "9000"))
				p.HostPortEnd = 9004
				firewalltest.Apply(t, b, firewalltest.Creates(worldWithoutPublishes(b)...), firewalltest.Creates(p))
				firewalltest.Same(t, "held", netstate.Object(p), k.loaded(t, netstate.SourceLocal).Held()[p.Key()])
				shares := map[string]int{}
				for range 40 {
					for _, port := range []string{"9000", "9004"} {
						c := talk(t, "out", net.JoinHostPort(node, port))
						shares[c.server]++
						c.Close()
					}
				}
				for _, target := range []string{of(placeA), of(placeB)} {
					for _, port := range []string{"9000", "9004"} {
						if n := shares[net.JoinHostPort(target, port)]; n < 4 {
							t.Errorf("%s:%s got %d of 40 connections: %v", target, port, n, shares)
						}
					}
				}
				firewalltest.Apply(t, b, firewalltest.Deletes(heldObjects(b)...))
			}
		})
	})
}

// beforeWildcard has the slots of an address come before the target of all addresses.
func beforeWildcard(t *testing.T, k kind, any, node string, servers []string) {
	b := k.open(t, netstate.SourceLocal)
	firewalltest.Apply(t, b, firewalltest.Creates(firewalltest.Publish(any, "tcp", 8001, servers[0]), firewalltest.Balance(node, "tcp", 8001, servers[1:]...)))
	for range 20 {
		c := talk(t, "out", net.JoinHostPort(node, "8001"))
		if c.server == servers[0] {
			t.Errorf("%s answers, which is the wildcard's", c.server)
		}
		c.Close()
	}
	firewalltest.Apply(t, b, firewalltest.Deletes(heldObjects(b)...))
}

func heldObjects(b Backend) []netstate.Object { return firewalltest.List(b.Held()) }

func balanced(t *testing.T, k kind, host, node string, servers []string) {
	b := k.open(t, netstate.SourceLocal)
	tcp, udp := firewalltest.Balance(host, "tcp", 8001, servers...), firewalltest.Balance(host, "udp", 8001, servers...)
	firewalltest.Apply(t, b, firewalltest.Creates(worldWithoutPublishes(b)...), firewalltest.Creates(tcp, udp))
	port := net.JoinHostPort(node, "8001")
	for _, from := range []string{"out", ""} {
		shares := map[string]int{}
		for range 300 {
			c := talk(t, from, port)
			c.stays(t)
			shares[c.server]++
			c.Close()
		}
		for _, target := range servers {
			if n := shares[target]; n < 60 || n > 140 {
				t.Errorf("from %q: %s got %d of 300 connections: %v", from, target, n, shares)
			}
		}
	}
	var senders []*line
	for range 30 {
		s := connect(t, "udp", port)
		defer s.Close()
		senders = append(senders, s)
	}
	first := answers(t, senders)
	firewalltest.Same(t, "who answers each sender again", first, answers(t, senders))
	oneGone(t, b, port, servers, tcp, udp, senders, first)
}

// oneGone takes the second target away: its flows end, all other flows go on, and no
// connection fails after that.
func oneGone(t *testing.T, b Backend, port string, servers []string, tcp, udp netstate.Publish, senders []*line, first []string) {
	var live []*conversation
	for range 30 {
		c := talk(t, "out", port)
		defer c.Close()
		live = append(live, c)
	}
	rest := firewalltest.Targets(servers[0], servers[2])
	fewerTCP, fewerUDP := tcp, udp
	fewerTCP.Targets, fewerUDP.Targets = rest, rest
	firewalltest.Apply(t, b, firewalltest.Updates(tcp, fewerTCP), firewalltest.Updates(udp, fewerUDP))
	for range 60 {
		c := talk(t, "out", port)
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
	for i, now := range answers(t, senders) {
		if was := first[i]; was != servers[1] && now != was || now == servers[1] {
			t.Errorf("%s answered a sender, now %s does", was, now)
		}
	}
	firewalltest.Apply(t, b, firewalltest.Deletes(heldObjects(b)...))
	firewalltest.Same(t, "what is left", "", firewall(t))
}

func worldWithoutPublishes(b Backend) []netstate.Object {
	var out []netstate.Object
	for _, o := range able(b, worldObjects()) {
		if _, ok := o.(netstate.Publish); !ok {
			out = append(out, o)
		}
	}
	return out
}

// answers sends from each and returns which servers answer.
func answers(t *testing.T, senders []*line) []string {
	t.Helper()
	var out []string
	for _, s := range senders {
		s.SetDeadline(time.Now().Add(patience))
		fmt.Fprint(s, "hello")
		buffer := make([]byte, 200)
		n, err := s.Read(buffer)
		if err != nil {
			t.Fatal(err)
		}
		var server string
		fmt.Sscan(string(buffer[:n]), &server)
		out = append(out, server)
	}
	return out
}

// serveName answers every line with the server's own address.
func serveName(t *testing.T, netns, address string) {
	t.Helper()
	listen(t, netns, address, func(c net.Conn) {
		for lines := bufio.NewScanner(c); lines.Scan(); {
			fmt.Fprintln(c, address)
		}
	})
}

// conversation is a connection with a server of serveName.
type conversation struct {
	*line
	server string
}

func talk(t *testing.T, netns, address string) *conversation {
	t.Helper()
	c, err := in(t, netns, func() (net.Conn, error) { return net.DialTimeout("tcp", address, patience) })
	if err != nil {
		t.Fatal(err)
	}
	talk := &conversation{line: &line{c, bufio.NewReader(c)}}
	talk.server = talk.asks(t)
	return talk
}

func (c *conversation) asks(t *testing.T) string {
	t.Helper()
	c.SetDeadline(time.Now().Add(patience))
	fmt.Fprintln(c, "who")
	server, err := c.in.ReadString('\n')
	if err != nil {
		t.Errorf("%s: %v", c.RemoteAddr(), err)
	}
	return strings.TrimSpace(server)
}

// stays expects the same server to answer again.
func (c *conversation) stays(t *testing.T) {
	t.Helper()
	if now := c.asks(t); now != c.server {
		t.Errorf("%s answered first, then %s", c.server, now)
	}
}
