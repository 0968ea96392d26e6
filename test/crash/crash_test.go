// Package crash kills the agent after every single step it takes in the kernel
// and shows that the next one converges to the same state: nothing doubled,
// nothing leaked.
package crash

import (
	"bytes"
	"errors"
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
	t.Logf("building takes %d steps", steps)
	if steps < 20 {
		t.Fatalf("the hook counted %d steps: it does not count", steps)
	}
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
	t.Logf("removing takes %d steps", steps)
	if steps < 5 {
		t.Fatalf("the hook counted %d steps: it does not count", steps)
	}
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
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd
}

// agent starts an agent whose log is kept for a failure.
func (b *bench) agent(env ...string) (*exec.Cmd, logFile) {
	file, err := os.CreateTemp(b.t.TempDir(), "log")
	if err != nil {
		b.t.Fatal(err)
	}
	defer file.Close()
	cmd := b.command(env, "agent", "--manifests", b.folder)
	cmd.Stderr = file
	if err := cmd.Start(); err != nil {
		b.t.Fatal(err)
	}
	return cmd, logFile(file.Name())
}

// logFile is the name of an agent's log; as text it is the log so far.
type logFile string

func (l logFile) String() string {
	text, _ := os.ReadFile(string(l))
	return string(text)
}

func (b *bench) stop(cmd *exec.Cmd, log logFile) {
	b.t.Helper()
	_ = cmd.Process.Signal(syscall.SIGTERM)
	if err := cmd.Wait(); err != nil {
		b.t.Fatalf("stop the agent: %v; log:\n%s", err, log)
	}
}

// countSteps lets an agent do its work undisturbed and returns its steps.
func (b *bench) countSteps() int {
	file := filepath.Join(b.t.TempDir(), "steps")
	cmd, log := b.agent(countFile + "=" + file)
	last, quiet := -1, 0
	b.poll(10*time.Second, func() bool {
		data, _ := os.ReadFile(file)
		if len(data) == last && last > 0 {
			quiet++
		} else {
			last, quiet = len(data), 0
		}
		return quiet >= 10
	}, func() { b.t.Fatalf("no quiet after %d steps; log:\n%s", last, log) })
	b.stop(cmd, log)
	return last
}

// runKilled runs an agent that kills itself, and reports whether it did.
func (b *bench) runKilled(n int) bool {
	cmd, _ := b.agent(killAfter + "=" + strconv.Itoa(n))
	timer := time.AfterFunc(10*time.Second, func() { _ = cmd.Process.Signal(syscall.SIGTERM) })
	defer timer.Stop()
	var exit *exec.ExitError
	return errors.As(cmd.Wait(), &exit) && exit.Sys().(syscall.WaitStatus).Signal() == syscall.SIGKILL
}

// converge runs an agent until the kernel is as wanted.
func (b *bench) converge(when string, want []string) {
	b.t.Helper()
	cmd, log := b.agent()
	// An agent that has not looked yet has proved nothing.
	looked := func() bool {
		text := log.String()
		return strings.Contains(text, "agent started") && strings.Count(text, "ready=True") >= b.wanted()
	}
	b.poll(10*time.Second, func() bool { return looked() && slices.Equal(b.dump(), want) }, func() {
		b.t.Fatalf("%s: not as wanted (-want +got):\n%s\nlog:\n%s", when, cmp.Diff(want, b.dump()), log)
	})
	b.stop(cmd, log)
	if got := b.dump(); !slices.Equal(got, want) {
		b.t.Fatalf("%s: changed again (-want +got):\n%s", when, cmp.Diff(want, got))
	}
}

func (b *bench) reset(before []string) {
	if out, err := b.command(nil, "delete", "--all").CombinedOutput(); err != nil {
		b.t.Fatalf("delete --all: %v\n%s", err, out)
	}
	b.poll(5*time.Second, func() bool { return slices.Equal(b.dump(), before) }, func() {
		b.t.Fatalf("delete --all left something (-want +got):\n%s", cmp.Diff(before, b.dump()))
	})
	// The next build prepares the folder of namespaces anew: those are steps too.
	_ = syscall.Unmount("/run/netns", 0)
}

// poll asks until the answer is yes or the time is over.
func (b *bench) poll(limit time.Duration, ok func() bool, late func()) {
	b.t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	deadline := time.Now().Add(limit)
	for !ok() {
		if time.Now().After(deadline) {
			late()
			return
		}
		<-tick.C
	}
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
	t.Logf("editing takes %d steps", steps)
	if steps < 4 {
		t.Fatalf("the hook counted %d steps: it does not count", steps)
	}
	for n := 1; n <= steps; n++ {
		b.reset(before)
		b.fill()
		b.apply()
		b.killAndFinish(edited, n, want)
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
