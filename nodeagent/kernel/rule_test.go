package kernel

import (
	"errors"
	"slices"
	"testing"

	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
	"github.com/patchbay-dev/patchbay/test/sandbox"
)

// TestRoutingOfOthers reads foreign rules and routes, on the host and in a namespace, as
// they come and go.
func TestRoutingOfOthers(t *testing.T) {
	if !sandbox.Enter(t) {
		return
	}
	k := open(t)
	br, _, inside := attachment(t, k)
	apply(t, k, create(addressOn(br, "10.68.0.1/24"), addressOn(inside, "10.68.0.101/24")))
	apply(t, k, create(routeVia(inside, "0.0.0.0/0", "10.68.0.1")))
	for _, netns := range []string{"", "net1"} {
		if r, err := k.Routing(netns); err != nil || len(r.Rules)+len(r.Routes) > 0 {
			t.Errorf("in %q others made %+v, %v", netns, r, err)
		}
	}
	if _, err := k.Routing("none"); !errors.Is(err, ErrNetnsNotFound) {
		t.Errorf("of no namespace: %v", err)
	}
	events := watch(t, k)
	changed := func(netns, name string) func(Event) bool {
		return func(e Event) bool {
			return e.Key == netstate.Key{Kind: netstate.KindRoute, Netns: netns, Name: name} && e.Object == nil
		}
	}
	for _, c := range []struct {
		netns, command, event string
		rules, routes         []string
	}{
		{"", "ip rule add priority 10 to 10.68.0.0/24 blackhole", "rule 10: from all to 10.68.0.0/24 blackhole", []string{"10: from all to 10.68.0.0/24 blackhole"}, nil},
		{"", "ip rule del priority 10", "rule 10: from all to 10.68.0.0/24 blackhole", nil, nil},
		{"", "ip -6 rule add priority 11 from fd00::7 iif lo prohibit", "rule 11: from fd00::7 iif lo prohibit", []string{"11: from fd00::7 iif lo prohibit"}, nil},
		{"", "ip -6 rule del priority 11; ip route add blackhole 10.68.0.7", "10.68.0.7/32", nil, []string{"blackhole 10.68.0.7"}},
		{"", "ip route del blackhole 10.68.0.7; ip -6 route add unreachable fd00::7", "fd00::7/128", nil, []string{"unreachable fd00::7"}},
		{"", "ip -6 route del unreachable fd00::7; ip rule add priority 12 lookup 700 suppress_prefixlength 8; ip route add 10.68.0.0/25 dev br-red table 700", "10.68.0.0/25",
			[]string{"12: from all lookup 700"}, []string{"10.68.0.0/25 dev br-red table 700"}},
		{"net1", "ip -n net1 rule add priority 5 blackhole", "rule 5: from all blackhole", []string{"5: from all blackhole"}, nil},
		{"net1", "ip -n net1 rule del priority 5; ip -n net1 route add prohibit 10.9.0.0/16", "10.9.0.0/16", nil, []string{"prohibit 10.9.0.0/16"}},
	} {
		sh(t, "%s", c.command)
		events.want(t, c.command, changed(c.netns, c.event))
		r, err := k.Routing(c.netns)
		var rules, routes []string
		for _, one := range r.Rules {
			rules = append(rules, one.String())
		}
		for _, one := range r.Routes {
			routes = append(routes, one.String())
		}
		if err != nil || !slices.Equal(rules, c.rules) || !slices.Equal(routes, c.routes) {
			t.Errorf("after %s: rules %v, routes %v, %v", c.command, rules, routes, err)
		}
	}
	sh(t, "ip rule add priority 13 fwmark 0x1/0x1 blackhole; ip rule add priority 14 not fwmark 0xca6c lookup 700; ip rule add priority 15 sport 53 lookup 700; ip rule add priority 16 not from 10.0.0.0/8 blackhole")
	r, err := k.Routing("")
	if err != nil {
		t.Fatal(err)
	}
	for _, one := range r.Rules {
		if want := one.Priority != 12 && one.Priority != 14; one.Narrow != want {
			t.Errorf("%s is narrow: %t", one, one.Narrow)
		}
		if one.Priority == 12 && one.Longer != 8 {
			t.Errorf("%s passes over %d", one, one.Longer)
		}
	}
}

// TestWaysOfTheNode has a way that forwards nothing, and one that is down.
func TestWaysOfTheNode(t *testing.T) {
	if !sandbox.Enter(t) {
		return
	}
	k := open(t)
	sh(t, "sysctl -qw net.ipv4.ip_forward=1")
	for _, name := range []string{"eth0", "eth1"} {
		sh(t, "ip link add %[1]s type veth peer p%[1]s; ip link set p%[1]s up; ip link set %[1]s up", name)
	}
	sh(t, "ip address add 198.51.100.1/24 dev eth0; ip -6 address add 2001:db8::1/64 dev eth1 nodad; ip address add 203.0.113.1/24 dev eth1; sysctl -qw net.ipv4.conf.eth0.forwarding=0; ip link set eth1 down")
	n, err := k.Node()
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(n.Ways[netstate.IPv4], []string{"eth0", "eth1"}) || len(n.Ways[netstate.IPv6]) > 0 {
		t.Errorf("ways %v", n.Ways)
	}
	if eth0, eth1 := n.Links["eth0"], n.Links["eth1"]; !eth0.NoForward || eth0.Down || eth1.NoForward || !eth1.Down {
		t.Errorf("eth0 %+v, eth1 %+v", eth0, eth1)
	}
	sh(t, "sysctl -qw net.ipv4.ip_forward=0")
	if n, err := k.Node(); err != nil || n.Links["eth0"].NoForward {
		t.Errorf("while the node forwards nothing: %+v, %v", n.Links["eth0"], err)
	}
}
