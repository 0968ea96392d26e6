//go:build e2e

package e2e

import (
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/patchbay-dev/patchbay/test/e2e/cluster"
	"github.com/patchbay-dev/patchbay/test/netlab"
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
	netlab.Eventually(t, patience, "another sandbox", func() error {
		second, err := kind.StopSandbox(t.Context(), cluster.Worker, uid)
		if err == nil && second == first {
			err = fmt.Errorf("the stopped sandbox %s runs", first)
		}
		return err
	})
	sandboxesAreKnown(t)
	var before int
	netlab.Eventually(t, patience, "a count of failures", func() (err error) {
		before, err = metric("patchbay_container_runtime_errors_total")
		return err
	})
	on(t, cluster.Worker, "systemctl stop containerd")
	t.Cleanup(func() { on(t, cluster.Worker, "systemctl start containerd") })
	netlab.Eventually(t, patience, "the runtime missed", func() error {
		now, err := metric("patchbay_container_runtime_errors_total")
		if err == nil && now <= before+2 {
			err = fmt.Errorf("%d failures", now-before)
		}
		return err
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

// metric is a figure of the worker's agent.
func metric(name string) (int, error) {
	out, err := attempt(cluster.Worker, `curl -sS --max-time 5 http://127.0.0.1:9464/metrics | sed -n 's/^`+name+` //p'`)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(out))
}

// sandboxesAreKnown waits until the agent knows as many sandboxes as the runtime
// runs, which is not the same at each look: pods of earlier tests still end.
func sandboxesAreKnown(t *testing.T) {
	t.Helper()
	netlab.Eventually(t, patience, "all sandboxes known", func() error {
		running, err := kind.Sandboxes(t.Context(), cluster.Worker)
		if err != nil {
			return err
		}
		known, err := metric("patchbay_pod_sandboxes")
		if err == nil && (known == 0 || known != len(running)) {
			err = fmt.Errorf("%d run, %d are known", len(running), known)
		}
		return err
	})
}
