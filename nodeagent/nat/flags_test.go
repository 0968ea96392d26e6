package nat

import (
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
	"github.com/patchbay-dev/patchbay/test/sandbox"
)

// tableNames are of several lengths: what nft 1.0.6 prints for a table's flags
// depends on what lies in its memory.
var tableNames = []string{"f", "firewalld", "a-rather-long-name-of-a-table", strings.Repeat("x", 100)}

// TestForeignTablesWithFlags: a dormant table drops nothing, one that a process owns
// what its rules say, and neither keeps ours from being read.
func TestForeignTablesWithFlags(t *testing.T) {
	if !sandbox.Enter(t) {
		return
	}
	for _, name := range tableNames {
		chain := "add chain inet " + name + " onward { type filter hook forward priority 10; policy drop; }\n"
		run(t, "nft 'add table inet "+name+" { flags dormant; }'; nft '"+chain+"'")
		same(t, "blockers of dormant "+name, "", strings.TrimSpace(inShort(blockersNow(t))))
		w := watchAll(t, loaded(t, netstate.SourceLocal))
		run(t, "nft add table inet "+name)
		w.fires(t)
		if got := blockersNow(t); len(got) == 0 || !strings.HasSuffix(got[0].Name, "table inet "+name) {
			t.Errorf("blockers of %s that wakes up: %v", name, got)
		}
		run(t, "nft delete table inet "+name)

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
		for deadline := time.Now().Add(10 * time.Second); !strings.Contains(run(t, "nft list ruleset"), "accept"); {
			if time.Now().After(deadline) {
				t.Fatal("the table with an owner does not appear")
			}
		}
		if got := blockersNow(t); len(got) != 2 || got[0].Blocks(netstate.IPv4, "br-red") || !got[0].Blocks(netstate.IPv4, "br-blue") {
			t.Errorf("blockers of owned %s: %v", name, got)
		}
		stdin.Close()
		_ = owner.Wait()
	}
}

// TestOwnTableWithFlags: a table of ours that was made dormant is not intact, and is
// whole again after one transaction, with what another source has in it.
func TestOwnTableWithFlags(t *testing.T) {
	if !sandbox.Enter(t) {
		return
	}
	local, cluster := backend(t, netstate.SourceLocal), backend(t, netstate.SourceCluster)
	apply(t, local, creates(list(rich())...))
	apply(t, cluster, creates(netstate.Realm{Link: "br-cluster", Guarded: true}))
	whole := ruleset(t)
	for _, family := range []string{"inet", "bridge"} {
		run(t, "nft 'add table "+family+" patchbay { flags dormant; }'")
		b := loaded(t, netstate.SourceLocal)
		same(t, family+" intact", false, b.Intact())
		before := b.Transactions()
		apply(t, b)
		same(t, "transactions", before+1, b.Transactions())
		same(t, "ruleset", whole, ruleset(t))
		same(t, family+" intact", true, loaded(t, netstate.SourceLocal).Intact())
	}
	run(t, "nft 'add table inet patchbay { flags dormant; }'")
	if err := loaded(t, netstate.SourceLocal).Clean(t.Context()); err != nil {
		t.Error(err)
	}
	same(t, "what is left", "", strings.TrimSpace(run(t, "nft list ruleset")))
}

// unreadable has nft end as it is told, in place of every listing of tables whose
// name is part of the call.
func unreadable(t *testing.T, table, end string) {
	t.Helper()
	nft := strings.TrimSpace(run(t, "command -v nft"))
	programs := t.TempDir()
	text := "#!/bin/sh\ncase \"$*\" in *list*" + table + "*) " + end + ";; esac\nexec " + nft + " \"$@\"\n"
	if err := os.WriteFile(filepath.Join(programs, "nft"), []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", programs+":"+os.Getenv("PATH"))
}

// TestUnreadableTables: a table that nft cannot list stops nothing. Of others' it is
// said that it is unknown; ours is made anew with what was last known to be in it.
func TestUnreadableTables(t *testing.T) {
	if !sandbox.Enter(t) {
		return
	}
	for name, end := range map[string]string{"broken": `printf '{"nftables": [{"table'; exit 0`, "crashed": "kill -SEGV $$"} {
		t.Run(name, func(t *testing.T) {
			unreadable(t, "foreign", end)
			run(t, "nft 'add table inet foreign; add chain inet foreign c { type filter hook forward priority 0; policy drop; }'")
			got := blockersNow(t)
			if len(got) == 0 || !got[0].Unknown || !strings.Contains(got[0].Name, "table inet foreign") {
				t.Errorf("blockers: %+v", got)
			}
			run(t, "nft delete table inet foreign")
		})
		t.Run(name+" ours", func(t *testing.T) {
			b := backend(t, netstate.SourceLocal)
			apply(t, b, creates(list(rich())...))
			whole := ruleset(t)
			unreadable(t, "patchbay", end)
			b.path, _ = exec.LookPath("nft")
			if err := b.Load(t.Context()); err != nil {
				t.Fatal(err)
			}
			same(t, "intact", false, b.Intact())
			before := b.Transactions()
			apply(t, b)
			same(t, "transactions", before+1, b.Transactions())
			same(t, "ruleset", whole, ruleset(t))
			// A process that knows nothing leaves it in force until it has what comes
			// in its place.
			fresh := loaded(t, netstate.SourceLocal)
			apply(t, fresh)
			same(t, "ruleset", whole, ruleset(t))
			apply(t, fresh, creates(list(rich())...))
			same(t, "ruleset", whole, ruleset(t))
			if err := loaded(t, netstate.SourceLocal).Clean(t.Context()); err != nil {
				t.Error(err)
			}
			same(t, "what is left", "", strings.TrimSpace(run(t, "nft list ruleset")))
		})
	}
}
