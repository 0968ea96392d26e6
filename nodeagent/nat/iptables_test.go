package nat

import (
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
	"github.com/patchbay-dev/patchbay/test/sandbox"
)

// richIP has what rich has and iptables holds, and more of its own.
func richIP() netstate.Set {
	s := netstate.Set{}
	for _, o := range list(rich()) {
		if checkIPTables(o) == nil {
			s.Add(o)
		}
	}
	return s.Add(
		from(balance("2001:db8::1", "tcp", 8005, "[fd00:68::101]:80", "[fd00:68::102]:80"), "2001:db8::/32"),
		back(publish("127.0.0.1", "tcp", 8003, "10.68.0.103:80")),
		publish("169.254.20.10", "udp", 53, "10.68.0.101:53"),
	).Add(openingsOf("br-red")...)
}

// openingsOf has openings of every sort.
func openingsOf(link string) []netstate.Object {
	return []netstate.Object{
		netstate.Opening{Family: netstate.IPv4, Link: link},
		netstate.Opening{Family: netstate.IPv4, Link: link, Out: "eth0.100"},
		netstate.Opening{Family: netstate.IPv4, Link: "br-lan", To: netip.MustParseAddrPort("10.68.0.101:80"), Proto: "tcp"},
		netstate.Opening{Family: netstate.IPv6, Link: link},
		netstate.Opening{Family: netstate.IPv6, Link: link, Out: "wan0"},
		netstate.Opening{Family: netstate.IPv6, Link: "br-lan", To: netip.MustParseAddrPort("[fd00:68::101]:80"), End: 90, Proto: "udp"},
		netstate.Opening{Family: netstate.IPv6, Link: "br-lan", To: netip.MustParseAddrPort("[fd00:68::101]:80"), Proto: "sctp"},
	}
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
		if validate(o) == nil {
			t.Errorf("%+v is not refused", o)
		}
	}
}

func eachVariant(t *testing.T, test func(*testing.T, kind, variant)) {
	t.Helper()
	for _, k := range kinds {
		if v, ok := strings.CutPrefix(k.name, KindIPTables+"-"); ok {
			runKind(t, k, k.name, func(t *testing.T, k kind) { test(t, k, variant(v)) })
		}
	}
}

func TestIPTables(t *testing.T) {
	if !sandbox.Enter(t) {
		return
	}
	eachVariant(t, func(t *testing.T, k kind, v variant) {
		want := richIP()
		b := k.open(t, netstate.SourceLocal)
		apply(t, b, creates(list(want)...))
		// Both variants list the same.
		golden(t, "iptables.rules", tablesOf(t, v))
		same(t, "observed", want, b.Observe(want.Keys()))
		again := k.loaded(t, netstate.SourceLocal)
		same(t, "held by another", want, again.Held())
		same(t, "observed by another", want, again.Observe(want.Keys()))
		same(t, "intact", true, again.Intact())
		apply(t, again, creates(list(want)...))
		same(t, "transactions", uint64(0), again.Transactions())
		apply(t, again, deletes(list(want)...))
		same(t, "what is left", "", firewall(t))
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

// TestIPTablesDrift has everybody's rules stay, and ours come back.
func TestIPTablesDrift(t *testing.T) {
	if !sandbox.Enter(t) {
		return
	}
	eachVariant(t, func(t *testing.T, k kind, v variant) {
		want := richIP()
		b := k.open(t, netstate.SourceLocal)
		run(t, variantsOf(v, `iptables -A FORWARD -i br-y -j ACCEPT; iptables -t nat -A PREROUTING -p tcp --dport 7 -j ACCEPT`))
		apply(t, b, creates(list(want)...))
		whole := tablesOf(t, v)
		w := watchAll(t, b)
		for _, d := range ipDamages {
			t.Run(d.name, func(t *testing.T) {
				run(t, variantsOf(v, d.command))
				w.fires(t)
				other := k.loaded(t, netstate.SourceLocal)
				same(t, "intact", d.intact, other.Intact())
				n := len(missing(other, want))
				if n != d.lost && d.lost >= 0 || d.lost == -1 && n < 15 || d.lost == -2 && n < 5 {
					t.Errorf("%d objects are missing, want %d: %v", n, d.lost, missing(other, want))
				}
				repair(t, b, want)
				same(t, "intact after Apply", true, b.Intact())
				run(t, variantsOf(v, `iptables -D FORWARD -i br-x -j ACCEPT 2>/dev/null || true`))
				again := k.loaded(t, netstate.SourceLocal)
				same(t, "intact after Load", true, again.Intact())
				same(t, "held", want, again.Held())
				if d.name == "-F" || d.name == "-t nat -F" || d.name == "-F and -X" {
					// The foreign rules went as well.
					run(t, variantsOf(v, `iptables -C FORWARD -i br-y -j ACCEPT 2>/dev/null || iptables -A FORWARD -i br-y -j ACCEPT
						iptables -t nat -C PREROUTING -p tcp --dport 7 -j ACCEPT 2>/dev/null || iptables -t nat -I PREROUTING -p tcp --dport 7 -j ACCEPT`))
				}
				same(t, "rules", sortedLines(whole), sortedLines(tablesOf(t, v)))
			})
			drain(w)
		}
	})
}

func drain(w watcher) {
	for len(w) > 0 {
		<-w
	}
}

// variantsOf has a command use the programs of a variant.
func variantsOf(v variant, command string) string {
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

// TestIPTablesWatchIsSilent has others change what is theirs, and ourselves what
// is ours.
func TestIPTablesWatchIsSilent(t *testing.T) {
	if !sandbox.Enter(t) {
		return
	}
	eachVariant(t, func(t *testing.T, k kind, v variant) {
		b := k.open(t, netstate.SourceLocal)
		apply(t, b, creates(netstate.Realm{Link: "br-red", Guarded: true}))
		w := watchAll(t, b)
		for i := range 20 {
			apply(t, b, creates(publish("0.0.0.0", "tcp", uint16(8000+i), "10.68.0.101:80")))
		}
		run(t, variantsOf(v, `iptables -N SITE; iptables -A SITE -p tcp --dport 23 -j DROP; iptables -A INPUT -j SITE`))
		apply(t, b, deletes(publish("0.0.0.0", "tcp", 8000, "10.68.0.101:80")))
		same(t, "calls so far", 0, len(w))
		run(t, variantsOf(v, `iptables -F PATCHBAY-INTO`))
		w.fires(t)
		repair(t, b, b.Held())
		// A change between two of ours is not taken for ours.
		run(t, variantsOf(v, `iptables -F PATCHBAY-REALM`))
		apply(t, b, creates(publish("0.0.0.0", "tcp", 9000, "10.68.0.101:80")))
		w.fires(t)
		run(t, variantsOf(v, `iptables -F INPUT; iptables -F SITE; iptables -X SITE`))
		clean(t, b)
	})
}

func TestIPTablesThousands(t *testing.T) {
	if !sandbox.Enter(t) {
		return
	}
	eachVariant(t, func(t *testing.T, k kind, _ variant) {
		want := netstate.Set{}
		for i := range 2000 {
			want.Add(publish("0.0.0.0", "tcp", uint16(20000+i), fmt.Sprintf("10.68.%d.%d:80", i/250, 1+i%250)))
		}
		b := k.open(t, netstate.SourceLocal)
		apply(t, b, creates(list(want)...))
		again := k.loaded(t, netstate.SourceLocal)
		same(t, "observed", len(want), len(again.Observe(want.Keys())))
		same(t, "intact", true, again.Intact())
		before := again.Transactions()
		apply(t, again, deletes(list(want)[7]))
		same(t, "transactions of one fewer", before+1, again.Transactions())
		apply(t, again, deletes(list(want)...))
		same(t, "what is left", "", firewall(t))
	})
}

func TestIPTablesRefusals(t *testing.T) {
	if !sandbox.Enter(t) {
		return
	}
	b := ipBackend(t, variantNFT, Options{Source: netstate.SourceLocal})
	for _, o := range []netstate.Object{
		netstate.Realm{Link: "br -j ACCEPT\nCOMMIT"},
		netstate.PortFilter{Link: "veth1", MAC: macA},
		netstate.PortAddress{Link: "veth1", MAC: macA, Addr: addr("10.68.0.101")},
		ranged("0.0.0.0", "tcp", 80, 80, "10.0.0.1:80"),
		ranged("0.0.0.0", "tcp", 80, 81, "10.0.0.1:65535"),
		from(publish("0.0.0.0", "tcp", 80, "10.0.0.1:80"), "fd00::/64"),
		netstate.Publish{Host: addr("0.0.0.0"), Proto: "tcp", HostPort: 80, Targets: "10.0.0.1:80", Sources: "10.0.0.1/8"},
	} {
		if err := b.Apply(t.Context(), creates(o, netstate.Realm{Link: "br-ok"})); err == nil {
			t.Errorf("%s %s was applied", o.Key(), o)
		}
	}
	same(t, "what is left", "", firewall(t))
}

func FuzzSave(f *testing.F) {
	text, err := os.ReadFile("testdata/iptables.rules")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Add([]byte("*filter\n:FORWARD DROP [0:0]\n-A FORWARD -i a+ -g SITE\n-A FORWARD -j SITE\n-A SITE -j FORWARD\n-A SITE ! -i\n-A SITE -j\n"))
	f.Add([]byte("*nat\n:FORWARD DROP [0:0]\n-A PREROUTING ! -s\n-A PATCHBAY-ANY -m comment --comment \"patchbay:local:publish [::]:80-/tcp\" -j DNAT --to-destination :-\n"))
	f.Fuzz(func(_ *testing.T, text []byte) {
		m := newIPMemory(netstate.SourceLocal)
		s := parseSave(true, text)
		m.take(s)
		m.understand([]saved{s})
		m.restores(ipChanges{}, []bool{true}, maxRestore())
		s.blockers()
	})
}
