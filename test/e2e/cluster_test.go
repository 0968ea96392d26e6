//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/patchbay-dev/patchbay/test/e2e/cluster"
)

func TestNodesAreReady(t *testing.T) {
	const ready = `{range .items[*]}{.metadata.name}={.status.conditions[?(@.type=="Ready")].status} {end}`
	got, err := kind.Kubectl(t.Context(), nil, "get", "nodes", "-o", "jsonpath="+ready)
	if err != nil {
		t.Fatal(err)
	}
	if want := "patchbay-control-plane=True patchbay-worker=True patchbay-worker2=True "; got != want {
		t.Errorf("nodes are %q, want %q", got, want)
	}
}

// The image has what an agent calls, and runs as the agent's pod does:
// privileged, with a read-only root file system.
func TestImageRunsPrivileged(t *testing.T) {
	for _, node := range []string{cluster.Worker, cluster.Worker2} {
		t.Run(node, func(t *testing.T) {
			pod := "probe-" + node
			apply(t, fmt.Sprintf(probe, pod, node, cluster.Image))
			t.Cleanup(func() { kubectl(t, "delete", "pod", pod, "--now", "--ignore-not-found") })
			kubectl(t, "wait", "--for=jsonpath={.status.phase}=Succeeded", "--timeout=60s", "pod/"+pod)
			out := kubectl(t, "logs", pod)
			for _, want := range []string{"nftables v", "iptables v", "table inet probe"} {
				if !strings.Contains(out, want) {
					t.Errorf("the pod's output lacks %q:\n%s", want, out)
				}
			}
		})
	}
}

const probe = `
apiVersion: v1
kind: Pod
metadata: {name: %s}
spec:
  nodeName: %s
  restartPolicy: Never
  containers:
  - name: probe
    image: %s
    imagePullPolicy: Never
    command: [sh, -ec, "nft --version; iptables -V; nft add table inet probe; nft list ruleset; iptables -L -n"]
    securityContext: {privileged: true, readOnlyRootFilesystem: true}
    volumeMounts: [{name: run, mountPath: /run}]
  volumes: [{name: run, emptyDir: {}}]
`

// A worker that reboots is back by itself, and so are its pods.
func TestWorkerRestarts(t *testing.T) {
	if err := kind.Restart(t.Context(), cluster.Worker2); err != nil {
		t.Fatal(err)
	}
	pod := "after-restart"
	apply(t, fmt.Sprintf(probe, pod, cluster.Worker2, cluster.Image))
	t.Cleanup(func() { kubectl(t, "delete", "pod", pod, "--now", "--ignore-not-found") })
	kubectl(t, "wait", "--for=jsonpath={.status.phase}=Succeeded", "--timeout=60s", "pod/"+pod)
}

// The audit log names the user and the object of a write, and no reads.
func TestWritesAreAudited(t *testing.T) {
	apply(t, "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: audited}\n")
	kubectl(t, "get", "configmap", "audited")
	kubectl(t, "delete", "configmap", "audited")
	log, err := kind.Exec(t.Context(), cluster.ControlPlane, nil, "grep", `"name":"audited"`, cluster.AuditLog)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"verb":"create"`, `"verb":"delete"`, `"username":"kubernetes-admin"`} {
		if !strings.Contains(log, want) {
			t.Errorf("the audit log of the write lacks %s:\n%s", want, log)
		}
	}
	if strings.Contains(log, `"verb":"get"`) {
		t.Errorf("the audit log has a read:\n%s", log)
	}
}

// apply applies a manifest.
func apply(t *testing.T, manifest string) {
	t.Helper()
	if _, err := kind.Kubectl(t.Context(), []byte(manifest), "apply", "-f", "-"); err != nil {
		t.Fatal(err)
	}
}

// kubectl runs kubectl and returns what it prints. It works in a Cleanup too,
// where the test's own context is over.
func kubectl(t *testing.T, args ...string) string {
	t.Helper()
	out, err := kind.Kubectl(context.Background(), nil, args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}
