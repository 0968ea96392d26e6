//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/patchbay-dev/patchbay/api/v1alpha1"
	"github.com/patchbay-dev/patchbay/test/e2e/cluster"
	"github.com/patchbay-dev/patchbay/test/netlab"
)

// TestMoved: an attachment that is edited to another network, or made anew on
// another node, leaves nothing where it was, and nothing of it in its status.
func TestMoved(t *testing.T) {
	l := newLab(t, network("red", "10.78.0.0/24", ""), network("blue", "10.79.0.0/24", ""),
		attachment("mover", cluster.Worker, "red"), attachment("stayer", cluster.Worker, "blue"), publish("mover", "mover", 20088, 8001))
	ready(t, "bnet/red", "bnet/blue", "nsa/mover", "nsa/stayer", "pp/mover")
	serve(t, cluster.Worker, "mover", 8001)
	url := "http://" + nodeIP(t, cluster.Worker) + ":20088"
	curl(t, cluster.Worker2, url, "mover")

	kubectl(t, "patch", "nsa", "mover", "--type=merge", "-p", `{"spec":{"network":"blue"}}`)
	ready(t, "nsa/mover", "pp/mover")
	if now := address(t, "mover"); !strings.HasPrefix(now, "10.79.0.") {
		t.Errorf("on blue with %s", now)
	}
	ping(t, cluster.Worker, "mover", address(t, "stayer"))
	curl(t, cluster.Worker2, url, "mover")
	if left := on(t, cluster.Worker, "ip -br link show master br-red; ip netns exec mover ip -br address; nft list ruleset"); strings.Contains(left, "10.78.0.2") {
		t.Errorf("of red is left:\n%s", left)
	}

	kubectl(t, "delete", "nsa", "mover")
	l.add(attachment("mover", cluster.Worker2, "red"))
	ready(t, "nsa/mover", "pp/mover")
	if node := get[status](t, "pp", "mover").Status.NodeName; node != cluster.Worker2 {
		t.Errorf("the publish is bound to %s", node)
	}
	serve(t, cluster.Worker2, "mover", 8001)
	curl(t, cluster.Worker, "http://"+nodeIP(t, cluster.Worker2)+":20088", "mover")
	netlab.Eventually(t, patience, "nothing of mover on the first node", func() error {
		out, err := attempt(cluster.Worker, traces)
		if err == nil && (strings.Contains(out, "mover") || strings.Contains(out, "20088")) {
			err = fmt.Errorf("left:\n%s", out)
		}
		return err
	})
	if _, err := attempt(cluster.Worker2, "curl -sS --max-time 2 "+url); err == nil {
		t.Error("the first node still answers")
	}
}

// TestInUse: a network that is deleted while it is used stays, says who uses it,
// and goes with the last of them.
func TestInUse(t *testing.T) {
	newLab(t, network("used", "10.80.0.0/24", ""), attachment("user1", cluster.Worker, "used"), attachment("user2", cluster.Worker, "used"))
	ready(t, "bnet/used", "nsa/user1", "nsa/user2")
	before := on(t, cluster.Worker, ours)
	// In the foreground the garbage collector takes all that the network owns.
	kubectl(t, "delete", "bnet", "used", "--wait=false", "--cascade=foreground")
	expect(t, "bnet", "used", v1alpha1.ConditionInUse, "True InUse")
	said := func() string { return get[status](t, "bnet", "used").condition(v1alpha1.ConditionInUse).Message }
	if got := said(); !strings.Contains(got, "default/user1") || !strings.Contains(got, "default/user2") {
		t.Errorf("it says %q", got)
	}
	ping(t, cluster.Worker, "user1", address(t, "user2"))
	counts(t, "used", 3, 3)
	if now := on(t, cluster.Worker, ours); now != before {
		t.Errorf("the kernel has changed\nbefore:\n%s\nnow:\n%s", before, now)
	}
	kubectl(t, "delete", "nsa", "user1")
	netlab.Eventually(t, patience, "only user2 named", func() error {
		if got := said(); strings.Contains(got, "user1") || !strings.Contains(got, "default/user2") {
			return fmt.Errorf("it says %q", got)
		}
		return nil
	})
	kubectl(t, "delete", "nsa", "user2")
	kubectl(t, "wait", "--for=delete", "bnet/used", "--timeout=60s")
	clean(t)
}

// TestBadObjects: what cannot be is refused with a sentence by the API server, or
// not accepted with a reason; nothing crashes.
func TestBadObjects(t *testing.T) {
	const restarts = "jsonpath={range .items[*]}{.metadata.name} {.status.containerStatuses[*].restartCount} {end}"
	before := kubectl(t, "-n", "patchbay-system", "get", "pods", "-o", restarts)
	l := newLab(t, network("sound", "10.81.0.0/24", ""))
	ready(t, "bnet/sound")
	for _, refused := range []struct{ manifest, message string }{
		{network("crooked", "10.81.0.1/24", ""), "spec.subnets must have no host bits: write 10.81.0.0/24"},
		{attachment("crooked", cluster.Worker, "sound, target2: {}"), `unknown field "spec.target2"`},
		{publish("crooked", "x", 0, 1), "spec.ports[0].hostPort in body should be greater than or equal to 1"},
		{strings.Replace(attachment("cni-crooked", cluster.Worker, "sound"), "name: cni-crooked, namespace", "name: crooked, namespace", 1), "must not begin with cni-"},
	} {
		_, err := kind.Kubectl(context.Background(), []byte(refused.manifest), "apply", "-f", "-")
		if err == nil || !strings.Contains(err.Error(), refused.message) {
			t.Errorf("applying\n%s\nsays %v, not %s", refused.manifest, err, refused.message)
		}
	}
	for _, c := range []struct{ manifest, resource, name, reason string }{
		{attachment("nowhere", "patchbay-worker9", "sound"), "nsa", "nowhere", "NodeNotFound"},
		{attachment("loose", cluster.Worker, "nothing"), "nsa", "loose", "NetworkNotFound"},
		{publish("loose", "nobody", 20089, 1), "pp", "loose", "AttachmentNotFound"},
		{strings.Replace(network("closed", "10.82.0.0/24", ""), "{from: All}", "{from: None}", 1) + attachment("uninvited", cluster.Worker, "closed"), "nsa", "uninvited", "NamespaceNotAllowed"},
		{network("odd", "10.83.0.0/24", `, gateway: {addresses: ["10.83.0.255"]}`), "bnet", "odd", "AddressConflict"},
	} {
		l.add(c.manifest)
		expect(t, c.resource, c.name, v1alpha1.ConditionAccepted, "False "+c.reason)
	}
	l.add(network("twin", "10.81.0.0/25", ""))
	expect(t, "bnet", "twin", v1alpha1.ConditionReady, "False SubnetOverlap")
	if after := kubectl(t, "-n", "patchbay-system", "get", "pods", "-o", restarts); after != before {
		t.Errorf("pods were restarted: had %s, have %s", before, after)
	}
}
