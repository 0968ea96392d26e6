// Package crash kills the agent after every single step it takes in the kernel
// and shows that the next one converges to the same state: nothing doubled,
// nothing leaked.
package crash

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/patchbay-dev/patchbay/nodeagent/cli"
	"github.com/patchbay-dev/patchbay/nodeagent/firewall"
	"github.com/patchbay-dev/patchbay/test/netlab"
	"github.com/patchbay-dev/patchbay/test/sandbox"
)

const (
	asCommand = "PATCHBAY_TEST_COMMAND"
	// killAfter is the step after which the command kills itself.
	killAfter = "PATCHBAY_TEST_KILL_AFTER"
	// countFile gets one byte a step.
	countFile = "PATCHBAY_TEST_COUNT_FILE"
)

func TestMain(m *testing.M) {
	if os.Getenv(asCommand) != "" {
		os.Exit(cli.Run(cli.Options{Args: os.Args[1:], Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr, Step: step()}))
	}
	os.Exit(m.Run())
}

func step() func() {
	limit, _ := strconv.ParseInt(os.Getenv(killAfter), 10, 64)
	var count *os.File
	if name := os.Getenv(countFile); name != "" {
		count, _ = os.OpenFile(name, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	}
	var steps atomic.Int64
	return func() {
		if count != nil {
			_, _ = count.Write([]byte{'.'})
		}
		if steps.Add(1) == limit {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
	}
}

// TestKillWhileBuilding kills the agent after each step of building the
// quickstart.
func TestKillWhileBuilding(t *testing.T) { killWhileBuilding(t, firewall.KindNFTables) }

func TestKillWhileBuildingWithIPTables(t *testing.T) { killWhileBuilding(t, firewall.KindIPTables) }

func killWhileBuilding(t *testing.T, backend string) {
	if !sandbox.Enter(t) {
		return
	}
	b := newBench(t, backend)
	before, none := b.dump(), b.firewall()
	b.fill()
	steps := b.countSteps()
	built := b.dump()
	if slices.Equal(b.firewall(), none) {
		t.Fatal("nothing of the firewall is in the dump")
	}
	b.expectSteps("building", steps, 20)
	b.reset(before)
	for n := 1; n <= steps; n++ {
		if !b.runKilled(n) {
			t.Fatalf("step %d: the agent was not killed", n)
		}
		b.converge("after a kill at build step "+strconv.Itoa(n), built)
		b.reset(before)
	}
}

// TestKillWhileRemoving kills the agent after each step of removing it again.
func TestKillWhileRemoving(t *testing.T) { killWhileRemoving(t, firewall.KindNFTables) }

func TestKillWhileRemovingWithIPTables(t *testing.T) { killWhileRemoving(t, firewall.KindIPTables) }

func killWhileRemoving(t *testing.T, backend string) {
	if !sandbox.Enter(t) {
		return
	}
	b := newBench(t, backend)
	before := b.dump()
	b.fill()
	b.countSteps()
	built := b.dump()
	b.empty()
	steps := b.countSteps()
	b.expectSteps("removing", steps, 5)
	for n := 1; n <= steps; n++ {
		b.fill()
		b.converge("building again", built)
		b.empty()
		if !b.runKilled(n) {
			t.Fatalf("step %d: the agent was not killed", n)
		}
		b.converge("after a kill at removal step "+strconv.Itoa(n), before)
	}
}

// bench is a folder of manifests and the agents that run on it.
type bench struct {
	t        *testing.T
	backend  string
	folder   string
	manifest []byte
}

func newBench(t *testing.T, backend string) *bench {
	manifest, err := os.ReadFile("../../config/samples/quickstart.yaml")
	if err != nil {
		t.Fatal(err)
	}
	return &bench{t: t, backend: backend, folder: t.TempDir(), manifest: manifest}
}

func (b *bench) file() string { return filepath.Join(b.folder, "quickstart.yaml") }

func (b *bench) fill() { b.write(b.manifest) }

func (b *bench) empty() {
	if err := os.Remove(b.file()); err != nil && !errors.Is(err, os.ErrNotExist) {
		b.t.Fatal(err)
	}
}

func (b *bench) command(env []string, args ...string) *exec.Cmd {
	cmd := exec.Command(os.Args[0], append(args, "--nat-backend="+b.backend)...)
	cmd.Env = append(append(os.Environ(), asCommand+"=1"), env...)
	return cmd
}

// agent starts an agent whose log is kept for a failure.
func (b *bench) agent(env ...string) *netlab.Process {
	b.t.Helper()
	p, err := netlab.Start(b.command(env, "agent", "--manifests", b.folder), filepath.Join(b.t.TempDir(), "log"))
	if err != nil {
		b.t.Fatal(err)
	}
	return p
}

func (b *bench) stop(agent *netlab.Process) {
	b.t.Helper()
	if err := agent.Stop(10 * time.Second); err != nil {
		b.t.Fatalf("stop the agent: %v; log:\n%s", err, agent.Log())
	}
}

// expectSteps fails the test unless the hook counted the steps that a change takes at least.
func (b *bench) expectSteps(change string, steps, least int) {
	b.t.Helper()
	b.t.Logf("%s takes %d steps", change, steps)
	if steps < least {
		b.t.Fatalf("the hook counted %d steps: it does not count", steps)
	}
}

// countSteps lets an agent do its work undisturbed and returns its steps.
func (b *bench) countSteps() int {
	file := filepath.Join(b.t.TempDir(), "steps")
	agent := b.agent(countFile + "=" + file)
	last, quiet := -1, time.Now()
	netlab.Eventually(b.t, 10*time.Second, "no step for a while", func() error {
		data, _ := os.ReadFile(file)
		if len(data) != last || last == 0 {
			last, quiet = len(data), time.Now()
		}
		if time.Since(quiet) < netlab.Stretched(200*time.Millisecond) {
			return fmt.Errorf("%d steps; log:\n%s", last, agent.Log())
		}
		return nil
	})
	b.stop(agent)
	return last
}

// runKilled runs an agent that kills itself, and reports whether it did.
func (b *bench) runKilled(n int) bool {
	return killed(b.agent(killAfter + "=" + strconv.Itoa(n)).Wait(10 * time.Second))
}

// killed reports whether a program ended by SIGKILL, which this package's command sends
// to itself.
func killed(err error) bool {
	var exit *exec.ExitError
	return errors.As(err, &exit) && exit.Sys().(syscall.WaitStatus).Signal() == syscall.SIGKILL
}

// converge runs an agent until the kernel is as wanted.
func (b *bench) converge(when string, want []string) {
	b.t.Helper()
	agent := b.agent()
	netlab.Eventually(b.t, 10*time.Second, when, func() error {
		// An agent that has not looked yet has proved nothing.
		log := agent.Log()
		if !strings.Contains(log, "agent started") || strings.Count(log, "ready=True") < b.wanted() {
			return fmt.Errorf("it has not looked; log:\n%s", log)
		}
		if err := b.is(want); err != nil {
			return fmt.Errorf("%w\nlog:\n%s", err, log)
		}
		return nil
	})
	b.stop(agent)
	if err := b.is(want); err != nil {
		b.t.Fatalf("%s: changed again: %v", when, err)
	}
}

// is returns an error unless everything is as wanted.
func (b *bench) is(want []string) error {
	if got := b.dump(); !slices.Equal(got, want) {
		return fmt.Errorf("not as wanted (-want +got):\n%s", cmp.Diff(want, got))
	}
	return nil
}

func (b *bench) reset(before []string) {
	if out, err := b.command(nil, "delete", "--all").CombinedOutput(); err != nil {
		b.t.Fatalf("delete --all: %v\n%s", err, out)
	}
	netlab.Eventually(b.t, 5*time.Second, "delete --all leaves nothing", func() error { return b.is(before) })
	// The next build prepares the folder of namespaces anew: those are steps too.
	_ = syscall.Unmount("/run/netns", 0)
}

// TestKillWhileEditing kills apply after each step of changing what another
// process built: the next apply finishes the edit, and nothing of the old is
// left open.
func TestKillWhileEditing(t *testing.T) { killWhileEditing(t, firewall.KindNFTables) }

func TestKillWhileEditingWithIPTables(t *testing.T) { killWhileEditing(t, firewall.KindIPTables) }

func killWhileEditing(t *testing.T, backend string) {
	if !sandbox.Enter(t) {
		return
	}
	b := newBench(t, backend)
	edited := bytes.ReplaceAll(b.manifest, []byte("8001"), []byte("9001"))
	edited = bytes.ReplaceAll(edited, []byte("192.168.1.2/24"), []byte("192.168.1.9/24"))
	before := b.dump()
	b.fill()
	b.apply()
	b.write(edited)
	steps := b.steps()
	want := b.dump()
	b.expectSteps("editing", steps, 4)
	for n := 1; n <= steps; n++ {
		b.reset(before)
		b.fill()
		b.apply()
		b.killAndFinish(edited, n, want)
	}
	b.reset(before)
}

// TestKillAgentBeforeApply kills an agent after each step of changing what another process
// built. An apply of a third manifest leaves nothing of both, although it sweeps nothing.
func TestKillAgentBeforeApply(t *testing.T) {
	if !sandbox.Enter(t) {
		return
	}
	b := newBench(t, firewall.KindNFTables)
	version := func(port, address string) []byte {
		return bytes.ReplaceAll(bytes.ReplaceAll(b.manifest, []byte("8001"), []byte(port)), []byte("192.168.1.2/24"), []byte(address))
	}
	edited, last := version("9001", "192.168.1.9/24"), version("7001", "192.168.1.7/24")
	before := b.dump()
	b.write(last)
	b.apply()
	want := b.dump()
	b.reset(before)
	b.fill()
	b.apply()
	b.write(edited)
	steps := b.countSteps()
	b.expectSteps("editing", steps, 4)
	for n := 1; n <= steps; n++ {
		b.reset(before)
		b.fill()
		b.apply()
		b.write(edited)
		if !b.runKilled(n) {
			t.Fatalf("step %d: the agent was not killed", n)
		}
		b.write(last)
		b.apply()
		if got := b.dump(); !slices.Equal(got, want) {
			t.Fatalf("after a kill at step %d (-want +got):\n%s", n, cmp.Diff(want, got))
		}
	}
	b.reset(before)
}

func (b *bench) write(manifest []byte) {
	if err := os.WriteFile(b.file(), manifest, 0o600); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) apply(env ...string) {
	b.t.Helper()
	if out, err := b.command(env, "apply", "-f", b.folder).CombinedOutput(); err != nil {
		b.t.Fatalf("apply: %v\n%s", err, out)
	}
}

// wanted is the number of resources in the folder.
func (b *bench) wanted() int {
	data, _ := os.ReadFile(b.file())
	return bytes.Count(data, []byte("\nkind: "))
}

// steps applies once and returns the steps that took.
func (b *bench) steps() int {
	file := filepath.Join(b.t.TempDir(), "steps")
	b.apply(countFile + "=" + file)
	data, err := os.ReadFile(file)
	if err != nil {
		b.t.Fatal(err)
	}
	return len(data)
}
