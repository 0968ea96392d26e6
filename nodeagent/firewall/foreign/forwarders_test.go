package foreign

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/patchbay-dev/patchbay/nodeagent/firewall/firewalltest"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
	"github.com/patchbay-dev/patchbay/test/netlab"
	"github.com/patchbay-dev/patchbay/test/sandbox"
)

// TestFirewalld reads the table that firewalld makes of a default zone, a zone of
// its own and trusted ones, as nft 1.0.6 and 1.1.3 list it.
func TestFirewalld(t *testing.T) {
	text, err := os.ReadFile("testdata/firewalld.json")
	if err != nil {
		t.Fatal(err)
	}
	rules, err := parseForward(text)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range []netstate.Family{netstate.IPv4, netstate.IPv6} {
		w := newWalk(f, func(chain string) []forwardRule { return rules[chain] })
		b, blocks := w.blocker("x", "filter_FORWARD", false)
		firewalltest.Same(t, "blocks", true, blocks)
		firewalltest.Same(t, "cause", "by the rule `reject with icmpx admin-prohibited` of its chain filter_FWD_public", b.Cause)
		firewalltest.Same(t, "accepts", []string{"docker*", "eth0", "lo", "virbr0", "wg0", "wg1"}, b.Accepts)
		firewalltest.Same(t, "blocks br-red", true, b.Blocks(f, "br-red"))
		firewalltest.Same(t, "blocks docker0", false, b.Blocks(f, "docker0"))
	}
}

// forwardCases are rules of a chain at the forward hook, and what becomes of
// packets: of IPv4 and IPv6, or of both.
var forwardCases = []struct{ rules, want string }{
	{"add rule inet x f counter", ""},
	{"add rule inet x f drop", "by its rule `drop`"},
	{`add rule inet x f counter log prefix "no" reject comment "no"`, "by its rule `reject with icmpx port-unreachable`"},
	{"add rule inet x f reject with icmp host-prohibited", "4 by its rule `reject with icmp host-prohibited`"},
	{"add rule inet x f meta nfproto ipv6 drop", "6 by its rule `drop`"},
	{"add rule inet x f meta l4proto tcp reject with tcp reset", ""},
	{"add rule inet x f ip saddr 192.0.2.1 drop; add rule inet x f ct state invalid drop", ""},
	{"add rule inet x f limit rate 3/second drop", ""},
	{"add rule inet x f accept; add rule inet x f drop", ""},
	{"add rule inet x f tcp dport 80 accept; add rule inet x f drop", "by its rule `drop`"},
	{"add rule inet x f iifname a accept; add rule inet x f drop; add rule inet x f iifname b accept", "by its rule `drop` but a"},
	{`add rule inet x f iifname != a accept; add rule inet x f oifname { b, "c*" } accept; add rule inet x f drop`, "by its rule `drop` but b,c*"},
	{"add rule inet x f ct state vmap { established : accept, invalid : drop }; add rule inet x f drop", "by its rule `drop`"},
	{"add rule inet x f iifname vmap { a : accept, b : drop, c : jump every, d : goto some }; add rule inet x f drop", "by its rule `drop` but a,c"},
	{"add rule inet x f iifname . oifname { a . b } accept; add rule inet x f drop", "by its rule `drop`"},
	{"add rule inet x f iifname a jump every; add rule inet x f oifname b goto some; add rule inet x f iifname c jump nobody; add rule inet x f drop", "by its rule `drop` but a"},
	{"add rule inet x f iifname a jump ports; add rule inet x f drop", "by its rule `drop` but a"},
	{"add rule inet x f jump some; add rule inet x f drop", "by its rule `drop` but s"},
	{"add rule inet x f jump every; add rule inet x f drop", ""},
	{"add rule inet x f jump nobody", "by the rule `drop` of its chain nobody"},
	{"add rule inet x f jump back; add rule inet x f reject", "by its rule `reject with icmpx port-unreachable`"},
	{"add rule inet x f goto back; add rule inet x f reject", ""},
	{"add rule inet x f iifname a jump nobody", ""},
	{"add rule inet x f ct status dnat accept; add rule inet x f drop", "by its rule `drop` but what was translated"},
	{"add rule inet x some ct status dnat accept; add rule inet x f jump some; add rule inet x f drop", "by its rule `drop` but s but what was translated"},
	{"add rule inet x f ct status dnat tcp dport 80 accept; add rule inet x f ct status dnat limit rate 1/second accept; add rule inet x f tcp dport 80 ct status dnat accept; add rule inet x f ct status != dnat accept; add rule inet x f ct status dnat drop; add rule inet x f drop", "by its rule `drop`"},
	{"add rule inet x f drop; add rule inet x f ct status dnat accept", "by its rule `drop`"},
	{"add chain inet x f { policy drop ; }; add rule inet x f jump some", "by policy but s"},
	{"add chain inet x f { policy drop ; }; add rule inet x f jump every", ""},
}

// TestForwardRules has nft say what rules are, whose packets take the way that the
// case says.
func TestForwardRules(t *testing.T) {
	if !sandbox.Enter(t) {
		return
	}
	for _, c := range forwardCases {
		t.Run(c.rules, func(t *testing.T) {
			netlab.Shell(t, `nft add table inet x
				for c in nobody every some back ports; do nft add chain inet x $c; done
				nft 'add chain inet x f { type filter hook forward priority 5 ; }; add rule inet x nobody drop; add rule inet x every accept
					add rule inet x some iifname s accept; add rule inet x back return; add rule inet x back drop; add rule inet x ports tcp dport 80 accept'`)
			netlab.Shell(t, "nft '"+c.rules+"'")
			defer netlab.Shell(t, "nft delete table inet x")
			firewalltest.Same(t, "blockers", c.want, firewalltest.InShort(blockersNow(t)))
		})
	}
}

// TestForwardLarge follows packets through a table that is not listed whole.
func TestForwardLarge(t *testing.T) {
	if !sandbox.Enter(t) {
		return
	}
	netlab.Shell(t, `nft add table inet x; (for i in $(seq `+fmt.Sprint(wholeTable)+`); do echo "add chain inet x c$i"; done) | nft -f -
		nft 'add chain inet x f { type filter hook forward priority 5 ; }; add rule inet x f jump c7; add rule inet x f ct state new jump c9
			add rule inet x c7 iifname a jump c8; add rule inet x c8 accept; add rule inet x c9 drop; add rule inet x c7 goto c100; add rule inet x c100 drop'`)
	is, _, watched, err := readForwarding(t.Context(), "nft")
	if err != nil {
		t.Fatal(err)
	}
	firewalltest.Same(t, "blockers", "by the rule `drop` of its chain c100 but a", firewalltest.InShort(is.Blockers))
	want := map[watchedChain]bool{}
	for _, c := range []string{"", "f", "c7", "c8", "c100"} {
		want[watchedChain{"inet", "x", c}] = true
	}
	firewalltest.Same(t, "watched", want, watched)
}

func blockersNow(t testing.TB) []netstate.Blocker {
	t.Helper()
	is, _, _, err := readForwarding(t.Context(), "nft")
	if err != nil {
		t.Fatal(err)
	}
	return is.Blockers
}

// forwardSpecs are rules of iptables, and what becomes of packets by what nft and
// what iptables-save tell of them.
var forwardSpecs = []struct{ rules, nft, save string }{
	{"-A FORWARD -i a -j ACCEPT", "", ""},
	{"-A FORWARD -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT\n-A FORWARD -j REJECT --reject-with icmp-host-prohibited", "by its rule `REJECT`", "by its rule `-j REJECT --reject-with icmp-host-prohibited`"},
	{"-A FORWARD -i a+ -j ACCEPT\n-A FORWARD ! -o b -j ACCEPT\n-A FORWARD -m comment --comment \"no more\" -j DROP", "by its rule `drop` but a*", "by its rule `-j DROP` but a*"},
	{"-A FORWARD -m conntrack --ctstate INVALID -j DROP\n-A FORWARD -s 192.0.2.1 -j REJECT", "", ""},
	{"-A FORWARD -m limit --limit 5/sec -j DROP\n-A FORWARD -m statistic --mode random --probability 0.5 -j REJECT", "", ""},
	{"-A FORWARD -j LOG\n-N SITE\n-A SITE -i a -j ACCEPT\n-A SITE -j DROP\n-A FORWARD -j SITE", "by the rule `drop` of its chain SITE but a", "by the rule `-j DROP` of its chain SITE but a"},
	{"-N SITE\n-A SITE -j ACCEPT\n-A FORWARD -i a -g SITE\n-P FORWARD DROP", "by policy but a", "by policy but a"},
	{"-N PATCHBAY_OPENINGS\n-A PATCHBAY_OPENINGS -i a -j ACCEPT\n-A FORWARD -j PATCHBAY_OPENINGS\n-N PATCHBAY-FORWARD\n-A PATCHBAY-FORWARD -j ACCEPT\n-A FORWARD -j PATCHBAY-FORWARD\n-A FORWARD -j DROP", "by its rule `drop`", "by its rule `-j DROP`"},
}

// TestForwardSpecs reads what iptables made both ways.
func TestForwardSpecs(t *testing.T) {
	if !sandbox.Enter(t) {
		return
	}
	for _, c := range forwardSpecs {
		t.Run(c.rules, func(t *testing.T) {
			for l := range strings.Lines(c.rules) {
				netlab.Shell(t, "iptables "+l)
			}
			defer netlab.Shell(t, "iptables -P FORWARD ACCEPT; iptables -F; iptables -X")
			firewalltest.Same(t, "as nft tells", c.nft, strings.TrimPrefix(firewalltest.InShort(blockersNow(t)), "4 "))
			firewalltest.Same(t, "as iptables-save tells", c.save, strings.TrimPrefix(firewalltest.InShort(parseLegacy(false, []byte(netlab.Shell(t, "iptables-save")))), "4 "))
		})
	}
}

// TestForwardOld reads a jump of Patchbay as nft before 1.0.6 lists it.
func TestForwardOld(t *testing.T) {
	rules, err := parseForward([]byte(`{"nftables":[{"rule":{"chain":"FORWARD","expr":[{"xt":null},{"counter":null},{"jump":{"target":"PATCHBAY_OPENINGS"}}]}},
		{"rule":{"chain":"FORWARD","expr":[{"xt":null},{"counter":null},{"drop":null}]}}]}`))
	if err != nil {
		t.Fatal(err)
	}
	w := newWalk(netstate.IPv4, func(chain string) []forwardRule { return rules[chain] })
	b, blocks := w.blocker("x", "FORWARD", true)
	firewalltest.Same(t, "blocks", true, blocks)
	firewalltest.Same(t, "cause", "by policy", b.Cause)
	firewalltest.Same(t, "comes to the openings", true, w.comesTo(AcceptChain))
	firewalltest.Same(t, "comes to Docker's chain", false, w.comesTo(chainDocker))
}

func FuzzForward(f *testing.F) {
	text, err := os.ReadFile("testdata/firewalld.json")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Add([]byte(`{"nftables":[{"rule":{"chain":"filter_FORWARD","expr":["x",{"xt":null},{"vmap":{"key":{"meta":{"key":"iif"}},"data":{"set":[[1,{"goto":{"target":"filter_FORWARD"}}],[]]}}}]}}]}`))
	f.Fuzz(func(_ *testing.T, text []byte) {
		if rules, err := parseForward(text); err == nil {
			newWalk(netstate.IPv4, func(chain string) []forwardRule { return rules[chain] }).blocker("x", "filter_FORWARD", true)
		}
	})
}

// TestForwardNames reads both ways which interfaces rules of iptables speak of, on the
// way of forwarded packets.
func TestForwardNames(t *testing.T) {
	if !sandbox.Enter(t) {
		return
	}
	netlab.Shell(t, `iptables -P FORWARD DROP; iptables -N SITE; iptables -A SITE -o guest+ -d 192.0.2.1 -j ACCEPT; iptables -A SITE -j SITE2 2>/dev/null || true
		iptables -A FORWARD -p tcp -j SITE; iptables -A FORWARD -i virbr0 ! -o eth9 -j DROP; iptables -A INPUT -i eth8 -j ACCEPT; iptables -A FORWARD -j LOG
		iptables -N PATCHBAY_OPENINGS; iptables -A PATCHBAY_OPENINGS -i br-red -j ACCEPT; iptables -A FORWARD -j PATCHBAY_OPENINGS`)
	want := []string{"guest*", "virbr0"}
	for _, b := range blockersNow(t) {
		if len(b.Families) != 1 || b.Families[0] != netstate.IPv4 {
			continue
		}
		firewalltest.Same(t, "as nft tells", want, b.Names)
		want = nil
	}
	firewalltest.Same(t, "blockers without names", []string(nil), want)
	firewalltest.Same(t, "as iptables-save tells", []string{"guest*", "virbr0"}, parseLegacy(false, []byte(netlab.Shell(t, "iptables-save")))[0].Names)
}

// TestDropsAtOtherHooksOfLegacy has the same in iptables' words, which legacy iptables
// alone tells of.
func TestDropsAtOtherHooksOfLegacy(t *testing.T) {
	for _, c := range []struct{ name, table, rules, want string }{
		{"policy", "mangle", ":PREROUTING DROP [0:0]", "prerouting by policy"},
		{"a firewall that is kept", "filter", ":INPUT DROP [0:0]\n-A INPUT -p tcp -m tcp --dport 22 -j ACCEPT", ""},
		{"rule", "raw", ":PREROUTING ACCEPT [0:0]\n-A PREROUTING -j DROP", "prerouting by its rule `-j DROP`"},
		{"rule of another chain", "filter", ":OUTPUT ACCEPT [0:0]\n:d - [0:0]\n-A OUTPUT -j d\n-A d -j REJECT --reject-with icmp-port-unreachable", "output by the rule `-j REJECT --reject-with icmp-port-unreachable` of its chain d"},
		{"notrack", "raw", ":PREROUTING ACCEPT [0:0]\n-A PREROUTING -j CT --notrack", "prerouting untracked by the rule `notrack` of its chain PREROUTING"},
		{"notrack of some", "raw", ":PREROUTING ACCEPT [0:0]\n-A PREROUTING -i lan0 -j NOTRACK", ""},
		{"a port", "raw", ":PREROUTING ACCEPT [0:0]\n-A PREROUTING -p tcp -m tcp --dport 18080:18089 -j DROP", "prerouting tcp 18080-18089 by the rule `tcp dport 18080-18089 drop` of its chain PREROUTING"},
		{"a port of some", "raw", ":PREROUTING ACCEPT [0:0]\n-A PREROUTING -s 192.0.2.1/32 -p tcp -m tcp --dport 18080 -j DROP", ""},
		{"all but a port", "raw", ":PREROUTING ACCEPT [0:0]\n-A PREROUTING -p tcp -m tcp ! --dport 18080 -j DROP", ""},
		{"nat", "nat", ":PREROUTING DROP [0:0]", ""},
	} {
		var got []string
		for _, b := range parseLegacy(false, []byte("*"+c.table+"\n"+c.rules+"\nCOMMIT\n")) {
			got = append(got, firewalltest.ElsewhereInShort(b))
		}
		if text := strings.Join(got, ", "); text != c.want {
			t.Errorf("%s: got %q, want %q", c.name, text, c.want)
		}
	}
}
