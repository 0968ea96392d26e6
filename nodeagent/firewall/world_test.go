package firewall

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/patchbay-dev/patchbay/nodeagent/firewall/firewalltest"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
	"github.com/patchbay-dev/patchbay/test/netlab"
	"github.com/patchbay-dev/patchbay/test/sandbox"
)

// The world is the node with the client out, a neighbour on its LAN, and the targets, each
// behind an interface of its own. What traffic meets is in test/scenarios, on both
// backends; here is what no manifest of a single node makes.
const (
	node4, node6 = "192.0.2.1", "2001:db8:1::1"
	out4, out6   = "192.0.2.9", "2001:db8:1::9"
)

var targets = []netlab.Netns{"a", "b", "c"}

// target4 and target6 are the addresses of a target by its number.
func target4(i int) string { return fmt.Sprintf("10.68.%d.101", i) }
func target6(i int) string { return fmt.Sprintf("fd00:68:%d::101", i) }

// buildWorld makes the world, with servers on ports of all targets that answer with their
// own address.
func buildWorld(t testing.TB, ports ...string) {
	t.Helper()
	netlab.Shell(t, "sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1")
	machines := []netlab.Machine{{Netns: "out", Port: "eth-out", Node: []string{node4 + "/24", node6 + "/64"}, Own: []string{out4 + "/24", out6 + "/64"}}}
	for i, netns := range targets {
		machines = append(machines, netlab.Machine{Netns: netns, Port: "veth-" + string(netns), Default: true,
			Node: []string{fmt.Sprintf("10.68.%d.1/24", i), fmt.Sprintf("fd00:68:%d::1/64", i)}, Own: []string{target4(i) + "/24", target6(i) + "/64"}})
	}
	for _, m := range machines {
		if err := m.Make(); err != nil {
			t.Fatal(err)
		}
	}
	for i, netns := range targets {
		for _, port := range ports {
			for _, address := range []string{net.JoinHostPort(target4(i), port), net.JoinHostPort(target6(i), port)} {
				for _, proto := range []string{"tcp", "udp"} {
					server, err := netlab.Serve(netns, proto, address, address)
					if err != nil {
						t.Fatal(err)
					}
					t.Cleanup(func() { server.Close() })
				}
			}
		}
	}
}

// worldObjects are the objects of networks behind the targets' interfaces.
func worldObjects() []netstate.Object {
	s := netstate.Set{}
	for i, netns := range targets {
		link := "veth-" + string(netns)
		s.Add(netstate.LinkPolicy{Link: link, Guarded: true})
		for _, subnet := range []netip.Prefix{firewalltest.Prefix(fmt.Sprintf("10.68.%d.0/24", i)), firewalltest.Prefix(fmt.Sprintf("fd00:68:%d::/64", i))} {
			s.Add(netstate.Masquerade{Link: link, Subnet: subnet, Egress: true})
		}
	}
	return firewalltest.List(s)
}

// eachFamily runs a check for each family, with every address in one, and the addresses
// of the node, the client and the targets.
func eachFamily(t *testing.T, check func(t *testing.T, every, node, out string, targets []string)) {
	t.Helper()
	t.Run("ipv4", func(t *testing.T) { check(t, "0.0.0.0", node4, out4, []string{target4(0), target4(1), target4(2)}) })
	t.Run("ipv6", func(t *testing.T) { check(t, "::", node6, out6, []string{target6(0), target6(1), target6(2)}) })
}

// onPort are addresses with a port.
func onPort(addresses []string, port string) (out []string) {
	for _, a := range addresses {
		out = append(out, net.JoinHostPort(a, port))
	}
	return out
}

// A line is a connection, or a flow of datagrams, to a server of the world.
type line struct {
	net.Conn
	server string
}

const (
	patience = 5 * time.Second
	// enough is a hundred times the time of an answer.
	enough = 200 * time.Millisecond
)

func connect(t testing.TB, from netlab.Netns, network, address string) *line {
	t.Helper()
	c, err := netlab.Dial(from, network, address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	l := &line{Conn: c}
	l.server = l.names(t, map[string]string{"udp": "hello"}[network])
	return l
}

// ask sends a question, if there is one, and returns what comes back.
func (l *line) ask(question string, within time.Duration) (string, error) {
	l.SetDeadline(time.Now().Add(netlab.Stretched(within)))
	if _, err := l.Write([]byte(question)); err != nil {
		return "", err
	}
	buf := make([]byte, 200)
	n, err := l.Read(buf)
	return string(buf[:n]), err
}

// names returns the address of the server that answers.
func (l *line) names(t testing.TB, question string) string {
	t.Helper()
	answer, err := l.ask(question, patience)
	words := strings.Fields(answer)
	if err != nil || len(words) < 3 {
		t.Fatalf("%s answers %q: %v", l.RemoteAddr(), answer, err)
	}
	return words[2]
}

// stays expects a connection to carry bytes there and back.
func (l *line) stays(t testing.TB) {
	t.Helper()
	if answer, err := l.ask("still there", patience); err != nil || answer != "still there" {
		t.Errorf("%s, by %s: %q, %v", l.RemoteAddr(), l.server, answer, err)
	}
}

func (l *line) silent(t testing.TB) {
	t.Helper()
	if answer, err := l.ask("still there", enough); err == nil {
		t.Errorf("%s still answers %q", l.RemoteAddr(), answer)
	}
}

// TestInvalid sends a packet that conntrack cannot place, TCP without flags, which no NAT
// translates.
func TestInvalid(t *testing.T) {
	if !sandbox.Enter(t) {
		return
	}
	buildWorld(t)
	tap, err := netlab.OpenTap("out", "eth0")
	if err != nil {
		t.Fatal(err)
	}
	defer tap.Close()
	send := func(network, text string) {
		c, err := netlab.Dial("a", network, out4)
		if err == nil {
			_, err = c.Write([]byte(text))
			c.Close()
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	// The end differs each time: an ICMP error would quote it.
	leaks := func(end string) (leaked bool) {
		send("ip4:tcp", strings.Repeat("\x00", 20)+"no flags before "+end)
		send("ip4:253", end+".")
		ended, err := tap.Await(netlab.Stretched(patience), func(frame []byte) bool {
			leaked = leaked || bytes.Contains(frame, []byte("no flags before "+end))
			return bytes.Contains(frame, []byte(end+"."))
		})
		if err != nil || !ended {
			t.Fatalf("no end: %v", err)
		}
		return leaked
	}
	firewalltest.Same(t, "leaks without rules", true, leaks("one"))
	firewalltest.Apply(t, backend(t, netstate.SourceLocal), firewalltest.Creates(worldObjects()...))
	firewalltest.Same(t, "leaks", false, leaks("two"))
}
