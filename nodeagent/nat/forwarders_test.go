package nat

import (
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
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
		same(t, "blocks", true, blocks)
		same(t, "cause", "by the rule `reject with icmpx admin-prohibited` of its chain filter_FWD_public", b.Cause)
		same(t, "accepts", []string{"docker*", "eth0", "lo", "virbr0", "wg0", "wg1"}, b.Accepts)
		same(t, "blocks br-red", true, b.Blocks(f, "br-red"))
		same(t, "blocks docker0", false, b.Blocks(f, "docker0"))
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
			run(t, `nft add table inet x
				for c in nobody every some back ports; do nft add chain inet x $c; done
				nft 'add chain inet x f { type filter hook forward priority 5 ; }; add rule inet x nobody drop; add rule inet x every accept
					add rule inet x some iifname s accept; add rule inet x back return; add rule inet x back drop; add rule inet x ports tcp dport 80 accept'`)
			run(t, "nft '"+c.rules+"'")
			defer run(t, "nft delete table inet x")
			same(t, "blockers", c.want, inShort(blockersNow(t)))
		})
	}
}

// TestForwardLarge follows packets through a table that is not listed whole.
func TestForwardLarge(t *testing.T) {
	if !sandbox.Enter(t) {
		return
	}
	run(t, `nft add table inet x; (for i in $(seq `+fmt.Sprint(wholeTable)+`); do echo "add chain inet x c$i"; done) | nft -f -
		nft 'add chain inet x f { type filter hook forward priority 5 ; }; add rule inet x f jump c7; add rule inet x f ct state new jump c9
			add rule inet x c7 iifname a jump c8; add rule inet x c8 accept; add rule inet x c9 drop; add rule inet x c7 goto c100; add rule inet x c100 drop'`)
	is, _, watched, err := readForwarding(t.Context(), "nft")
	if err != nil {
		t.Fatal(err)
	}
	same(t, "blockers", "by the rule `drop` of its chain c100 but a", inShort(is.blockers))
	want := map[watchedChain]bool{}
	for _, c := range []string{"", "f", "c7", "c8", "c100"} {
		want[watchedChain{"inet", "x", c}] = true
	}
	same(t, "watched", want, watched)
}

func blockersNow(t testing.TB) []netstate.Blocker {
	t.Helper()
	is, _, _, err := readForwarding(t.Context(), "nft")
	if err != nil {
		t.Fatal(err)
	}
	return is.blockers
}

// inShort are blockers in short: of both families alike, or of one.
func inShort(blockers []netstate.Blocker) string {
	of := map[string][]string{}
	var texts []string
	for _, b := range blockers {
		text := b.Cause
		if len(b.Accepts) > 0 {
			text += " but " + strings.Join(b.Accepts, ",")
		}
		if b.Translated {
			text += " but what was translated"
		}
		if texts = append(texts, text); len(b.Families) == 1 {
			of[text] = append(of[text], map[netstate.Family]string{netstate.IPv4: "4", netstate.IPv6: "6"}[b.Families[0]])
		}
	}
	slices.Sort(texts)
	texts = slices.Compact(texts)
	for i, text := range texts {
		if len(of[text]) == 1 {
			texts[i] = of[text][0] + " " + text
		}
	}
	return strings.Join(texts, "; ")
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
				run(t, "iptables "+l)
			}
			defer run(t, "iptables -P FORWARD ACCEPT; iptables -F; iptables -X")
			same(t, "as nft tells", c.nft, strings.TrimPrefix(inShort(blockersNow(t)), "4 "))
			out, err := exec.Command("iptables-save").Output()
			if err != nil {
				t.Fatal(err)
			}
			same(t, "as iptables-save tells", c.save, strings.TrimPrefix(inShort(parseLegacy(false, out)), "4 "))
		})
	}
}

// TestForwardOld reads a jump of ours as nft before 1.0.6 lists it.
func TestForwardOld(t *testing.T) {
	rules, err := parseForward([]byte(`{"nftables":[{"rule":{"chain":"FORWARD","expr":[{"xt":null},{"counter":null},{"jump":{"target":"PATCHBAY_OPENINGS"}}]}},
		{"rule":{"chain":"FORWARD","expr":[{"xt":null},{"counter":null},{"drop":null}]}}]}`))
	if err != nil {
		t.Fatal(err)
	}
	w := newWalk(netstate.IPv4, func(chain string) []forwardRule { return rules[chain] })
	b, blocks := w.blocker("x", "FORWARD", true)
	same(t, "blocks", true, blocks)
	same(t, "cause", "by policy", b.Cause)
	same(t, "comes to the openings", true, w.comesTo(chainOpening))
	same(t, "comes to Docker's chain", false, w.comesTo(chainDocker))
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

// quiet has no call come in the time that one would take.
func (w watcher) quiet(t testing.TB) {
	t.Helper()
	select {
	case <-w:
		t.Error("Watch fired")
	case <-time.After(forwardPause + enough):
	}
}

// TestForwardWatch hears of what others do to forwarded packets, and not of what a
// service proxy does all the time.
func TestForwardWatch(t *testing.T) {
	if !sandbox.Enter(t) {
		return
	}
	eachKind(t, func(t *testing.T, k kind) {
		if k.name == "iptables-legacy" {
			t.Skip("it is polled: see the scenario legacy-iptables")
		}
		run(t, `nft 'add table ip proxy; add chain ip proxy services; add chain ip proxy check
			add chain ip proxy forward { type filter hook forward priority 0 ; }
			add set ip proxy no { type ipv4_addr ; }
			add rule ip proxy forward ct state new jump check; add rule ip proxy check ip daddr @no reject'
			nft 'add table inet site; add chain inet site zones; add chain inet site forward { type filter hook forward priority 10 ; }; add rule inet site forward jump zones'
			iptables -N SITE; iptables -A FORWARD -j SITE`)
		defer run(t, `nft delete table ip proxy; nft delete table inet site 2>/dev/null; iptables -F; iptables -X; true`)
		b := k.loaded(t, netstate.SourceLocal)
		w := watchAll(t, b)
		for i := range 20 {
			run(t, fmt.Sprintf(`nft 'add element ip proxy no { 10.0.0.%d }; add rule ip proxy services ip daddr 10.0.0.%d accept; add rule ip proxy check tcp dport %d reject
				flush chain ip proxy forward; add rule ip proxy forward ct state new jump check'`, i, i, 1+i))
		}
		w.quiet(t)
		run(t, "nft 'add table inet later; add chain inet later f { type filter hook forward priority 10 ; }'")
		defer run(t, "nft delete table inet later")
		w.quiet(t)
		for _, command := range []string{
			"nft add rule inet later f drop",
			"nft flush chain inet later f",
			"nft add rule inet site zones reject",
			"nft flush chain inet site zones",
			"nft add rule inet site forward drop",
			"nft insert rule inet site forward iifname br-red accept",
			"nft delete table inet site",
			"iptables -A SITE -j REJECT",
			"iptables -F SITE",
			"nft 'add table inet site; add chain inet site late { type filter hook forward priority 10 ; policy drop ; }'",
		} {
			run(t, command)
			w.fires(t)
			if err := b.Load(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// TestForwardNames reads both ways which interfaces rules of iptables speak of, on the
// way of forwarded packets.
func TestForwardNames(t *testing.T) {
	if !sandbox.Enter(t) {
		return
	}
	run(t, `iptables -P FORWARD DROP; iptables -N SITE; iptables -A SITE -o guest+ -d 192.0.2.1 -j ACCEPT; iptables -A SITE -j SITE2 2>/dev/null || true
		iptables -A FORWARD -p tcp -j SITE; iptables -A FORWARD -i virbr0 ! -o eth9 -j DROP; iptables -A INPUT -i eth8 -j ACCEPT; iptables -A FORWARD -j LOG
		iptables -N PATCHBAY_OPENINGS; iptables -A PATCHBAY_OPENINGS -i br-red -j ACCEPT; iptables -A FORWARD -j PATCHBAY_OPENINGS`)
	want := []string{"guest*", "virbr0"}
	for _, b := range blockersNow(t) {
		if len(b.Families) != 1 || b.Families[0] != netstate.IPv4 {
			continue
		}
		same(t, "as nft tells", want, b.Names)
		want = nil
	}
	same(t, "blockers without names", []string(nil), want)
	out, err := exec.Command("iptables-save").Output()
	if err != nil {
		t.Fatal(err)
	}
	same(t, "as iptables-save tells", []string{"guest*", "virbr0"}, parseLegacy(false, out)[0].Names)
}
