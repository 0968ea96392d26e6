package firewall

import (
	"slices"
	"strings"
	"testing"

	"github.com/patchbay-dev/patchbay/nodeagent/firewall/firewalltest"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
	"github.com/patchbay-dev/patchbay/test/netlab"
	"github.com/patchbay-dev/patchbay/test/sandbox"
)

// TestDropsAtOtherHooks: what keeps all packets at a hook other than forward is told,
// with its hook and cause; a firewall that lets some through, or something for other
// interfaces alone, is not.
func TestDropsAtOtherHooks(t *testing.T) {
	if !sandbox.Enter(t) {
		return
	}
	netlab.Shell(t, "ip link add eth7 type veth peer name eth8")
	for _, c := range []struct{ name, rules, want string }{
		{"policy", "table inet ff { chain c { type filter hook input priority 0; policy drop; } }", "input by policy"},
		{"one family", "table ip6 ff { chain c { type filter hook output priority 0; policy drop; } }", "output by policy"},
		{"rule", "table inet ff { chain c { type filter hook postrouting priority 0; counter drop; } }", "postrouting by its rule `drop`"},
		{"rule of another chain", "table inet ff { chain d { drop; }; chain c { type filter hook prerouting priority 10; jump d; } }", "prerouting by the rule `drop` of its chain d"},
		{"bridge", "table bridge ff { chain c { type filter hook forward priority 0; policy drop; } }", "bridge forward by policy"},
		{"device", "table netdev ff { chain c { type filter hook ingress device eth7 priority 0; policy drop; } }", "ingress [eth7] by policy"},
		{"notrack", "table inet ff { chain c { type filter hook prerouting priority -310; notrack; } }", "prerouting untracked by the rule `notrack` of its chain c"},
		{"notrack after tracking", "table inet ff { chain c { type filter hook prerouting priority -150; notrack; } }", ""},
		{"notrack of some", "table inet ff { chain c { type filter hook prerouting priority -310; iifname lan0 notrack; } }", ""},
		{"a port", "table inet ff { chain c { type filter hook prerouting priority -400; tcp dport 18080 drop; } }", "prerouting tcp 18080-18080 by the rule `tcp dport 18080 drop` of its chain c"},
		{"ports", "table inet ff { chain c { type filter hook prerouting priority -400; udp dport { 53, 8000-8009 } counter drop; } }",
			"prerouting udp 53-53 by the rule `udp dport 53 drop` of its chain c, prerouting udp 8000-8009 by the rule `udp dport 8000-8009 drop` of its chain c"},
		{"a port of some", "table inet ff { chain c { type filter hook prerouting priority -400; ip saddr 192.0.2.1 tcp dport 18080 drop; } }", ""},
		{"a port after translation", "table inet ff { chain c { type filter hook prerouting priority 0; tcp dport 18080 drop; } }", ""},
		{"a firewall that is kept", "table inet ff { chain c { type filter hook input priority 0; policy drop; ct state established accept; iifname lo accept; tcp dport 22 accept; } }", ""},
		{"by a chain for some", "table inet ff { chain d { tcp dport 22 accept; }; chain c { type filter hook input priority 0; policy drop; ct state new jump d; } }", ""},
		{"lets an interface through", "table inet ff { chain c { type filter hook input priority 0; policy drop; iifname { lo, br-red } accept; } }", "input but br-red,lo by policy"},
		{"dormant", "table inet ff { flags dormant; chain c { type filter hook input priority 0; policy drop; } }", ""},
		{"accepts", "table inet ff { chain c { type filter hook input priority 0; policy accept; } }", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			defer netlab.Shell(t, "nft flush ruleset")
			b := loaded(t, netstate.SourceLocal)
			w := firewalltest.WatchAll(t, b)
			text := strings.ReplaceAll(strings.TrimSuffix(c.rules, " } }"), " }; ", "\n}\n") + "\n}\n}\n"
			netlab.Shell(t, "nft '"+text+"'")
			if c.want != "" {
				w.Fires(t)
			}
			if err := b.Load(); err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, b := range b.Blockers() {
				if text := firewalltest.ElsewhereInShort(b); !slices.Contains(got, text) {
					got = append(got, text)
				}
			}
			firewalltest.Same(t, "told", c.want, strings.Join(got, ", "))
		})
	}
}
