package firewall

import (
	"context"
	"fmt"
	"testing"

	"github.com/patchbay-dev/patchbay/nodeagent/firewall/firewalltest"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
	"github.com/patchbay-dev/patchbay/test/netlab"
	"github.com/patchbay-dev/patchbay/test/sandbox"
)

// repair does what an engine does after a Watch: look, compare, apply.
func repair(t testing.TB, b Backend, want netstate.Set) {
	t.Helper()
	if err := b.Load(); err != nil {
		t.Fatal(err)
	}
	firewalltest.Apply(t, b, firewalltest.Creates(firewalltest.List(missing(b, want))...))
}

func missing(b Backend, want netstate.Set) netstate.Set {
	out, have := netstate.Set{}, b.Observe(want.Keys())
	for k, o := range want {
		if have[k] != o {
			out.Add(o)
		}
	}
	return out
}

var damages = []struct {
	name, command string
	// lost is how many objects are no longer observed; -1 is all.
	lost   int
	intact bool
}{
	{"a target", `nft delete element inet patchbay targets4 '{ 10.68.0.101 . tcp . 80 }'`, 6, true},
	{"a publish", `nft delete element inet patchbay any_ports4 '{ sctp . 9 }'`, 1, false},
	{"a changed publish", `nft delete element inet patchbay any_ports4 '{ tcp . 8001 }'
		nft add element inet patchbay any_ports4 '{ tcp . 8001 comment "local" : 10.68.0.66 . 80 }'`, 1, true},
	{"an element of nobody", `nft add element inet patchbay any_ports4 '{ tcp . 9999 : 10.68.0.66 . 80 }'`, 0, false},
	{"an element in our place", `nft delete element inet patchbay ours '{ "br-red" }'; nft add element inet patchbay ours '{ "br-red" }'`, 1, false},
	{"a slot", `nft delete element inet patchbay any_slots4 '{ tcp . 8004 . 7 }'`, 1, true},
	{"a slot led elsewhere", `nft delete element inet patchbay addr_slots6 '{ 2001:db8::1 . sctp . 8004 . 119 }'
		nft add element inet patchbay addr_slots6 '{ 2001:db8::1 . sctp . 8004 . 119 comment "local" : fd00:68::66 . 80 }'`, 1, true},
	{"slots of nobody", `nft add element inet patchbay any_slots4 '{ tcp . 9999 . 0 : 10.68.0.66 . 80, tcp . 9999 . 1 : 10.68.0.66 . 80 }'`, 0, false},
	{"all slots and one target instead", `nft flush map inet patchbay addr_slots4
		nft add element inet patchbay addr_ports4 '{ 192.0.2.1 . udp . 8004 comment "local" : 10.68.0.101 . 80 }'`, 1, false},
	{"a target before the slots", `nft add element inet patchbay any_ports6 '{ tcp . 8004 comment "local" : fd00:68::101 . 80 }'`, 1, true},
	{"masquerading of one of the targets", `nft delete element inet patchbay masq_targets4 '{ 10.68.0.103 . tcp . 80 }'`, 2, true},
	{"a range", `nft delete element inet patchbay any_ranges4 '{ tcp . 9000-9010 }'`, 1, false},
	{"a range led elsewhere", `nft delete element inet patchbay addr_ranges6 '{ 2001:db8::1 . tcp . 9005-9015 }'
		nft add element inet patchbay addr_ranges6 '{ 2001:db8::1 . tcp . 9005-9015 comment "local" : fd00:68::66 }'`, 1, false},
	{"a part of a range", `nft delete element inet patchbay any_ranges4 '{ tcp . 9000-9010 }'
		nft add element inet patchbay any_ranges4 '{ tcp . 9000-9005 comment "local" : 10.68.0.101 }'`, 1, false},
	{"the target of a range", `nft delete element inet patchbay addr_target_ranges4 '{ 10.68.0.101 . tcp . 9005-9015 . 192.0.2.1 }'`, 1, true},
	{"masquerading of a range", `nft delete element inet patchbay any_masq_ranges4 '{ 10.68.0.103 . udp . 20000-65535 }'`, 1, true},
	{"a port of a shifted range", `nft delete element inet patchbay any_ports4 '{ sctp . 9002 }'`, 1, true},
	{"the first port of a shifted range led elsewhere", `nft delete element inet patchbay any_ports4 '{ sctp . 9000 }'
		nft add element inet patchbay any_ports4 '{ sctp . 9000 comment "local 9000-9003" : 10.68.0.101 . 8001 }'`, 1, false},
	{"a gate", `nft delete element inet patchbay any_gates4 '{ tcp . 8010 }'`, 1, true},
	{"a gate of a port for everyone", `nft add element inet patchbay any_gates4 '{ tcp . 8001 comment "local" }'`, 1, true},
	{"a gate of nothing", `nft add element inet patchbay any_gates4 '{ tcp . 7000 comment "local" }'`, 0, false},
	{"somebody else's gate", `nft add element inet patchbay addr_gates6 '{ 2001:db8::1 . tcp . 9005-9015 }'`, 0, false},
	{"a source", `nft delete element inet patchbay any_sources4 '{ tcp . 8010 . 198.51.100.0/25 }'`, 1, true},
	{"a source added", `nft add element inet patchbay addr_sources4 '{ 192.0.2.1 . tcp . 9100-9103 . 198.51.100.0/24 comment "local" }'`, 1, true},
	{"all sources", `nft flush set inet patchbay any_sources6`, 1, true},
	{"the guard of loopback", `nft flush set inet patchbay loopback`, 1, true},
	{"the chain that guards loopback", `nft flush chain inet patchbay arriving; nft delete chain inet patchbay arriving`, 0, false},
	{"an interval", `nft add element inet patchbay masq4 '{ 10.99.0.1-10.99.0.6 }'`, 0, false},
	{"an egress masquerade", `nft delete element inet patchbay masq4 '{ 10.68.0.0/24 }'`, 1, true},
	{"a contradiction", `nft add element bridge patchbay own_mac '{ "veth1" . 02:00:00:00:00:01 comment "local" }'`, 1, true},
	{"both same and isolated", `nft add element inet patchbay isolated '{ "br-red" . "br-red" comment "local" }'`, 1, true},
	{"a guard", `nft delete element inet patchbay guarded '{ "br-red" }'`, 1, true},
	{"a neighbour target", `nft delete element bridge patchbay own_nd6 '{ "veth1" . 02:42:0a:44:00:65 . 0xfd000068000000000000000000000101 }'`, 1, true},
	{"a rule", `nft delete rule inet patchbay into handle $(nft -a list chain inet patchbay into | sed -n 's/.*established.*handle //p')`, 0, false},
	{"a rule added", `nft insert rule inet patchbay forward accept`, 0, false},
	{"a rule replaced", `nft replace rule inet patchbay output handle $(nft -a list chain inet patchbay output | sed -n 's/.*local goto.*handle //p') accept`, 0, false},
	{"all rules", `nft flush table inet patchbay`, 0, false},
	{"a chain", `nft flush chain inet patchbay prerouting; nft delete chain inet patchbay prerouting`, 0, false},
	{"a chain elsewhere", `nft flush chain inet patchbay prerouting; nft delete chain inet patchbay prerouting
		nft add chain inet patchbay prerouting '{ type nat hook prerouting priority -101; policy accept; }'`, 0, false},
	{"a policy", `nft add chain inet patchbay forward '{ policy drop; }'`, 0, false},
	{"a chain added", `nft add chain inet patchbay mine; nft add rule inet patchbay publish jump mine`, 0, false},
	{"a set", `nft flush table inet patchbay; nft delete map inet patchbay any_ports4`, 7, false},
	{"a set of another type", `nft flush table inet patchbay; nft delete set inet patchbay ours
		nft add set inet patchbay ours '{ type mark; }'`, 4, false},
	{"a set added", `nft add set inet patchbay mine '{ type mark; }'`, 0, false},
	{"a counter added", `nft add counter inet patchbay mine`, 0, false},
	{"the bridge table", `nft delete table bridge patchbay`, 11, true},
	{"the inet table", `nft delete table inet patchbay`, -1, true},
	{"everything", `nft flush ruleset`, -1, true},
}

func TestDrift(t *testing.T) {
	if !sandbox.Enter(t) {
		return
	}
	want := firewalltest.Rich()
	b := backend(t, netstate.SourceLocal)
	firewalltest.Apply(t, b, firewalltest.Creates(firewalltest.List(want)...))
	whole := firewalltest.Ruleset(t)
	w := firewalltest.WatchAll(t, b)
	for _, d := range damages {
		t.Run(d.name, func(t *testing.T) {
			netlab.Shell(t, d.command)
			w.Fires(t)
			other := loaded(t, netstate.SourceLocal)
			firewalltest.Same(t, "intact", d.intact, other.Intact())
			if n := len(missing(other, want)); n != d.lost && (d.lost >= 0 || n < 20) {
				t.Errorf("%d objects are missing, want %d: %v", n, d.lost, missing(other, want))
			}
			before := b.Transactions()
			repair(t, b, want)
			firewalltest.Same(t, "transactions", before+1, b.Transactions())
			firewalltest.Same(t, "ruleset", whole, firewalltest.Ruleset(t))
			firewalltest.Same(t, "intact after Apply", true, b.Intact())
			other = loaded(t, netstate.SourceLocal)
			firewalltest.Same(t, "intact after Load", true, other.Intact())
			firewalltest.Same(t, "held", want, other.Held())
		})
	}
}

// TestWatchIsSilent relies on events being in order: once a foreign change has been told
// of, Patchbay's own would have been.
func TestWatchIsSilent(t *testing.T) {
	if !sandbox.Enter(t) {
		return
	}
	b := backend(t, netstate.SourceLocal)
	w := firewalltest.WatchAll(t, b)
	want := netstate.Set{}
	for i := range 2000 {
		want.Add(firewalltest.Publish("0.0.0.0", "udp", uint16(20000+i), fmt.Sprintf("10.68.0.%d:80", 1+i%250)))
	}
	firewalltest.Apply(t, b, firewalltest.Creates(firewalltest.List(want)...))
	netlab.Shell(t, "nft add table inet other; nft add chain inet other patchbay; nft add table ip patchbay")
	for _, o := range firewalltest.List(want)[:30] {
		firewalltest.Apply(t, b, firewalltest.Deletes(o))
	}
	firewalltest.Apply(t, b, firewalltest.Deletes(firewalltest.List(want)[30:]...))
	firewalltest.Apply(t, b, firewalltest.Creates(firewalltest.List(firewalltest.Rich())...))
	firewalltest.Same(t, "calls so far", 0, len(w))
	netlab.Shell(t, "nft delete table bridge patchbay")
	w.Fires(t)
	firewalltest.Same(t, "further calls", 0, len(w))
}

func TestWatchEnds(t *testing.T) {
	if !sandbox.Enter(t) {
		return
	}
	b := backend(t, netstate.SourceLocal)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(firewalltest.Watcher, 10)
	if err := b.Watch(ctx, func() { ended <- struct{}{} }); err != nil {
		t.Fatal(err)
	}
	cancel()
	lasting := firewalltest.WatchAll(t, b)
	netlab.Shell(t, "nft add table inet patchbay")
	lasting.Fires(t)
	firewalltest.Same(t, "calls after the end", 0, len(ended))
}

func TestSources(t *testing.T) {
	if !sandbox.Enter(t) {
		return
	}
	eachKind(t, sources)
}

func sources(t *testing.T, k kind) {
	local, cluster := k.open(t, netstate.SourceLocal), k.open(t, netstate.SourceCluster)
	mine, theirs := firewalltest.Publish("0.0.0.0", "tcp", 8001, "10.68.0.101:80"), firewalltest.Publish("0.0.0.0", "tcp", 8002, "10.68.0.101:80")
	firewalltest.Apply(t, local, firewalltest.Creates(mine, netstate.LinkPolicy{Link: "br-red"}))
	firewalltest.Apply(t, cluster, firewalltest.Creates(theirs, netstate.LinkPolicy{Link: "br-blue"}))
	if err := local.Load(); err != nil {
		t.Fatal(err)
	}
	firewalltest.Same(t, "what local holds", netstate.Set{}.Add(mine, netstate.LinkPolicy{Link: "br-red"}), local.Held())
	firewalltest.Same(t, "what local sees of the other's", netstate.Set{}, local.Observe([]netstate.Key{theirs.Key()}))
	firewalltest.Apply(t, local, firewalltest.Deletes(theirs))
	if err := local.Apply(firewalltest.Creates(firewalltest.Publish("0.0.0.0", "tcp", 8002, "10.68.0.7:80"))); err == nil {
		t.Error("local took a port that cluster publishes")
	}
	firewalltest.Apply(t, local, firewalltest.Deletes(mine, netstate.LinkPolicy{Link: "br-red"}))
	firewalltest.Same(t, "what local holds at the end", netstate.Set{}, k.loaded(t, netstate.SourceLocal).Held())
	repair(t, cluster, netstate.Set{}.Add(theirs, netstate.LinkPolicy{Link: "br-blue"}))
	firewalltest.Same(t, "what cluster holds", netstate.Set{}.Add(theirs, netstate.LinkPolicy{Link: "br-blue"}), k.loaded(t, netstate.SourceCluster).Held())
	if err := local.Clean(); err != nil {
		t.Fatal(err)
	}
	firewalltest.Same(t, "what is left", "", firewall(t))
}

func TestShared(t *testing.T) {
	if !sandbox.Enter(t) {
		return
	}
	eachKind(t, shares)
}

func shares(t *testing.T, k kind) {
	one, two := firewalltest.Publish("0.0.0.0", "tcp", 1, "10.68.0.101:80"), firewalltest.Publish("0.0.0.0", "tcp", 2, "10.68.0.101:80")
	b := k.open(t, netstate.SourceLocal)
	firewalltest.Apply(t, b, firewalltest.Creates(one, two))
	b = k.loaded(t, netstate.SourceLocal)
	firewalltest.Apply(t, b, firewalltest.Deletes(one))
	again := k.loaded(t, netstate.SourceLocal)
	firewalltest.Same(t, "held", netstate.Set{}.Add(two), again.Observe([]netstate.Key{one.Key(), two.Key()}))
	firewalltest.Same(t, "intact", true, again.Intact())
	moved := firewalltest.Publish("0.0.0.0", "tcp", 2, "10.68.0.102:80")
	firewalltest.Apply(t, again, firewalltest.Updates(two, moved))
	firewalltest.Same(t, "held after the move", netstate.Set{}.Add(moved), k.loaded(t, netstate.SourceLocal).Held())
	firewalltest.Same(t, "intact after the move", true, k.loaded(t, netstate.SourceLocal).Intact())
	clean(t, again)
}

// TestUpdates changes every property of every object.
func TestUpdates(t *testing.T) {
	if !sandbox.Enter(t) {
		return
	}
	eachKind(t, updatesAll)
}

func updatesAll(t *testing.T, k kind) {
	subnet, subnet6 := firewalltest.Prefix("10.68.0.0/24"), firewalltest.Prefix("fd00:68::/64")
	chains := [][]netstate.Object{
		{netstate.LinkPolicy{Link: "br-red"}, netstate.LinkPolicy{Link: "br-red", Guarded: true}, netstate.LinkPolicy{Link: "br-red", Isolated: true}},
		{netstate.PortFilter{Link: "veth1", MAC: firewalltest.MacA}, netstate.PortFilter{Link: "veth1", MAC: firewalltest.MacB}},
		{netstate.PortAddress{Link: "veth1", MAC: firewalltest.MacA, Addr: firewalltest.Addr("10.68.0.1")}, netstate.PortAddress{Link: "veth1", MAC: firewalltest.MacB, Addr: firewalltest.Addr("10.68.0.1")}},
		{netstate.PortAddress{Link: "veth1", MAC: firewalltest.MacA, Addr: firewalltest.Addr("fd00::1")}, netstate.PortAddress{Link: "veth1", MAC: firewalltest.MacB, Addr: firewalltest.Addr("fd00::1")}},
		{netstate.Masquerade{Link: "br-red", Subnet: subnet}, netstate.Masquerade{Link: "br-red", Subnet: subnet, Egress: true},
			netstate.Masquerade{Link: "br-red", Subnet: subnet, Egress: true, Source: firewalltest.Addr("192.0.2.1")},
			netstate.Masquerade{Link: "br-red", Subnet: subnet, Egress: true, Source: firewalltest.Addr("192.0.2.2")}},
		{netstate.Masquerade{Link: "br-red", Subnet: subnet6}, netstate.Masquerade{Link: "br-red", Subnet: subnet6, Egress: true, Source: firewalltest.Addr("2001:db8::1")}},
		{firewalltest.Publish("192.0.2.1", "udp", 53, "10.68.0.101:53"), firewalltest.Publish("192.0.2.1", "udp", 53, "10.68.0.102:5353"), firewalltest.Back(firewalltest.Publish("192.0.2.1", "udp", 53, "10.68.0.102:5353")),
			firewalltest.Balance("192.0.2.1", "udp", 53, "10.68.0.101:53", "10.68.0.102:5353"), firewalltest.Balance("192.0.2.1", "udp", 53, "10.68.0.101:53", "10.68.0.103:53"),
			firewalltest.PartlyBack(firewalltest.Balance("192.0.2.1", "udp", 53, "10.68.0.101:53", "10.68.0.103:53"), "10.68.0.103:53"), firewalltest.Balance("192.0.2.1", "udp", 53, firewalltest.Many(netstate.MaxTargets)...)},
		{firewalltest.Publish("::", "tcp", 80, "[fd00:68::1]:80"), firewalltest.Balance("::", "tcp", 80, "[fd00:68::1]:80", "[fd00:68::2]:80", "[fd00:68::3]:80")},
	}
	b := k.open(t, netstate.SourceLocal)
	for _, chain := range chains {
		if len(able(b, netstate.Set{}.Add(chain...))) == 0 {
			continue
		}
		for _, from := range chain {
			for _, to := range chain {
				firewalltest.Apply(t, b, firewalltest.Updates(to, from))
				before := b.Transactions()
				firewalltest.Apply(t, b, firewalltest.Updates(from, to))
				if d := b.Transactions() - before; from == to && d != 0 || from != to && d != 1 && (d > 2 || d == 0 || k.name == KindNFTables) {
					t.Errorf("%s: %s to %s took %d transactions", from.Key(), from, to, d)
				}
				again := k.loaded(t, netstate.SourceLocal)
				firewalltest.Same(t, fmt.Sprintf("%s: %s to %s", from.Key(), from, to), netstate.Set{}.Add(to), again.Observe([]netstate.Key{to.Key()}))
				firewalltest.Same(t, "intact", true, again.Intact())
			}
		}
		firewalltest.Apply(t, b, firewalltest.Deletes(chain[0]))
		firewalltest.Same(t, "what is left", "", firewall(t))
	}
}

func TestRefusals(t *testing.T) {
	if !sandbox.Enter(t) {
		return
	}
	b := backend(t, netstate.SourceLocal)
	for _, o := range []netstate.Object{
		netstate.LinkPolicy{Link: `br" }; flush ruleset; #`},
		netstate.LinkPolicy{Link: "a name of many bytes"},
		netstate.PortFilter{Link: ""},
		netstate.PortAddress{Link: "veth1", Addr: firewalltest.Addr("fe80::1%eth0")},
		netstate.ForwardGuard{Family: "arp"},
		netstate.Masquerade{Link: "br-red", Subnet: firewalltest.Prefix("10.0.0.1/24")},
		netstate.Masquerade{Link: "br-red", Subnet: firewalltest.Prefix("10.0.0.0/24"), Egress: true, Source: firewalltest.Addr("fd00::1")},
		netstate.NoMasquerade{Link: "br-red", Subnet: firewalltest.Prefix("10.0.0.0/24"), Dst: firewalltest.Prefix("fd00::/64")},
		firewalltest.Publish("::", "tcp", 80, "10.0.0.1:80"),
		firewalltest.Publish("0.0.0.0", "icmp", 80, "10.0.0.1:80"),
		firewalltest.Publish("0.0.0.0", "tcp", 0, "10.0.0.1:80"),
		firewalltest.Balance("0.0.0.0", "tcp", 80),
		firewalltest.Balance("0.0.0.0", "tcp", 80, "10.0.0.1:80", "[fd00::1]:80"),
		firewalltest.Balance("0.0.0.0", "tcp", 80, "10.0.0.1:0", "10.0.0.2:80"),
		firewalltest.PartlyBack(firewalltest.Balance("0.0.0.0", "tcp", 80, "10.0.0.1:80", "10.0.0.2:80"), "10.0.0.3:80"),
		netstate.Publish{Host: firewalltest.Addr("0.0.0.0"), Proto: "tcp", HostPort: 80, Targets: "10.0.0.2:80,10.0.0.1:80"},
		netstate.Publish{Host: firewalltest.Addr("0.0.0.0"), Proto: "tcp", HostPort: 80, Targets: "10.0.0.1:80,10.0.0.1:80"},
		netstate.Publish{Host: firewalltest.Addr("0.0.0.0"), Proto: "tcp", HostPort: 80, Targets: "10.0.0.1:80 }; flush ruleset; #"},
		firewalltest.Balance("0.0.0.0", "tcp", 80, firewalltest.Many(netstate.MaxTargets+1)...),
		netstate.LoopbackGuard{Link: `br" }; flush ruleset; #`},
		netstate.WayBack{Link: "wan2", TargetLink: "br-red", Way: netstate.WaysBack + 1},
		netstate.WayBack{Link: "wan2", TargetLink: `br" }; flush ruleset; #`, Way: 1},
		firewalltest.Ranged("0.0.0.0", "tcp", 80, 80, "10.0.0.1:80"),
		firewalltest.Ranged("0.0.0.0", "tcp", 80, 79, "10.0.0.1:80"),
		firewalltest.Ranged("0.0.0.0", "tcp", 80, 90, "10.0.0.1:65530"),
		firewalltest.Ranged("0.0.0.0", "tcp", 80, 80+netstate.MaxShifted, "10.0.0.1:81"),
		netstate.Publish{Host: firewalltest.Addr("0.0.0.0"), Proto: "tcp", HostPort: 80, HostPortEnd: 81, Targets: firewalltest.Targets("10.0.0.1:90", "10.0.0.2:90")},
		netstate.Publish{Host: firewalltest.Addr("0.0.0.0"), Proto: "tcp", HostPort: 80, Targets: "10.0.0.1:80", Sources: "10.0.0.0/8,10.1.0.0/16"},
		netstate.Publish{Host: firewalltest.Addr("0.0.0.0"), Proto: "tcp", HostPort: 80, Targets: "10.0.0.1:80", Sources: "anybody"},
		firewalltest.From(firewalltest.Publish("0.0.0.0", "tcp", 80, "10.0.0.1:80"), "fd00::/8"),
		netstate.Netns{Name: "net1"},
	} {
		if err := b.Apply(firewalltest.Creates(o, netstate.LinkPolicy{Link: "br-ok"})); err == nil {
			t.Errorf("%s %s was applied", o.Key(), o)
		}
	}
	firewalltest.Same(t, "ruleset", "", firewalltest.Ruleset(t))
	for _, kind := range []string{"ipchains", "ebtables"} {
		if _, err := New(kind, Options{Source: netstate.SourceLocal}); err == nil {
			t.Errorf("there is a backend %s", kind)
		}
	}
	if _, err := New(KindAuto, Options{Source: "elsewhere"}); err == nil {
		t.Error("there is a source elsewhere")
	}
}

// TestNestedExclusions has exclusions within wider ones, which no interval set can hold.
func TestNestedExclusions(t *testing.T) {
	if !sandbox.Enter(t) {
		return
	}
	eachKind(t, nestedExclusions)
}

func nestedExclusions(t *testing.T, k kind) {
	all := netstate.Set{}
	for _, dst := range []string{"10.1.2.0/24", "10.0.0.0/8", "10.1.0.0/16", "10.0.0.0/24", "192.168.0.0/16", "0.0.0.0/0"} {
		all.Add(netstate.NoMasquerade{Link: "br-red", Subnet: firewalltest.Prefix("10.68.0.0/24"), Dst: firewalltest.Prefix(dst)})
	}
	b := k.open(t, netstate.SourceLocal)
	for _, o := range firewalltest.List(all) {
		firewalltest.Apply(t, b, firewalltest.Creates(o))
	}
	firewalltest.Same(t, "observed", all, b.Observe(all.Keys()))
	again := k.loaded(t, netstate.SourceLocal)
	firewalltest.Same(t, "observed after Load", all, again.Observe(all.Keys()))
	gen := firewalltest.Generation(t)
	firewalltest.Apply(t, again, firewalltest.Creates(firewalltest.List(all)...))
	firewalltest.Same(t, "generation", gen, firewalltest.Generation(t))
	for _, dst := range []string{"0.0.0.0/0", "10.0.0.0/8"} {
		gone := netstate.NoMasquerade{Link: "br-red", Subnet: firewalltest.Prefix("10.68.0.0/24"), Dst: firewalltest.Prefix(dst)}
		delete(all, gone.Key())
		firewalltest.Apply(t, again, firewalltest.Deletes(gone))
		third := k.loaded(t, netstate.SourceLocal)
		firewalltest.Same(t, "observed without "+dst, all, third.Observe(append(all.Keys(), gone.Key())))
	}
	firewalltest.Apply(t, again, firewalltest.Deletes(firewalltest.List(all)...))
	firewalltest.Same(t, "what is left", "", firewall(t))
}
