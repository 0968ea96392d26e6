package nftables

import (
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/patchbay-dev/patchbay/nodeagent/firewall/firewalltest"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
	"github.com/patchbay-dev/patchbay/test/netlab"
	"github.com/patchbay-dev/patchbay/test/sandbox"
)

// tableNames are of several lengths: what nft 1.0.6 prints for a table's flags
// depends on what lies in its memory.
var tableNames = []string{"f", "firewalld", "a-rather-long-name-of-a-table", strings.Repeat("x", 100)}

// TestForeignTablesWithFlags: a dormant table drops nothing, one that a process owns
// what its rules say, and neither keeps Patchbay's from being read.
func TestForeignTablesWithFlags(t *testing.T) {
	if !sandbox.Enter(t) {
		return
	}
	for _, name := range tableNames {
		chain := "add chain inet " + name + " onward { type filter hook forward priority 10; policy drop; }\n"
		netlab.Shell(t, "nft 'add table inet "+name+" { flags dormant; }'; nft '"+chain+"'")
		firewalltest.Same(t, "blockers of dormant "+name, "", strings.TrimSpace(firewalltest.InShort(newLoaded(t, netstate.SourceLocal).Blockers())))
		w := firewalltest.WatchAll(t, newLoaded(t, netstate.SourceLocal))
		netlab.Shell(t, "nft add table inet "+name)
		w.Fires(t)
		if got := newLoaded(t, netstate.SourceLocal).Blockers(); len(got) == 0 || !strings.HasSuffix(got[0].Name, "table inet "+name) {
			t.Errorf("blockers of %s that wakes up: %v", name, got)
		}
		netlab.Shell(t, "nft delete table inet "+name)

		owner := exec.Command("nft", "-i")
		stdin, err := owner.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := owner.Start(); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(stdin, "add table inet "+name+" { flags owner; }\n"+chain+"add rule inet "+name+" onward iifname br-red accept\n"); err != nil {
			t.Fatal(err)
		}
		netlab.Until(t, 10*time.Second, "the table with an owner appears", func() bool { return strings.Contains(netlab.Shell(t, "nft list ruleset"), "accept") })
		if got := newLoaded(t, netstate.SourceLocal).Blockers(); len(got) != 2 || got[0].Blocks(netstate.IPv4, "br-red") || !got[0].Blocks(netstate.IPv4, "br-blue") {
			t.Errorf("blockers of owned %s: %v", name, got)
		}
		stdin.Close()
		_ = owner.Wait()
	}
}

// TestOwnTableWithFlags: a table of Patchbay that was made dormant is not intact, and is
// whole again after one transaction, with the elements of another source.
func TestOwnTableWithFlags(t *testing.T) {
	if !sandbox.Enter(t) {
		return
	}
	local, cluster := newBackend(t, netstate.SourceLocal), newBackend(t, netstate.SourceCluster)
	firewalltest.Apply(t, local, firewalltest.Creates(firewalltest.List(firewalltest.Rich())...))
	firewalltest.Apply(t, cluster, firewalltest.Creates(netstate.LinkPolicy{Link: "br-cluster", Guarded: true}))
	whole := firewalltest.Ruleset(t)
	for _, family := range []string{"inet", "bridge"} {
		netlab.Shell(t, "nft 'add table "+family+" patchbay { flags dormant; }'")
		b := newLoaded(t, netstate.SourceLocal)
		firewalltest.Same(t, family+" intact", false, b.Intact())
		before := b.Transactions()
		firewalltest.Apply(t, b)
		firewalltest.Same(t, "transactions", before+1, b.Transactions())
		firewalltest.Same(t, "ruleset", whole, firewalltest.Ruleset(t))
		firewalltest.Same(t, family+" intact", true, newLoaded(t, netstate.SourceLocal).Intact())
	}
	netlab.Shell(t, "nft 'add table inet patchbay { flags dormant; }'")
	if err := newLoaded(t, netstate.SourceLocal).Clean(); err != nil {
		t.Error(err)
	}
	firewalltest.Same(t, "what is left", "", strings.TrimSpace(netlab.Shell(t, "nft list ruleset")))
}

// unreadable has nft end as it is told, in place of every listing of tables whose
// name is part of the call.
func unreadable(t *testing.T, table, end string) {
	t.Helper()
	nft := strings.TrimSpace(netlab.Shell(t, "command -v nft"))
	programs := t.TempDir()
	text := "#!/bin/sh\ncase \"$*\" in *list*" + table + "*) " + end + ";; esac\nexec " + nft + " \"$@\"\n"
	if err := os.WriteFile(filepath.Join(programs, "nft"), []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", programs+":"+os.Getenv("PATH"))
}

// TestUnreadableTables: a table that nft cannot list stops nothing. A foreign one is told
// to be unknown; Patchbay's is made anew with its last known elements.
func TestUnreadableTables(t *testing.T) {
	if !sandbox.Enter(t) {
		return
	}
	for name, end := range map[string]string{"broken": `printf '{"nftables": [{"table'; exit 0`, "crashed": "kill -SEGV $$"} {
		t.Run(name, func(t *testing.T) {
			unreadable(t, "foreign", end)
			netlab.Shell(t, "nft 'add table inet foreign; add chain inet foreign c { type filter hook forward priority 0; policy drop; }'")
			got := newLoaded(t, netstate.SourceLocal).Blockers()
			if len(got) == 0 || !got[0].Unknown || !strings.Contains(got[0].Name, "table inet foreign") {
				t.Errorf("blockers: %+v", got)
			}
			netlab.Shell(t, "nft delete table inet foreign")
		})
		t.Run(name+" ours", func(t *testing.T) {
			b := newBackend(t, netstate.SourceLocal)
			firewalltest.Apply(t, b, firewalltest.Creates(firewalltest.List(firewalltest.Rich())...))
			whole := firewalltest.Ruleset(t)
			unreadable(t, "patchbay", end)
			b.path, _ = exec.LookPath("nft")
			if err := b.Load(); err != nil {
				t.Fatal(err)
			}
			firewalltest.Same(t, "intact", false, b.Intact())
			before := b.Transactions()
			firewalltest.Apply(t, b)
			firewalltest.Same(t, "transactions", before+1, b.Transactions())
			firewalltest.Same(t, "ruleset", whole, firewalltest.Ruleset(t))
			// A process that knows nothing leaves it in force until it has what comes
			// in its place.
			fresh := newLoaded(t, netstate.SourceLocal)
			firewalltest.Apply(t, fresh)
			firewalltest.Same(t, "ruleset", whole, firewalltest.Ruleset(t))
			firewalltest.Apply(t, fresh, firewalltest.Creates(firewalltest.List(firewalltest.Rich())...))
			firewalltest.Same(t, "ruleset", whole, firewalltest.Ruleset(t))
			if err := newLoaded(t, netstate.SourceLocal).Clean(); err != nil {
				t.Error(err)
			}
			firewalltest.Same(t, "what is left", "", strings.TrimSpace(netlab.Shell(t, "nft list ruleset")))
		})
	}
}
