package firewall

import (
	"strings"
	"testing"

	"github.com/patchbay-dev/patchbay/nodeagent/firewall/firewalltest"
	"github.com/patchbay-dev/patchbay/nodeagent/firewall/iptables"
	"github.com/patchbay-dev/patchbay/nodeagent/firewall/iptsave"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
	"github.com/patchbay-dev/patchbay/test/netlab"
	"github.com/patchbay-dev/patchbay/test/sandbox"
)

// TestNothingOfIPTablesStays shows that tables and base chains of iptables-nft that
// were not there go with the last rule of Patchbay, and that foreign ones stay: a chain
// that was there empty, one with a foreign rule, one whose policy was set.
func TestNothingOfIPTablesStays(t *testing.T) {
	if !sandbox.Enter(t) {
		return
	}
	b := ipBackend(t, iptsave.NFT, Options{Source: netstate.SourceLocal})
	if b.dialect.(*iptables.Driver).Legacy() {
		t.Fatal("iptables-nft is not iptables-nft")
	}
	objects := []netstate.Object{netstate.ForwardGuard{Family: netstate.IPv4}, netstate.ForwardGuard{Family: netstate.IPv6}}
	for name, test := range map[string]struct{ before, meanwhile, stays string }{
		"nothing before":        {before: "true", meanwhile: "true"},
		"an empty chain before": {before: "nft add table ip filter; nft 'add chain ip filter FORWARD { type filter hook forward priority filter; policy accept; }'", meanwhile: "true", stays: "chain FORWARD"},
		"a rule meanwhile":      {before: "true", meanwhile: "iptables-nft -A FORWARD -s 192.0.2.1 -j DROP", stays: "192.0.2.1"},
		"a policy meanwhile":    {before: "true", meanwhile: "ip6tables-nft -P FORWARD DROP", stays: "policy drop"},
	} {
		netlab.Shell(t, test.before)
		before := netlab.Shell(t, "nft list ruleset")
		if err := b.Load(); err != nil {
			t.Fatal(err)
		}
		firewalltest.Apply(t, b, firewalltest.Creates(objects...))
		netlab.Shell(t, test.meanwhile)
		// Another process removes, as after a SIGKILL.
		other := ipBackend(t, iptsave.NFT, Options{Source: netstate.SourceLocal})
		if err := other.Clean(); err != nil {
			t.Fatal(err)
		}
		after := netlab.Shell(t, "nft list ruleset")
		if test.meanwhile == "true" && after != before {
			t.Errorf("%s: %s\nis now %s", name, before, after)
		}
		if !strings.Contains(after, test.stays) || strings.Contains(after, iptsave.Prefix) {
			t.Errorf("%s: left %s", name, after)
		}
		netlab.Shell(t, "nft flush ruleset")
	}
}
