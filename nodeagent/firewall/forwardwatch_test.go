package firewall

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/patchbay-dev/patchbay/nodeagent/firewall/firewalltest"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
	"github.com/patchbay-dev/patchbay/test/netlab"
	"github.com/patchbay-dev/patchbay/test/sandbox"
)

// TestForwardWatch hears of foreign changes that concern forwarded packets, and not of the
// changes that a service proxy makes all the time.
func TestForwardWatch(t *testing.T) {
	if !sandbox.Enter(t) {
		return
	}
	eachKind(t, func(t *testing.T, k kind) {
		if k.name == "iptables-legacy" {
			t.Skip("it is polled: see the scenario legacy-iptables")
		}
		netlab.Shell(t, `nft 'add table ip proxy; add chain ip proxy services; add chain ip proxy check
			add chain ip proxy forward { type filter hook forward priority 0 ; }
			add set ip proxy no { type ipv4_addr ; }
			add rule ip proxy forward ct state new jump check; add rule ip proxy check ip daddr @no reject'
			nft 'add table inet site; add chain inet site zones; add chain inet site forward { type filter hook forward priority 10 ; }; add rule inet site forward jump zones'
			iptables -N SITE; iptables -A FORWARD -j SITE`)
		defer netlab.Shell(t, `nft delete table ip proxy; nft delete table inet site 2>/dev/null; iptables -F; iptables -X; true`)
		b := k.loaded(t, netstate.SourceLocal)
		w := firewalltest.WatchAll(t, b)
		for i := range 20 {
			netlab.Shell(t, fmt.Sprintf(`nft 'add element ip proxy no { 10.0.0.%d }; add rule ip proxy services ip daddr 10.0.0.%d accept; add rule ip proxy check tcp dport %d reject
				flush chain ip proxy forward; add rule ip proxy forward ct state new jump check'`, i, i, 1+i))
		}
		w.Quiet(t)
		netlab.Shell(t, "nft 'add table inet later; add chain inet later f { type filter hook forward priority 10 ; }'")
		defer netlab.Shell(t, "nft delete table inet later")
		w.Quiet(t)
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
			netlab.Shell(t, command)
			w.Fires(t)
			if err := b.Load(); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// TestOvertakenOpening hears of a foreign rule that comes before our openings, though before
// these were made the same chain dropped the same packets.
func TestOvertakenOpening(t *testing.T) {
	if !sandbox.Enter(t) {
		return
	}
	eachKind(t, func(t *testing.T, k kind) {
		if k.name == "iptables-legacy" {
			t.Skip("it is polled: see the scenario legacy-iptables")
		}
		netlab.Shell(t, "iptables -A FORWARD -j REJECT --reject-with icmp-host-prohibited")
		defer netlab.Shell(t, "iptables -F FORWARD")
		b := k.loaded(t, netstate.SourceLocal)
		w := firewalltest.WatchAll(t, b)
		openings := firewalltest.OpeningsOf("br-red")[:1]
		firewalltest.Apply(t, b, firewalltest.Creates(openings...))
		w.Quiet(t)
		netlab.Shell(t, "iptables -I FORWARD -j REJECT")
		w.Fires(t)
		firewalltest.Apply(t, b, firewalltest.Deletes(openings...))
	})
}

// TestLegacyWatchMissesNothing: a change that another program makes after Patchbay's commit,
// before iptables-restore has ended, is told of.
func TestLegacyWatchMissesNothing(t *testing.T) {
	if !sandbox.Enter(t) {
		return
	}
	runKind(t, kinds[2], kinds[2].name, func(t *testing.T, k kind) {
		restore, err := exec.LookPath("iptables-legacy-restore")
		if err != nil {
			t.Fatal(err)
		}
		dir := t.TempDir()
		wrapper := fmt.Sprintf("#!/bin/sh\n%s \"$@\" && iptables-legacy -w -F SITE\n", restore)
		if err := os.WriteFile(filepath.Join(dir, "iptables-legacy-restore"), []byte(wrapper), 0o755); err != nil {
			t.Fatal(err)
		}
		t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
		netlab.Shell(t, "iptables-legacy -N SITE; iptables-legacy -A FORWARD -j SITE; iptables-legacy -A SITE -j REJECT")
		b := k.loaded(t, netstate.SourceLocal)
		w := firewalltest.WatchAll(t, b)
		firewalltest.Apply(t, b, firewalltest.Creates(firewalltest.Publish("0.0.0.0", "tcp", 8001, "10.68.0.101:80")))
		w.Fires(t)
		netlab.Shell(t, "iptables-legacy -D FORWARD -j SITE; iptables-legacy -X SITE")
	})
}
