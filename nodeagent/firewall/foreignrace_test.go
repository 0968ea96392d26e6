package firewall

import (
	"bytes"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"sync"
	"testing"

	"github.com/patchbay-dev/patchbay/nodeagent/firewall/firewalltest"
	"github.com/patchbay-dev/patchbay/nodeagent/firewall/iptsave"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
	"github.com/patchbay-dev/patchbay/test/netlab"
	"github.com/patchbay-dev/patchbay/test/sandbox"
)

const (
	// raceRounds are how many rounds the other program makes in each family; a round is
	// two transactions of its own.
	raceRounds = 500
	// raceBatch are the rounds of one run of iptables-restore, which takes a lock for
	// each.
	raceBatch = 50
)

// TestForeignRulesStayInRace has another program add and delete rules in the chains of
// the kernel, and in Docker's, while Patchbay mends its own there: whatever the moment, no
// rule of the program is gone before it deletes it, and Patchbay's are right in the end.
func TestForeignRulesStayInRace(t *testing.T) {
	if !sandbox.Enter(t) {
		return
	}
	eachKind(t, func(t *testing.T, k kind) {
		v := iptsave.NFT
		if k.name == "iptables-legacy" {
			v = iptsave.Legacy
		}
		b := k.open(t, netstate.SourceLocal)
		openings := firewalltest.OpeningsOf("br-red")
		want := netstate.Set{}.Add(append(worldObjects(), openings...)...)
		netlab.Shell(t, variantsOf(v, `for f in iptables ip6tables; do
			$f -N DOCKER-USER; $f -A FORWARD -j DOCKER-USER; $f -P FORWARD DROP
			for i in $(seq 20); do $f -A FORWARD -p tcp --dport $i -j ACCEPT; $f -A DOCKER-USER -p tcp --dport $i -j ACCEPT; $f -t nat -A PREROUTING -p tcp --dport $i -j ACCEPT; done
		done`))
		if err := b.Load(); err != nil {
			t.Fatal(err)
		}
		firewalltest.Apply(t, b, firewalltest.Creates(able(b, want)...))
		standing := foreignRules(t, v)
		before := b.Transactions()
		open := true
		race(t, v, func() {
			steps := firewalltest.Creates(openings...)
			if open = !open; !open {
				steps = firewalltest.Deletes(openings...)
			}
			// What fails meanwhile is mended by the next time.
			if b.Load() == nil {
				_ = b.Apply(steps)
			}
		})
		if n := b.Transactions() - before; n < 10 {
			t.Errorf("ours were mended by %d transactions alone", n)
		}
		repair(t, b, netstate.Set{}.Add(able(b, want)...))
		firewalltest.Same(t, "rules of others", standing, foreignRules(t, v))
		other := k.loaded(t, netstate.SourceLocal)
		firewalltest.Same(t, "held", netstate.Set{}.Add(able(b, want)...), other.Held())
		firewalltest.Same(t, "intact", true, other.Intact())
		if err := b.Clean(); err != nil {
			t.Error(err)
		}
		firewalltest.Same(t, "rules of others in the end", standing, foreignRules(t, v))
		netlab.Shell(t, variantsOf(v, `for f in iptables ip6tables; do $f -P FORWARD ACCEPT; $f -F; $f -X; $f -t nat -F; done`))
	})
}

// race calls mend again and again while the other program works in both families.
func race(t *testing.T, v iptsave.Variant, mend func()) {
	t.Helper()
	done := make(chan error, 2)
	var both sync.WaitGroup
	for _, six := range []bool{false, true} {
		both.Go(func() {
			for range raceRounds / raceBatch {
				if err := foreignBatch(v, six); err != nil {
					done <- err
					return
				}
			}
		})
	}
	go func() { both.Wait(); close(done) }()
	for {
		select {
		case err, failed := <-done:
			if !failed {
				return
			}
			t.Errorf("a rule of the other program is gone: %v", err)
		default:
			mend()
		}
	}
}

// foreignBatch makes rounds of the other program: rules of its own come at the head of
// chains, jumps lead to Patchbay's chains twice, and the program deletes its rules by their
// text.
func foreignBatch(v iptsave.Variant, six bool) error {
	var text strings.Builder
	for range raceBatch {
		for _, op := range []string{"-I", "-D"} {
			var commands []string
			for port := range 3 {
				rule := fmt.Sprintf(" -p udp --dport %d -j ACCEPT", port+1)
				commands = append(commands, op+" FORWARD"+rule, op+" DOCKER-USER"+rule)
			}
			text.WriteString(iptsave.Text("filter", commands))
		}
	}
	cmd := exec.Command(v.Program(six, "-restore"), "--noflush", "-w", fmt.Sprint(iptsave.LockPatience))
	cmd.Stdin = strings.NewReader(text.String())
	if out, err := cmd.CombinedOutput(); err != nil {
		return errors.Join(err, errors.New(string(bytes.TrimSpace(out))))
	}
	return nil
}

// foreignRules are the rules without Patchbay's mark, in their order.
func foreignRules(t *testing.T, v iptsave.Variant) string {
	t.Helper()
	var out []string
	for l := range strings.Lines(tablesOf(t, v)) {
		if !strings.Contains(l, "PATCHBAY") {
			out = append(out, l)
		}
	}
	return strings.Join(out, "")
}
