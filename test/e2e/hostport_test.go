//go:build e2e

package e2e

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"testing"

	"github.com/patchbay-dev/patchbay/api/v1alpha1"
	"github.com/patchbay-dev/patchbay/test/e2e/cluster"
	"github.com/patchbay-dev/patchbay/test/netlab"
)

// TestNodesOwnPorts: a process of the node that listens on a port is named and
// left its port; when it has gone the port is published and held; and what
// Kubernetes gives to a Service is refused until it is free.
func TestNodesOwnPorts(t *testing.T) {
	node := nodeIP(t, cluster.Worker)
	url := func(port int) string { return fmt.Sprintf("http://%s:%d", node, port) }
	end := listen(t, cluster.Worker, 20095, "own")
	curl(t, cluster.Worker2, url(20095), "own")
	l := newLab(t, network("ports", "10.84.0.0/24", ""), attachment("ports", cluster.Worker, "ports"), publish("ports", "ports", 20095, 8001))
	serve(t, cluster.Worker, "ports", 8001)
	expect(t, "pp", "ports", v1alpha1.ConditionReady, "False HostPortConflict")
	says(t, "ports", v1alpha1.ConditionReady, `httpd \(PID \d+\) listens on TCP .*:20095`)
	curl(t, cluster.Worker2, url(20095), "own")

	end()
	ready(t, "pp/ports")
	curl(t, cluster.Worker2, url(20095), "ports")
	out, err := attempt(cluster.Worker, "timeout 5 "+httpd+" :20095 own 2>&1")
	if err == nil || !strings.Contains(out+err.Error(), "address already in use") {
		t.Errorf("a process listens on a published port: %v: %s", err, out)
	}

	kubectl(t, "create", "service", "nodeport", "ports", "--tcp=80", "--node-port=30096")
	t.Cleanup(func() { kubectl(t, "delete", "service", "ports", "--ignore-not-found") })
	l.add(publish("taken", "ports", 30096, 8001))
	expect(t, "pp", "taken", v1alpha1.ConditionAccepted, "False HostPortConflict")
	says(t, "taken", v1alpha1.ConditionAccepted, `30096 is the nodePort of Service default/ports`)
	kubectl(t, "delete", "service", "ports")
	ready(t, "pp/taken")
	curl(t, cluster.Worker2, url(30096), "ports")
}

// listen runs a process of the node that listens, and returns what ends it.
func listen(t *testing.T, node string, port int, text string) (end func()) {
	t.Helper()
	server := cluster.Command(context.Background(), node, "timeout", "900", httpd, fmt.Sprintf(":%d", port), text)
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	end = func() {
		_, _ = attempt(node, fmt.Sprintf("pkill -f '^%s :%d %s' || true", httpd, port, text))
		_ = server.Wait()
	}
	t.Cleanup(end)
	return end
}

// says waits until a condition's message matches.
func says(t *testing.T, publish, condition, message string) {
	t.Helper()
	netlab.Eventually(t, patience, "pp/"+publish+" says "+message, func() error {
		s, err := try[status]("pp", publish)
		if err != nil {
			return err
		}
		if got := s.condition(condition).Message; !regexp.MustCompile(message).MatchString(got) {
			return errors.New(got)
		}
		return nil
	})
}

// TestFirewallIsChosen: the agents take another firewall and the first one again;
// the same ports answer, and nothing of the former is left.
func TestFirewallIsChosen(t *testing.T) {
	choose := func(backend string) {
		t.Helper()
		patch := fmt.Sprintf(`[{"op": "test", "path": "/spec/template/spec/containers/0/args/4", "value": %q},
{"op": "replace", "path": "/spec/template/spec/containers/0/args/4", "value": "--nat-backend=%s"}]`, chosen(t), backend)
		kubectl(t, "-n", "patchbay-system", "patch", "daemonset", "patchbay-agent", "--type=json", "-p", patch)
		kubectl(t, "-n", "patchbay-system", "rollout", "status", "daemonset/patchbay-agent", "--timeout=90s")
	}
	newLab(t, network("wall", "10.85.0.0/24", ""), attachment("wall", cluster.Worker, "wall"), publish("wall", "wall", 20097, 8001))
	t.Cleanup(func() { choose("auto") })
	ready(t, "nsa/wall", "pp/wall")
	serve(t, cluster.Worker, "wall", 8001)
	url := "http://" + nodeIP(t, cluster.Worker) + ":20097"
	curl(t, cluster.Worker2, url, "wall")

	choose("iptables")
	expect(t, "nbr", "wall."+cluster.Worker, v1alpha1.ConditionReady, "True AntiSpoofUnavailable")
	holds(t, "iptables-save -t nat", "publish 0.0.0.0:20097/tcp", true)
	holds(t, "nft list tables", "inet patchbay", false)
	ready(t, "pp/wall")
	curl(t, cluster.Worker2, url, "wall")

	choose("auto")
	expect(t, "nbr", "wall."+cluster.Worker, v1alpha1.ConditionReady, "True Programmed")
	holds(t, "nft list tables", "inet patchbay", true)
	holds(t, "nft list ruleset", "PATCHBAY", false)
	curl(t, cluster.Worker2, url, "wall")
}

// chosen is the agents' present argument.
func chosen(t *testing.T) string {
	t.Helper()
	return kubectl(t, "-n", "patchbay-system", "get", "daemonset", "patchbay-agent", "-o", "jsonpath={.spec.template.spec.containers[0].args[4]}")
}

// holds waits until a command on the worker prints a text, or does not.
func holds(t *testing.T, command, text string, yes bool) {
	t.Helper()
	netlab.Eventually(t, patience, fmt.Sprintf("%q in %s: %v", text, command, yes), func() error {
		out, err := attempt(cluster.Worker, command)
		if err == nil && strings.Contains(out, text) != yes {
			err = errors.New(out)
		}
		return err
	})
}
