package firewall

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/patchbay-dev/patchbay/nodeagent/firewall/firewalltest"
	"github.com/patchbay-dev/patchbay/nodeagent/firewall/iptsave"
	"github.com/patchbay-dev/patchbay/nodeagent/firewall/program"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
	"github.com/patchbay-dev/patchbay/test/netlab"
	"github.com/patchbay-dev/patchbay/test/sandbox"
)

// hangs puts programs in front of the node's that never end, and neither do their
// children, while the file that it returns is there.
func hangs(t *testing.T, names ...string) (switchedOn string) {
	t.Helper()
	programs := t.TempDir()
	switchedOn = filepath.Join(programs, "hang")
	for _, name := range names {
		path := strings.TrimSpace(netlab.Shell(t, "command -v "+name))
		text := "#!/bin/sh\n[ -e " + switchedOn + " ] && { sleep 1000 & echo $! >>" + switchedOn + "; wait; }\nexec " + path + " \"$@\"\n"
		if err := os.WriteFile(filepath.Join(programs, name), []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", programs+":"+os.Getenv("PATH"))
	return switchedOn
}

// firewallPrograms are all that a backend may run.
func firewallPrograms() []string {
	names := []string{"nft"}
	for _, v := range []iptsave.Variant{"", iptsave.NFT, iptsave.Legacy} {
		for _, suffix := range []string{"", "-save", "-restore"} {
			names = append(names, v.Program(false, suffix), v.Program(true, suffix))
		}
	}
	return names
}

// TestHangingProgram: whatever a program hangs in, its run ends with an error that
// names it, it is counted and killed with what it started, and once it works again
// everything does.
func TestHangingProgram(t *testing.T) {
	if !sandbox.Enter(t) {
		return
	}
	hang := hangs(t, firewallPrograms()...)
	eachKind(t, func(t *testing.T, k kind) {
		b := k.loaded(t, netstate.SourceLocal)
		answer := program.AnswerTime
		program.AnswerTime = 300 * time.Millisecond
		defer func() { program.AnswerTime = answer }()
		policy := netstate.LinkPolicy{Link: "br-red", Guarded: true}
		for name, call := range map[string]func() error{
			"make":   func() error { _, err := New(b.Name(), Options{Source: netstate.SourceLocal}); return err },
			"choose": func() error { _, err := New(KindAuto, Options{Source: netstate.SourceLocal}); return err },
			"load":   func() error { return b.Load() },
			"apply":  func() error { return b.Apply(firewalltest.Creates(policy)) },
			"clean":  func() error { return b.Clean() },
		} {
			// No program is asked of a firewall without a table.
			netlab.Shell(t, "nft add table inet patchbay")
			if err := os.WriteFile(hang, nil, 0o644); err != nil {
				t.Fatal(err)
			}
			before := program.Unanswered()
			err := call()
			if no := (*program.NoAnswer)(nil); !errors.As(err, &no) || !strings.Contains(err.Error(), no.Program+" did not answer within ") {
				t.Errorf("%s: %v", name, err)
			}
			if program.Unanswered() == before {
				t.Errorf("%s is not counted", name)
			}
			children, err := os.ReadFile(hang)
			if err != nil || len(children) == 0 {
				t.Errorf("%s ran no program: %v", name, err)
			}
			for _, pid := range strings.Fields(string(children)) {
				netlab.Until(t, 10*time.Second, name+" ends the child "+pid+" of a program", func() bool {
					state, err := os.ReadFile("/proc/" + pid + "/stat")
					return err != nil || strings.Contains(string(state), ") Z ")
				})
			}
			if err := os.Remove(hang); err != nil {
				t.Fatal(err)
			}
		}
		program.AnswerTime = answer
		firewalltest.Apply(t, b, firewalltest.Creates(policy))
		firewalltest.Same(t, "held", 1, len(b.Held()))
		firewalltest.Apply(t, b, firewalltest.Deletes(policy))
		netlab.Shell(t, "nft flush ruleset")
	})
}
