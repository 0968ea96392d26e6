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
	sandboxesAreKnown(t)
	apply(t, fmt.Sprintf(sleeper, "seen", cluster.Worker, cluster.Image))
	t.Cleanup(func() { kubectl(t, "delete", "pod", "seen", "--now", "--ignore-not-found") })
	kubectl(t, "wait", "--for=condition=Ready", "--timeout=60s", "pod/seen")
	sandboxesAreKnown(t)
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
	sandboxesAreKnown(t)
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
	sandboxesAreKnown(t)
	kubectl(t, "delete", "pod", "seen", "--now")
	sandboxesAreKnown(t)
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

// sandboxesAreKnown waits until the agent knows as many sandboxes as the runtime
// runs, which is not the same at each look: pods of earlier tests still end.
func sandboxesAreKnown(t *testing.T) {
	t.Helper()
	eventually(t, "all sandboxes known", func() error {
		running, err := kind.Sandboxes(t.Context(), cluster.Worker)
		if err != nil {
			return err
		}
		known := sandboxes(t)
		if known == 0 {
			return errors.New("nothing is known, not even the agent's own pod")
		}
		if known != len(running) {
			return fmt.Errorf("%d run, %d are known", len(running), known)
		}
		return nil
	})
}
