//go:build e2e

package e2e

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/patchbay-dev/patchbay/test/e2e/cluster"
)

// TestSandboxesAreSeen: the agent, which reads no pods, knows from the container
// runtime that a pod comes and goes, also after the runtime restarted with a new
// socket; and a sandbox that is stopped is replaced by the kubelet.
func TestSandboxesAreSeen(t *testing.T) {
	before := 0
	eventually(t, "a first list", func() error {
		if before = sandboxes(t); before == 0 {
			return errors.New("nothing is known, not even the agent's own pod")
		}
		return nil
	})
	apply(t, fmt.Sprintf(sleeper, "seen", cluster.Worker, cluster.Image))
	t.Cleanup(func() { kubectl(t, "delete", "pod", "seen", "--now", "--ignore-not-found") })
	kubectl(t, "wait", "--for=condition=Ready", "--timeout=60s", "pod/seen")
	sandboxesBecome(t, before+1)
	uid := kubectl(t, "get", "pod", "seen", "-o", "jsonpath={.metadata.uid}")
	first, err := kind.StopSandbox(t.Context(), cluster.Worker, uid)
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "another sandbox", func() error {
		second, err := kind.StopSandbox(t.Context(), cluster.Worker, uid)
		if err == nil && second == first {
			err = fmt.Errorf("the stopped sandbox %s runs", first)
		}
		return err
	})
	sandboxesBecome(t, before+1)
	restarts := runtimeErrors(t)
	on(t, cluster.Worker, "systemctl stop containerd")
	t.Cleanup(func() { on(t, cluster.Worker, "systemctl start containerd") })
	eventually(t, "the runtime missed", func() error {
		if now := runtimeErrors(t); now <= restarts+2 {
			return fmt.Errorf("%d failures", now-restarts)
		}
		return nil
	})
	on(t, cluster.Worker, "systemctl start containerd")
	sandboxesBecome(t, before+1)
	kubectl(t, "delete", "pod", "seen", "--now")
	sandboxesBecome(t, before)
}

const sleeper = `
apiVersion: v1
kind: Pod
metadata: {name: %s}
spec:
  nodeName: %s
  terminationGracePeriodSeconds: 1
  containers:
  - name: sleep
    image: %s
    imagePullPolicy: Never
    command: [sleep, infinity]
`

// sandboxes is how many sandboxes the worker's agent knows.
func sandboxes(t *testing.T) int { return metric(t, "patchbay_pod_sandboxes") }

func runtimeErrors(t *testing.T) int { return metric(t, "patchbay_container_runtime_errors_total") }

func metric(t *testing.T, name string) int {
	t.Helper()
	out := on(t, cluster.Worker, `curl -sS http://127.0.0.1:9464/metrics | sed -n 's/^`+name+` //p'`)
	n, err := strconv.Atoi(strings.TrimSpace(out))
	if err != nil {
		t.Fatalf("%s is %q", name, out)
	}
	return n
}

func sandboxesBecome(t *testing.T, want int) {
	t.Helper()
	eventually(t, fmt.Sprintf("%d sandboxes", want), func() error {
		if got := sandboxes(t); got != want {
			return fmt.Errorf("%d are known", got)
		}
		return nil
	})
}
