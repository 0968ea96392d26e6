package firewall

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/patchbay-dev/patchbay/nodeagent/firewall/book"
	"github.com/patchbay-dev/patchbay/nodeagent/firewall/firewalltest"
	"github.com/patchbay-dev/patchbay/nodeagent/firewall/iptables"
	"github.com/patchbay-dev/patchbay/nodeagent/firewall/iptsave"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
	"github.com/patchbay-dev/patchbay/test/netlab"
	"github.com/patchbay-dev/patchbay/test/sandbox"
)

// richIP has what rich has and iptables holds, and more of its own.
func richIP() netstate.Set {
	s := netstate.Set{}
	for _, o := range firewalltest.List(firewalltest.Rich()) {
		if (&iptables.Driver{}).Check(o) == nil {
			s.Add(o)
		}
	}
	return s.Add(
		firewalltest.From(firewalltest.Balance("2001:db8::1", "tcp", 8005, "[fd00:68::101]:80", "[fd00:68::102]:80"), "2001:db8::/32"),
		firewalltest.Back(firewalltest.Publish("127.0.0.1", "tcp", 8003, "10.68.0.103:80")),
		firewalltest.Publish("169.254.20.10", "udp", 53, "10.68.0.101:53"),
	).Add(firewalltest.OpeningsOf("br-red")...)
}

// TestOpeningsRefused has openings that name what no rule can be made of.
func TestOpeningsRefused(t *testing.T) {
	to := netip.MustParseAddrPort("10.68.0.101:80")
	for _, o := range []netstate.Opening{
		{Family: "ipx", Link: "br-red"},
		{Family: netstate.IPv4, Link: "br red"},
		{Family: netstate.IPv4, Link: "br-red", Out: "eth+"},
		{Family: netstate.IPv4, Link: "br-red", Out: "eth0", To: to, Proto: "tcp"},
		{Family: netstate.IPv4, Link: "br-red", To: to},
		{Family: netstate.IPv4, Link: "br-red", To: to, Proto: "icmp"},
		{Family: netstate.IPv4, Link: "br-red", To: to, End: 79, Proto: "tcp"},
		{Family: netstate.IPv6, Link: "br-red", To: to, Proto: "tcp"},
		{Family: netstate.IPv4, Link: "br-red", Proto: "tcp"},
	} {
		if book.Check(o) == nil {
			t.Errorf("%+v is not refused", o)
		}
	}
}

func eachVariant(t *testing.T, test func(*testing.T, kind, iptsave.Variant)) {
	t.Helper()
	for _, k := range kinds {
		if v, ok := strings.CutPrefix(k.name, KindIPTables+"-"); ok {
			runKind(t, k, k.name, func(t *testing.T, k kind) { test(t, k, iptsave.Variant(v)) })
		}
	}
}

func TestIPTables(t *testing.T) {
	if !sandbox.Enter(t) {
		return
	}
	eachVariant(t, func(t *testing.T, k kind, v iptsave.Variant) {
		want := richIP()
		b := k.open(t, netstate.SourceLocal)
		firewalltest.Apply(t, b, firewalltest.Creates(firewalltest.List(want)...))
		// Both variants list the same.
		firewalltest.Golden(t, "iptables.rules", tablesOf(t, v))
		firewalltest.Same(t, "observed", want, b.Observe(want.Keys()))
		again := k.loaded(t, netstate.SourceLocal)
		firewalltest.Same(t, "held by another", want, again.Held())
		firewalltest.Same(t, "observed by another", want, again.Observe(want.Keys()))
		firewalltest.Same(t, "intact", true, again.Intact())
		firewalltest.Apply(t, again, firewalltest.Creates(firewalltest.List(want)...))
		firewalltest.Same(t, "transactions", uint64(0), again.Transactions())
		firewalltest.Apply(t, again, firewalltest.Deletes(firewalltest.List(want)...))
		firewalltest.Same(t, "what is left", "", firewall(t))
	})
}

var ipDamages = []struct {
	name, command string
	// lost is how many objects are no longer observed; -1 is most.
	lost   int
	intact bool
}{
	{"a target", `iptables -D PATCHBAY-INTO $(iptables -S PATCHBAY-INTO | grep -n 'publish 0.0.0.0:9/sctp' | cut -d: -f1 | awk '{print $1-1}')`, 1, true},
	{"a publish", `iptables -t nat -F PATCHBAY-ANY`, -2, true},
	{"a rule of nobody", `iptables -t nat -A PATCHBAY-ANY -p tcp --dport 9999 -j DNAT --to 10.68.0.66:80`, 0, false},
	{"a rule in our name", `iptables -t nat -A PATCHBAY-ANY -p tcp --dport 9999 -m comment --comment "patchbay:local:publish 0.0.0.0:9/sctp" -j DNAT --to 10.68.0.66:80`, 1, true},
	{"a rule twice", `iptables -A PATCHBAY-REALM -o br-red -m comment --comment "patchbay:local:isolation br-red" -g PATCHBAY-INTO`, 1, true},
	{"a share", `iptables -t nat -D $(iptables -t nat -S | grep -m1 -o 'PATCHBAY-T-[0-9a-f]*$') 1`, 1, true},
	{"an empty chain of a publish", `iptables -t nat -F $(iptables -t nat -S | grep -m1 -o 'PATCHBAY-T-[0-9a-f]*$')`, 1, true},
	{"the end of a chain", `iptables -D PATCHBAY-INTO -m comment --comment patchbay -j DROP`, 0, false},
	{"the start of a chain", `iptables -I PATCHBAY-INTO -j RETURN`, 0, false},
	{"a chain added", `iptables -N PATCHBAY-MINE; iptables -A PATCHBAY-MINE -j DROP`, 0, false},
	{"a jump", `iptables -t nat -D PREROUTING -m addrtype --dst-type LOCAL -m comment --comment patchbay -j PATCHBAY-PUBLISH`, 0, false},
	{"a jump for all", `ip6tables -t nat -A POSTROUTING -j PATCHBAY-POSTROUTING`, 0, false},
	{"a jump from elsewhere", `iptables -t nat -A OUTPUT -j PATCHBAY-ANY`, 0, false},
	{"somebody before us", `iptables -I FORWARD -i br-x -j ACCEPT`, 0, false},
	{"-F", `iptables -F`, -1, false},
	{"-t nat -F", `iptables -t nat -F; ip6tables -t nat -F`, -1, false},
	{"-F and -X", `iptables -t nat -F; iptables -t nat -X; iptables -F; iptables -X; iptables -t raw -F; iptables -t raw -X`, -1, true},
}

// TestIPTablesDrift has foreign rules stay, and Patchbay's come back.
func TestIPTablesDrift(t *testing.T) {
	if !sandbox.Enter(t) {
		return
	}
	eachVariant(t, func(t *testing.T, k kind, v iptsave.Variant) {
		want := richIP()
		b := k.open(t, netstate.SourceLocal)
		netlab.Shell(t, variantsOf(v, `iptables -A FORWARD -i br-y -j ACCEPT; iptables -t nat -A PREROUTING -p tcp --dport 7 -j ACCEPT`))
		firewalltest.Apply(t, b, firewalltest.Creates(firewalltest.List(want)...))
		whole := tablesOf(t, v)
		w := firewalltest.WatchAll(t, b)
		for _, d := range ipDamages {
			t.Run(d.name, func(t *testing.T) {
				netlab.Shell(t, variantsOf(v, d.command))
				w.Fires(t)
				other := k.loaded(t, netstate.SourceLocal)
				firewalltest.Same(t, "intact", d.intact, other.Intact())
				n := len(missing(other, want))
				if n != d.lost && d.lost >= 0 || d.lost == -1 && n < 15 || d.lost == -2 && n < 5 {
					t.Errorf("%d objects are missing, want %d: %v", n, d.lost, missing(other, want))
				}
				repair(t, b, want)
				firewalltest.Same(t, "intact after Apply", true, b.Intact())
				netlab.Shell(t, variantsOf(v, `iptables -D FORWARD -i br-x -j ACCEPT 2>/dev/null || true`))
				again := k.loaded(t, netstate.SourceLocal)
				firewalltest.Same(t, "intact after Load", true, again.Intact())
				firewalltest.Same(t, "held", want, again.Held())
				if d.name == "-F" || d.name == "-t nat -F" || d.name == "-F and -X" {
					// The foreign rules went as well.
					netlab.Shell(t, variantsOf(v, `iptables -C FORWARD -i br-y -j ACCEPT 2>/dev/null || iptables -A FORWARD -i br-y -j ACCEPT
						iptables -t nat -C PREROUTING -p tcp --dport 7 -j ACCEPT 2>/dev/null || iptables -t nat -I PREROUTING -p tcp --dport 7 -j ACCEPT`))
				}
				firewalltest.Same(t, "rules", sortedLines(whole), sortedLines(tablesOf(t, v)))
			})
			drain(w)
		}
	})
}

func drain(w firewalltest.Watcher) {
	for len(w) > 0 {
		<-w
	}
}

// variantsOf has a command use the programs of a variant.
func variantsOf(v iptsave.Variant, command string) string {
	return "iptables() { command iptables-" + string(v) + ` "$@"; }; ip6tables() { command ip6tables-` + string(v) + ` "$@"; }; ` + command
}

// sortedLines compares rules whose order within a chain does not matter.
func sortedLines(text string) map[string]int {
	n := map[string]int{}
	for l := range strings.Lines(text) {
		n[l]++
	}
	return n
}

// TestIPTablesWatchIsSilent has other programs change their rules, and the backend its own.
func TestIPTablesWatchIsSilent(t *testing.T) {
	if !sandbox.Enter(t) {
		return
	}
	eachVariant(t, func(t *testing.T, k kind, v iptsave.Variant) {
		b := k.open(t, netstate.SourceLocal)
		firewalltest.Apply(t, b, firewalltest.Creates(netstate.LinkPolicy{Link: "br-red", Guarded: true}))
		w := firewalltest.WatchAll(t, b)
		for i := range 20 {
			firewalltest.Apply(t, b, firewalltest.Creates(firewalltest.Publish("0.0.0.0", "tcp", uint16(8000+i), "10.68.0.101:80")))
		}
		netlab.Shell(t, variantsOf(v, `iptables -N SITE; iptables -A SITE -p tcp --dport 23 -j DROP; iptables -A INPUT -j SITE`))
		firewalltest.Apply(t, b, firewalltest.Deletes(firewalltest.Publish("0.0.0.0", "tcp", 8000, "10.68.0.101:80")))
		firewalltest.Same(t, "calls so far", 0, len(w))
		netlab.Shell(t, variantsOf(v, `iptables -F PATCHBAY-INTO`))
		w.Fires(t)
		repair(t, b, b.Held())
		// A change between two of the backend is not taken for its own.
		netlab.Shell(t, variantsOf(v, `iptables -F PATCHBAY-REALM`))
		firewalltest.Apply(t, b, firewalltest.Creates(firewalltest.Publish("0.0.0.0", "tcp", 9000, "10.68.0.101:80")))
		w.Fires(t)
		netlab.Shell(t, variantsOf(v, `iptables -F INPUT; iptables -F SITE; iptables -X SITE`))
		clean(t, b)
	})
}

func TestIPTablesThousands(t *testing.T) {
	if !sandbox.Enter(t) {
		return
	}
	eachVariant(t, func(t *testing.T, k kind, _ iptsave.Variant) {
		want := netstate.Set{}
		for i := range 2000 {
			want.Add(firewalltest.Publish("0.0.0.0", "tcp", uint16(20000+i), fmt.Sprintf("10.68.%d.%d:80", i/250, 1+i%250)))
		}
		b := k.open(t, netstate.SourceLocal)
		firewalltest.Apply(t, b, firewalltest.Creates(firewalltest.List(want)...))
		again := k.loaded(t, netstate.SourceLocal)
		firewalltest.Same(t, "observed", len(want), len(again.Observe(want.Keys())))
		firewalltest.Same(t, "intact", true, again.Intact())
		before := again.Transactions()
		firewalltest.Apply(t, again, firewalltest.Deletes(firewalltest.List(want)[7]))
		firewalltest.Same(t, "transactions of one fewer", before+1, again.Transactions())
		firewalltest.Apply(t, again, firewalltest.Deletes(firewalltest.List(want)...))
		firewalltest.Same(t, "what is left", "", firewall(t))
	})
}

func TestIPTablesRefusals(t *testing.T) {
	if !sandbox.Enter(t) {
		return
	}
	b := ipBackend(t, iptsave.NFT, Options{Source: netstate.SourceLocal})
	for _, o := range []netstate.Object{
		netstate.LinkPolicy{Link: "br -j ACCEPT\nCOMMIT"},
		netstate.PortFilter{Link: "veth1", MAC: firewalltest.MacA},
		netstate.PortAddress{Link: "veth1", MAC: firewalltest.MacA, Addr: firewalltest.Addr("10.68.0.101")},
		firewalltest.Ranged("0.0.0.0", "tcp", 80, 80, "10.0.0.1:80"),
		firewalltest.Ranged("0.0.0.0", "tcp", 80, 81, "10.0.0.1:65535"),
		firewalltest.From(firewalltest.Publish("0.0.0.0", "tcp", 80, "10.0.0.1:80"), "fd00::/64"),
		netstate.Publish{Host: firewalltest.Addr("0.0.0.0"), Proto: "tcp", HostPort: 80, Targets: "10.0.0.1:80", Sources: "10.0.0.1/8"},
	} {
		if err := b.Apply(firewalltest.Creates(o, netstate.LinkPolicy{Link: "br-ok"})); err == nil {
			t.Errorf("%s %s was applied", o.Key(), o)
		}
	}
	firewalltest.Same(t, "what is left", "", firewall(t))
}
