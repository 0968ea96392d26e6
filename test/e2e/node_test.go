//go:build e2e

package e2e

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/patchbay-dev/patchbay/api/v1alpha1"
	"github.com/patchbay-dev/patchbay/test/e2e/cluster"
	"github.com/patchbay-dev/patchbay/test/netlab"
)

// TestNodeSelector: a label that comes to or goes from a node builds or removes
// the bridge there; the counts follow.
func TestNodeSelector(t *testing.T) {
	unlabel := func() {
		kubectl(t, "label", "node", cluster.Worker, cluster.Worker2, "patchbay-e2e-")
	}
	t.Cleanup(unlabel)
	newLab(t, network("chosen", "10.74.0.0/24", ", nodeSelector: {matchLabels: {patchbay-e2e: chosen}}"))
	expect(t, "bnet", "chosen", "Accepted", "True Accepted")
	counts(t, "chosen", 0, 0)
	kubectl(t, "label", "node", cluster.Worker, "patchbay-e2e=chosen")
	counts(t, "chosen", 1, 1)
	ready(t, "bnet/chosen", "nbr/chosen."+cluster.Worker)
	on(t, cluster.Worker, "ip link show br-chosen")
	kubectl(t, "label", "node", cluster.Worker2, "patchbay-e2e=chosen")
	counts(t, "chosen", 2, 2)
	kubectl(t, "label", "node", cluster.Worker, "patchbay-e2e-")
	counts(t, "chosen", 1, 1)
	netlab.Eventually(t, patience, "no bridge on "+cluster.Worker, func() error {
		if _, err := attempt(cluster.Worker, "! ip link show br-chosen 2>&1"); err != nil {
			return errors.New("it is there")
		}
		return nil
	})
	on(t, cluster.Worker2, "ip link show br-chosen")
	unlabel()
	counts(t, "chosen", 0, 0)
}

// TestWorkerRestartsWithNetworks: a worker that reboots has everything back by itself,
// with the same addresses.
func TestWorkerRestartsWithNetworks(t *testing.T) {
	newLab(t, network("boot", "10.75.0.0/24", ""),
		attachment("boot1", cluster.Worker2, "boot"), attachment("boot2", cluster.Worker2, "boot"), publish("boot", "boot1", 20085, 8001))
	ready(t, "bnet/boot", "nsa/boot1", "nsa/boot2", "pp/boot")
	one, two := address(t, "boot1"), address(t, "boot2")
	if err := kind.Restart(t.Context(), cluster.Worker2); err != nil {
		t.Fatal(err)
	}
	ping(t, cluster.Worker2, "boot1", two)
	serve(t, cluster.Worker2, "boot1", 8001)
	curl(t, cluster.Worker, "http://"+nodeIP(t, cluster.Worker2)+":20085", "boot1")
	ready(t, "bnet/boot", "nsa/boot1", "nsa/boot2", "pp/boot")
	if address(t, "boot1") != one || address(t, "boot2") != two {
		t.Errorf("had %s and %s, and have %s and %s", one, two, address(t, "boot1"), address(t, "boot2"))
	}
}

// TestNodeNotReady: within a minute after a node is not Ready, the objects that are
// bound to it say so and its network does not count it; all is right when it is back.
func TestNodeNotReady(t *testing.T) {
	newLab(t, network("mute", "10.76.0.0/24", ""),
		attachment("mute1", cluster.Worker2, "mute"), attachment("mute2", cluster.Worker, "mute"), publish("mute", "mute1", 20086, 8001))
	ready(t, "bnet/mute", "nsa/mute1", "nsa/mute2", "pp/mute")
	counts(t, "mute", 3, 3)
	on(t, cluster.Worker2, "systemctl stop kubelet")
	t.Cleanup(func() { on(t, cluster.Worker2, "systemctl start kubelet") })
	netlab.Eventually(t, 2*time.Minute, "node not Ready", func() error {
		out := kubectl(t, "get", "node", cluster.Worker2, "-o", `jsonpath={.status.conditions[?(@.type=="Ready")].status}`)
		if out != "Unknown" {
			return fmt.Errorf("Ready is %s", out)
		}
		return nil
	})
	since := time.Now()
	bound := []string{"nsa/mute1", "pp/mute", "nbr/mute." + cluster.Worker2}
	for _, name := range bound {
		resource, name, _ := strings.Cut(name, "/")
		expect(t, resource, name, v1alpha1.ConditionReady, "Unknown NodeNotReady")
	}
	counts(t, "mute", 2, 3)
	if passed := time.Since(since); passed > time.Minute {
		t.Errorf("said so %v after the node was not Ready", passed)
	}
	expect(t, "bnet", "mute", v1alpha1.ConditionReady, "False NodeNotReady")
	ready(t, "nsa/mute2")
	on(t, cluster.Worker2, "systemctl start kubelet")
	ready(t, append(bound, "bnet/mute")...)
	counts(t, "mute", 3, 3)
}

// TestNodeDeleted: with a node that is deleted from the cluster its NodeBridges
// go, the counts are right, and nothing hangs; it can join again.
func TestNodeDeleted(t *testing.T) {
	l := newLab(t, network("lost", "10.77.0.0/24", ""), attachment("lost1", cluster.Worker2, "lost"), publish("lost", "lost1", 20087, 8001))
	ready(t, "bnet/lost", "nsa/lost1", "pp/lost")
	counts(t, "lost", 3, 3)
	t.Cleanup(func() { rejoin(t, cluster.Worker2) })
	on(t, cluster.Worker2, "systemctl stop kubelet")
	kubectl(t, "delete", "node", cluster.Worker2)
	counts(t, "lost", 2, 2)
	ready(t, "bnet/lost")
	if out := kubectl(t, "get", "nbr", "-o", "name"); strings.Contains(out, cluster.Worker2) {
		t.Errorf("left: %s", out)
	}
	expect(t, "nsa", "lost1", v1alpha1.ConditionAccepted, "False NodeNotFound")
	expect(t, "nsa", "lost1", v1alpha1.ConditionReady, "Unknown NodeNotReady")
	kubectl(t, "delete", "nsa,pp", "--all", "--timeout=10s")
	l.add(attachment("lost2", cluster.Worker2, "lost"))
	expect(t, "nsa", "lost2", v1alpha1.ConditionAccepted, "False NodeNotFound")
	rejoin(t, cluster.Worker2)
	counts(t, "lost", 3, 3)
	ready(t, "nsa/lost2")
	netlab.Eventually(t, patience, "lost1 gone from its node", func() error {
		out, err := attempt(cluster.Worker2, traces)
		if err == nil && strings.Contains(out, "lost1") {
			err = fmt.Errorf("left:\n%s", out)
		}
		return err
	})
}

// rejoin brings a node that was deleted back into the cluster.
func rejoin(t *testing.T, node string) {
	t.Helper()
	on(t, node, "systemctl restart kubelet")
	netlab.Eventually(t, patience, node+" is back", func() error {
		_, err := kind.Kubectl(context.Background(), nil, "wait", "--for=condition=Ready", "node/"+node, "--timeout=5s")
		return err
	})
	agentPod(t, node)
}
