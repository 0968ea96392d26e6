package firewall

import (
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/patchbay-dev/patchbay/nodeagent/firewall/firewalltest"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
	"github.com/patchbay-dev/patchbay/test/sandbox"
)

// TestLoopback has a publish on 127.0.0.1 reached from the node alone, and the
// node's own services there by no other host, with the attackers that reach them once the
// guard is gone.
func TestLoopback(t *testing.T) {
	if !sandbox.Enter(t) {
		return
	}
	buildWorld(t)
	serveAll(t, placeA, 80, 9000)
	serveTCP(t, "", "127.0.0.1:7001")
	box := serveUDP(t, "", "127.0.0.1:7001")
	// Attackers take 127.0.0.1 for an address of the node.
	for netns, via := range map[string]string{"a": "10.68.0.1", "out": "192.0.2.1"} {
		firewalltest.Run(t, fmt.Sprintf(`ip -n %[1]s addr del 127.0.0.1/8 dev lo; ip netns exec %[1]s sysctl -qw net.ipv4.conf.all.route_localnet=1 net.ipv4.conf.all.rp_filter=0
			ip -n %[1]s route add 127.0.0.1 via %[2]s`, netns, via))
	}
	for _, on := range []bool{false, true} {
		eachKind(t, func(t *testing.T, k kind) { loopback(t, k, on, box) }, fmt.Sprintf("br_netfilter %t ", on))
	}
}

func loopback(t *testing.T, k kind, brNetfilter bool, box *inbox) {
	bridgeNF(t, brNetfilter)
	b := k.open(t, netstate.SourceLocal)
	guard := netstate.LoopbackGuard{Link: "br-red"}
	want := without(netstate.Set{}.Add(guard))
	for _, network := range []string{"tcp", "udp"} {
		want.Add(firewalltest.Publish("127.0.0.1", network, 8001, "10.68.0.101:80"), firewalltest.Ranged("127.0.0.1", network, 9000, 9003, "10.68.0.101:9000"))
	}
	firewalltest.Apply(t, b, firewalltest.Creates(able(b, want)...))
	firewalltest.Run(t, "sysctl -qw net.ipv4.conf.br-red.route_localnet=1")
	defer firewalltest.Run(t, "sysctl -qw net.ipv4.conf.br-red.route_localnet=0")
	for _, network := range []string{"tcp", "udp"} {
		reaches(t, "", network, "127.0.0.1:8001", "10.68.0.1")
		reaches(t, "", network, "127.0.0.1:9000", "10.68.0.1")
		reaches(t, "", network, "127.0.0.1:7001", "127.0.0.1")
		refused(t, network, probe{"a", "127.0.0.1:7001"}, probe{"a", "127.0.0.1:8001"}, probe{"out", "127.0.0.1:7001"}, probe{"out", "127.0.0.1:8001"},
			probe{"", node4 + ":8001"}, probe{"out", node4 + ":8001"}, probe{"", "127.0.0.1:9004"})
	}
	attack := func(text string) {
		for _, netns := range []string{"a", "out"} {
			c, err := in(t, netns, func() (net.Conn, error) { return net.Dial("udp", "127.0.0.1:7001") })
			if err != nil {
				t.Fatal(err)
			}
			fmt.Fprint(c, text+netns)
			c.Close()
		}
		// What arrives at all has arrived before this.
		reaches(t, "", "udp", "127.0.0.1:7001", "")
	}
	guarded := fmt.Sprint("guarded ", k.name, brNetfilter, " ")
	attack(guarded)
	if box.has(guarded+"a") || box.has(guarded+"out") {
		t.Errorf("attackers reached the node's loopback: %q", box.got)
	}
	firewalltest.Apply(t, b, firewalltest.Deletes(guard))
	open := fmt.Sprint("open ", k.name, brNetfilter, " ")
	attack(open)
	for deadline := time.Now().Add(patience); !box.has(open + "a"); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("the attack does not work without the guard either: %q", box.got)
		}
	}
	if box.has(open + "out") {
		t.Error("the LAN reaches the node's loopback")
	}
	firewalltest.Apply(t, b, firewalltest.Deletes(firewalltest.List(b.Held())...))
	firewalltest.Same(t, "what is left", "", firewall(t))
}
