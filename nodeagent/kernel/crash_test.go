package kernel

import (
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
	"github.com/patchbay-dev/patchbay/nodeagent/plan"
	"github.com/patchbay-dev/patchbay/test/sandbox"
)

const crashAt = "PATCHBAY_TEST_CRASH_AT"

// TestCrash kills a process after each of its writes in turn and expects to
// recognise all that it leaves.
func TestCrash(t *testing.T) {
	if at, err := strconv.Atoi(os.Getenv(crashAt)); err == nil {
		buildAndDie(t, at)
		return
	}
	if !sandbox.Enter(t) {
		return
	}
	k := open(t)
	// Prepared once: the mount of the folder stays.
	apply(t, k, create(managed("first")))
	apply(t, k, remove(managed("first")))
	before := sh(t, "ip -o link; ls -A /run/netns")
	for at := 1; ; at++ {
		child := exec.Command(os.Args[0], "-test.run=^TestCrash$", "-test.count=1")
		child.Env = append(os.Environ(), crashAt+"="+strconv.Itoa(at))
		out, err := child.CombinedOutput()
		if err == nil {
			if at < 10 {
				t.Fatalf("the child had only %d writes:\n%s", at-1, out)
			}
			return
		}
		if status, ok := child.ProcessState.Sys().(syscall.WaitStatus); !ok || status.Signal() != syscall.SIGKILL {
			t.Fatalf("write %d: %v\n%s", at, err, out)
		}
		found := sh(t, "ip -o link; ls -A /run/netns")
		removeHeld(t, k)
		if after := withoutIndexes(sh(t, "ip -o link; ls -A /run/netns")); after != withoutIndexes(before) {
			t.Fatalf("after write %d there was\n%s\nand what our marks did not tell is\n%s", at, found, after)
		}
	}
}

func buildAndDie(t *testing.T, at int) {
	k := open(t)
	k.opts.Step = func() {
		if int(k.Writes()) == at {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		}
	}
	limited(t, k)
	removeHeld(t, k)
}

// removeHeld deletes the objects of Patchbay that a process without memory finds.
func removeHeld(t *testing.T, k *Kernel) {
	t.Helper()
	var links, netns []plan.Step
	for _, h := range inventory(t, k) {
		switch o := h.Object.(type) {
		case netstate.Netns:
			netns = append(netns, remove(o)...)
		case netstate.Link:
			links = append(links, remove(o)...)
		}
	}
	apply(t, k, links)
	apply(t, k, netns)
}

func withoutIndexes(s string) string {
	var lines []string
	for line := range strings.Lines(s) {
		_, rest, _ := strings.Cut(line, ": ")
		lines = append(lines, rest)
	}
	return strings.Join(lines, "")
}

// TestHalfMadeNetns continues what a crash left of a creation.
func TestHalfMadeNetns(t *testing.T) {
	if !sandbox.Enter(t) {
		return
	}
	k := open(t)
	sh(t, "mkdir -p /run/netns; printf %%s %s > /run/netns/net1", netstate.NetnsMark(netstate.SourceLocal, "net1"))
	half := managed("net1")
	half.HalfMade = true
	wantObserved(t, k, keysOf(half), half)
	if held := inventory(t, k); len(held) != 1 || held[0] != (netstate.Held{Object: half}) {
		t.Fatalf("inventory %v", held)
	}
	apply(t, k, create(managed("net1")))
	wantObserved(t, k, keysOf(managed("net1")), managed("net1"))

	sh(t, "printf %%s %s > /run/netns/net2", netstate.NetnsMark(netstate.SourceLocal, "net2"))
	apply(t, k, remove(managed("net2")))
	if got := sh(t, "ls /run/netns"); got != "net1" {
		t.Errorf("namespaces: %s", got)
	}
}

// TestHalfMadeLink observes a link whose maker died before marking it.
func TestHalfMadeLink(t *testing.T) {
	if !sandbox.Enter(t) {
		return
	}
	k := open(t)
	a, b := pair(netstate.End{Name: "veth1"}, netstate.End{Name: "veth2"}, "")
	apply(t, k, []plan.Step{{Op: plan.Create, Key: a.Key(), New: a, Peer: b}})
	a.Mark, a.Up = netstate.HalfMade, false
	b.Mark, b.Up = netstate.HalfMade, false
	wantObserved(t, k, keysOf(a, b), a, b)
	a.Primary = false
	for _, l := range []netstate.Link{a, b} {
		if held := inventory(t, k); !hasObject(held, l) || held[0].Owner != (netstate.Owner{}) {
			t.Errorf("%s is not in the inventory: %v", l.Name, held)
		}
	}
}
