package bench

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/patchbay-dev/patchbay/nodeagent/cli"
	"github.com/patchbay-dev/patchbay/test/sandbox"
)

// asCommand is the name by which this program is the command.
const asCommand = "patchbay"

func TestMain(m *testing.M) {
	if os.Args[0] == asCommand {
		os.Exit(cli.Main())
	}
	os.Exit(m.Run())
}

func command(args ...string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Args[0] = asCommand
	return cmd
}

// BenchmarkScale has an agent build, find again after a restart, and delete a folder of
// attachments with as many publishes.
func BenchmarkScale(b *testing.B) {
	if !sandbox.Enter(b) {
		return
	}
	for b.Loop() {
		fmt.Printf("\nprocessor time and memory of an agent for a folder:\n%-34s %8s %8s %8s %8s %8s\n", "", "build", "restart", "delete", "memory", "peak")
		for _, n := range []int{1000, 3000} {
			folder := b.TempDir()
			resources := writeFolder(b, folder, n)
			build, memory, peak := agentCosts(b, folder, resources)
			restart, _, _ := agentCosts(b, folder, resources)
			remove := command("delete", "--all")
			if out, err := remove.CombinedOutput(); err != nil {
				b.Fatalf("%v: %s", err, out)
			}
			what := fmt.Sprintf("%d attachments, %d publishes", n, n)
			fmt.Printf("%-34s %6.1f s %6.1f s %6.1f s %4d MiB %4d MiB\n", what, build.Seconds(), restart.Seconds(), spent(remove).Seconds(), memory>>20, peak>>20)
		}
	}
}

// writeFolder writes manifests of attachments and publishes, with networks of 900
// attachments each, and returns the number of resources.
func writeFolder(b *testing.B, folder string, n int) int {
	var text strings.Builder
	document := func(kind, name, spec string) {
		fmt.Fprintf(&text, "---\napiVersion: patchbay.dev/v1alpha1\nkind: %s\nmetadata: {name: %s}\nspec: %s\n", kind, name, spec)
	}
	const most = 900
	networks := (n + most - 1) / most
	for i := range networks {
		document("BridgeNetwork", fmt.Sprintf("big%d", i), fmt.Sprintf(`{subnets: ["10.%d.0.0/16"]}`, 80+i))
	}
	for i := range n {
		document("NamespaceAttachment", name(i), fmt.Sprintf("{target: {netns: {name: %s}}, network: big%d}", name(i), i/most))
		document("PortPublish", name(i), fmt.Sprintf("{attachment: %s, ports: [{hostPort: %d, targetPort: 80}]}", name(i), 20000+i))
	}
	must(b, os.WriteFile(filepath.Join(folder, "all.yaml"), []byte(text.String()), 0o600))
	return networks + 2*n
}

// agentCosts runs an agent until all resources are Ready and it rests, and returns what
// that cost.
func agentCosts(b *testing.B, folder string, resources int) (processor time.Duration, memory, peak int) {
	log := filepath.Join(b.TempDir(), "log")
	file, err := os.Create(log)
	must(b, err)
	defer file.Close()
	agent := command("agent", "--manifests", folder)
	agent.Stderr = file
	must(b, agent.Start())
	awaitRest(b, agent.Process.Pid, log, resources)
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", agent.Process.Pid))
	must(b, err)
	memory, err = kilobytes(status, "VmRSS")
	must(b, err)
	peak, err = kilobytes(status, "VmHWM")
	must(b, err)
	must(b, agent.Process.Signal(syscall.SIGTERM))
	must(b, agent.Wait())
	return spent(agent), memory, peak
}

// awaitRest waits until the log of an agent says Ready of all resources, and the agent has
// not run on a processor for two seconds.
func awaitRest(b *testing.B, pid int, log string, resources int) {
	var before, now []byte
	for deadline := time.Now().Add(5 * time.Minute); ; time.Sleep(2 * time.Second) {
		text, err := os.ReadFile(log)
		must(b, err)
		before = now
		now, err = os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		must(b, err)
		ready := bytes.Count(text, []byte("ready=True"))
		if ready >= resources && bytes.Equal(fields(before), fields(now)) {
			return
		}
		if time.Now().After(deadline) {
			b.Fatalf("%d of %d are Ready", ready, resources)
		}
	}
}

// fields are the processor times in /proc/PID/stat.
func fields(stat []byte) []byte {
	list := bytes.Fields(stat)
	if len(list) < 15 {
		return nil
	}
	return bytes.Join(list[13:15], nil)
}

func spent(cmd *exec.Cmd) time.Duration {
	return cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
}
