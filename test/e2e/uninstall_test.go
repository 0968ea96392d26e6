//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/patchbay-dev/patchbay/test/e2e/cluster"
)

// The files of this package run in the order of their names. This one is the
// last: it takes away the CRDs that the other tests use, and gives them back by Helm.

// TestUninstall: taking controller and agents away leaves objects and networks
// as they are; Helm's agents take over without rewriting anything, and Helm's
// uninstall leaves them too. Then everything goes, in order, and nodes are clean.
func TestUninstall(t *testing.T) {
	lab := network("kept", "10.85.0.0/24", "") + attachment("kept1", cluster.Worker, "kept") + attachment("kept2", cluster.Worker, "kept") + publish("kept", "kept1", 20090, 8001)
	apply(t, lab)
	ready(t, "bnet/kept", "nsa/kept1", "nsa/kept2", "pp/kept")
	two, url := address(t, "kept2"), "http://"+nodeIP(t, cluster.Worker)+":20090"
	serve(t, cluster.Worker, "kept1", 8001)
	before := on(t, cluster.Worker, ours)
	stays := func(when string) {
		t.Helper()
		ping(t, cluster.Worker, "kept1", two)
		curl(t, cluster.Worker2, url, "kept1")
		kubectl(t, "get", "bnet/kept", "nsa/kept1", "nsa/kept2", "pp/kept")
		if now := on(t, cluster.Worker, ours); now != before {
			t.Errorf("%s the kernel has changed\nbefore:\n%s\nnow:\n%s", when, before, now)
		}
	}

	kubectl(t, "delete", "-k", "../../config/default")
	stays("after kubectl delete -k config/default")

	kubectl(t, "apply", "-f", "../../config/default/namespace.yaml")
	helm(t, "install", "patchbay", "../../config/chart", "--namespace", "patchbay-system", "--wait", "--timeout", "120s")
	for _, node := range cluster.Nodes() {
		agentPod(t, node)
	}
	ready(t, "bnet/kept", "nsa/kept1", "nsa/kept2", "pp/kept")
	stays("with Helm's agents")
	kubectl(t, "patch", "pp", "kept", "--type=merge", "-p", `{"spec":{"ports":[{"hostPort":20091,"targetPort":8001}]}}`)
	ready(t, "pp/kept")
	url = "http://" + nodeIP(t, cluster.Worker) + ":20091"
	before = on(t, cluster.Worker, ours)
	stays("after an edit")
	helm(t, "uninstall", "patchbay", "--namespace", "patchbay-system", "--wait")
	stays("after helm uninstall")

	if err := install(context.Background()); err != nil {
		t.Fatal(err)
	}
	stays("installed again by kustomize")
	uninstallAll(t)
	clean(t)
	if crds := kubectl(t, "get", "crds", "-o", "name"); strings.Contains(crds, "patchbay.dev") {
		t.Errorf("left: %s", crds)
	}
}

// TestDeleteAll: a node whose cluster has forgotten it is cleaned by the binary
// alone.
func TestDeleteAll(t *testing.T) {
	if err := install(context.Background()); err != nil {
		t.Fatal(err)
	}
	apply(t, network("orphan", "10.86.0.0/24", "")+attachment("orphan1", cluster.Worker2, "orphan"))
	ready(t, "bnet/orphan", "nsa/orphan1")
	kubectl(t, "delete", "-k", "../../config/default")
	binary, err := os.ReadFile("../../bin/patchbay")
	if err != nil {
		t.Fatal(err)
	}
	for _, node := range cluster.Nodes() {
		if err := kind.WriteFile(t.Context(), node, "/root/patchbay", binary); err != nil {
			t.Fatal(err)
		}
		out := on(t, node, "chmod +x /root/patchbay; /root/patchbay status; /root/patchbay delete --all; /root/patchbay status")
		if !strings.Contains(out, "BridgeNetwork orphan") || !strings.HasSuffix(strings.TrimSpace(out), "Nothing of Patchbay is on this node.") {
			t.Errorf("on %s:\n%s", node, out)
		}
	}
	clean(t)
	if err := install(context.Background()); err != nil {
		t.Fatal(err)
	}
	uninstallAll(t)
}

// uninstallAll is make uninstall-all.
func uninstallAll(t *testing.T) {
	t.Helper()
	cmd := exec.Command("../../hack/uninstall-all.sh")
	cmd.Env = append(os.Environ(), "KUBECONFIG="+kind.Kubeconfig(), "PATH="+filepath.Dir(kind.KubectlPath())+":"+os.Getenv("PATH"))
	out, err := cmd.CombinedOutput()
	t.Logf("make uninstall-all:\n%s", out)
	if err != nil {
		t.Fatal(err)
	}
}

func helm(t *testing.T, args ...string) {
	t.Helper()
	args = append([]string{"tool", "-modfile=../../hack/tools/helm/go.mod", "helm", "--kubeconfig", kind.Kubeconfig()}, args...)
	if out, err := exec.Command("go", args...).CombinedOutput(); err != nil {
		t.Fatal(fmt.Errorf("helm %s: %w\n%s", strings.Join(args[3:], " "), err, out))
	}
}
