package firewall

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/patchbay-dev/patchbay/nodeagent/firewall/firewalltest"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
	"github.com/patchbay-dev/patchbay/test/netlab"
	"github.com/patchbay-dev/patchbay/test/sandbox"
)

// TestSwitch goes from each backend to each other.
func TestSwitch(t *testing.T) {
	if !sandbox.Enter(t) {
		return
	}
	eachKind(t, func(t *testing.T, from kind) {
		eachKind(t, func(t *testing.T, to kind) {
			if from.name != to.name {
				switched(t, from, to)
			}
		})
	})
}

func switched(t *testing.T, from, to kind) {
	before, other := from.open(t, netstate.SourceLocal), from.open(t, netstate.SourceCluster)
	all, foreign := firewalltest.Rich().Add(firewalltest.OpeningsOf("br-red")...), firewalltest.Publish("0.0.0.0", "tcp", 8099, "10.68.0.101:80")
	firewalltest.Apply(t, before, firewalltest.Creates(able(before, all)...))
	firewalltest.Apply(t, other, firewalltest.Creates(foreign))

	now := to.open(t, netstate.SourceLocal)
	firewalltest.Apply(t, now, firewalltest.Creates(able(now, all)...))
	if err := now.Load(); err != nil {
		t.Fatal(err)
	}
	if err := now.Retire(); err != nil {
		t.Fatal(err)
	}
	firewalltest.Same(t, "what the former one still has of the source", netstate.Set{}, from.loaded(t, netstate.SourceLocal).Held())
	firewalltest.Same(t, "what it has of another", netstate.Set{}.Add(foreign), from.loaded(t, netstate.SourceCluster).Held())
	firewalltest.Same(t, "what the present one has", able(now, all), firewalltest.List(to.loaded(t, netstate.SourceLocal).Held()))

	if err := now.CleanAll(); err != nil {
		t.Fatal(err)
	}
	firewalltest.Same(t, "what is left", "", firewall(t))
}

// TestChoose has nodes that lack one or both.
func TestChoose(t *testing.T) {
	if !sandbox.Enter(t) {
		return
	}
	opts := Options{Source: netstate.SourceLocal}
	named := func(want string) {
		t.Helper()
		b, err := New(KindAuto, opts)
		if err != nil {
			t.Fatal(err)
		}
		firewalltest.Same(t, "backend", want, b.Name())
	}
	gen := firewalltest.Generation(t)
	named(KindNFTables)
	firewalltest.Same(t, "generation", gen, firewalltest.Generation(t))
	programs := t.TempDir()
	t.Setenv("PATH", programs)
	if _, err := New(KindAuto, opts); err == nil || !strings.Contains(err.Error(), "find nft") || !strings.Contains(err.Error(), "find iptables") {
		t.Errorf("without programs: %v", err)
	}
	for _, name := range []string{"iptables", "iptables-save", "iptables-restore", "ip6tables", "ip6tables-save", "ip6tables-restore"} {
		link(t, programs, name)
	}
	named(KindIPTables)
	// A kernel that takes no table.
	if err := os.WriteFile(filepath.Join(programs, "nft"), []byte("#!/bin/sh\n[ $1 = --version ] && echo 'nftables v1.0.6' && exit\necho 'Error: Could not process rule: Operation not supported' >&2\nexit 1\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	named(KindIPTables)
	if err := os.Remove(filepath.Join(programs, "iptables")); err != nil {
		t.Fatal(err)
	}
	if _, err := New(KindAuto, opts); err == nil || !strings.Contains(err.Error(), "Operation not supported") || !strings.Contains(err.Error(), "find iptables") {
		t.Errorf("with a kernel that lacks nftables: %v", err)
	}
}

// TestUnreadable: objects that were held before count for nothing once the firewall cannot
// be read.
func TestUnreadable(t *testing.T) {
	if !sandbox.Enter(t) {
		return
	}
	eachKind(t, func(t *testing.T, k kind) {
		netlab.Shell(t, "nft add table inet patchbay")
		folder := t.TempDir()
		link(t, folder, "nft")
		t.Setenv("PATH", folder+":"+os.Getenv("PATH"))
		b := k.loaded(t, netstate.SourceLocal)
		firewalltest.Same(t, "known", false, b.stale)
		if err := os.Remove(folder + "/nft"); err != nil {
			t.Fatal(err)
		}
		t.Setenv("PATH", "/nothing")
		if err := b.Load(); err == nil || !b.stale {
			t.Errorf("unreadable, but unknown is %t: %v", b.stale, err)
		}
	})
}

func link(t *testing.T, folder, name string) {
	t.Helper()
	for _, from := range []string{"/usr/sbin/", "/sbin/", "/usr/bin/"} {
		if path, err := exec.LookPath(from + name); err == nil {
			if err := os.Symlink(path, filepath.Join(folder, name)); err != nil {
				t.Fatal(err)
			}
			return
		}
	}
	t.Fatalf("there is no %s", name)
}
