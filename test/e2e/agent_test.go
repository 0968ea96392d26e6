//go:build e2e

package e2e

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/patchbay-dev/patchbay/test/e2e/cluster"
	"github.com/patchbay-dev/patchbay/test/netlab"
)

// ours lists the objects that an agent has built on a node, with handles and indexes:
// an object that was made anew in the same shape has another handle.
const ours = `ip -o link show group 1346525441
nft -a list table inet patchbay
nft -a list table bridge patchbay`

// TestAgentRestart: the agent's pod is deleted while traffic flows. Nothing is
// lost, and the new agent rewrites nothing, neither in the kernel nor in the API.
func TestAgentRestart(t *testing.T) {
	newLab(t, network("calm", "10.70.0.0/24", ""),
		attachment("calm1", cluster.Worker, "calm"), attachment("calm2", cluster.Worker, "calm"), publish("calm", "calm1", 20081, 8001))
	ready(t, "bnet/calm", "nsa/calm1", "nsa/calm2", "pp/calm")
	serve(t, cluster.Worker, "calm1", 8001)
	url := "http://" + nodeIP(t, cluster.Worker) + ":20081"
	curl(t, cluster.Worker2, url, "calm1")
	before, versions := on(t, cluster.Worker, ours), versionsOf(t)

	const count = 600
	pings := cluster.Command(t.Context(), cluster.Worker, "ip", "netns", "exec", "calm2", "ping", "-q", "-i", "0.02", "-c", fmt.Sprint(count), address(t, "calm1"))
	var counted strings.Builder
	pings.Stdout = &counted
	if err := pings.Start(); err != nil {
		t.Fatal(err)
	}
	loop := fmt.Sprintf(`failed=0; for i in $(seq 1 60); do curl -sS -o /dev/null --max-time 2 %s || failed=$((failed+1)); done; echo $failed`, url)
	curls := make(chan string, 1)
	go func() {
		out, err := attempt(cluster.Worker2, loop)
		curls <- fmt.Sprint(strings.TrimSpace(out), " ", err)
	}()
	replaceAgent(t, cluster.Worker)
	if err := pings.Wait(); err != nil {
		t.Errorf("ping: %v", err)
	}
	// One lost packet of 600 is the noise of a busy machine.
	if got := received(t, counted.String()); got < count-1 {
		t.Errorf("%d of %d packets arrived", got, count)
	}
	if got := <-curls; got != "0 <nil>" {
		t.Errorf("failed connections through the publish: %s", got)
	}
	if after := on(t, cluster.Worker, ours); after != before {
		t.Errorf("the agent's restart changed the kernel\nbefore:\n%s\nafter:\n%s", before, after)
	}
	if after := versionsOf(t); after != versions {
		t.Errorf("the agent's restart changed objects\nbefore: %s\nafter:  %s", versions, after)
	}
	if changes := on(t, cluster.Worker, `curl -s http://127.0.0.1:9464/metrics | grep '^patchbay_kernel_changes_total' || true`); changes != "" {
		t.Errorf("the new agent counts changes:\n%s", changes)
	}
}

// versionsOf are the resource versions of all objects.
func versionsOf(t *testing.T) string {
	t.Helper()
	return kubectl(t, "get", "nbr,nsa,pp", "-A", "-o", `jsonpath={range .items[*]}{.metadata.name}={.metadata.resourceVersion} {end}`)
}

func received(t *testing.T, summary string) int {
	t.Helper()
	m := regexp.MustCompile(`(\d+) received`).FindStringSubmatch(summary)
	if m == nil {
		t.Fatalf("ping says %q", summary)
	}
	var n int
	_, _ = fmt.Sscan(m[1], &n)
	return n
}

// replaceAgent deletes a node's agent pod and waits for the next to be Ready.
func replaceAgent(t *testing.T, node string) {
	t.Helper()
	old := agentPod(t, node)
	kubectl(t, "-n", "patchbay-system", "delete", "pod", old)
	netlab.Eventually(t, patience, "another agent on "+node, func() error {
		now, err := findAgent(node)
		if err == nil && now == old {
			err = errors.New("still the old one")
		}
		return err
	})
}

func agentPod(t *testing.T, node string) string {
	t.Helper()
	var name string
	netlab.Eventually(t, patience, "an agent on "+node, func() (err error) {
		name, err = findAgent(node)
		return err
	})
	return name
}

// findAgent returns the name of the agent's pod that is Ready on a node.
func findAgent(node string) (string, error) {
	out, err := kind.Kubectl(context.Background(), nil, "-n", "patchbay-system", "get", "pods", "-l", "app.kubernetes.io/component=agent",
		"--field-selector", "spec.nodeName="+node, "-o", `jsonpath={range .items[*]}{.metadata.name} {.metadata.deletionTimestamp} {.status.conditions[?(@.type=="Ready")].status}{"\n"}{end}`)
	if err != nil {
		return "", err
	}
	for _, line := range strings.Split(out, "\n") {
		if f := strings.Fields(line); len(f) == 2 && f[1] == "True" {
			return f[0], nil
		}
	}
	return "", fmt.Errorf("no agent is Ready on %s: %q", node, out)
}

// TestAgentDown: while a node's agent is down, one object is deleted and another
// made; right after it is back both have taken effect.
func TestAgentDown(t *testing.T) {
	l := newLab(t, network("down", "10.71.0.0/24", ""),
		attachment("down1", cluster.Worker2, "down"), attachment("down2", cluster.Worker2, "down"), publish("down", "down1", 20082, 8001))
	ready(t, "bnet/down", "nsa/down1", "nsa/down2", "pp/down")
	first := address(t, "down1")
	stopAgent(t, cluster.Worker2)
	kubectl(t, "delete", "pp", "down")
	kubectl(t, "delete", "nsa", "down2")
	l.add(attachment("down3", cluster.Worker2, "down"))
	expect(t, "nsa", "down3", "Accepted", "True Accepted")
	on(t, cluster.Worker2, "systemctl start kubelet")
	ready(t, "nsa/down3")
	ping(t, cluster.Worker2, "down1", address(t, "down3"))
	netlab.Eventually(t, 5*time.Second, "what was deleted is gone", func() error {
		if out := on(t, cluster.Worker2, traces); strings.Contains(out, "down2") || strings.Contains(out, "20082") {
			return fmt.Errorf("left:\n%s", out)
		}
		return nil
	})
	if now := address(t, "down1"); now != first {
		t.Errorf("down1 had %s, and has %s", first, now)
	}
}

// stopAgent ends a node's agent and keeps the kubelet from starting another,
// until the kubelet is started.
func stopAgent(t *testing.T, node string) {
	t.Helper()
	agentPod(t, node)
	t.Cleanup(func() {
		on(t, node, "systemctl start kubelet")
		agentPod(t, node)
	})
	on(t, node, "systemctl stop kubelet && pkill -TERM -f '^/usr/local/bin/patchbay agent'")
	netlab.Eventually(t, patience, "no agent on "+node, func() error {
		if _, err := attempt(node, "! pgrep -f '^/usr/local/bin/patchbay agent'"); err != nil {
			return errors.New("it still runs")
		}
		return nil
	})
}

// TestControllerDown: without the controller the networks stay, and their drift is
// repaired; new objects wait, and say so.
func TestControllerDown(t *testing.T) {
	l := newLab(t, network("alone", "10.72.0.0/24", ""), attachment("alone1", cluster.Worker, "alone"), attachment("alone2", cluster.Worker, "alone"))
	ready(t, "bnet/alone", "nsa/alone1", "nsa/alone2")
	scaleController(t, 0)
	t.Cleanup(func() { scaleController(t, 1) })
	on(t, cluster.Worker, "ip link delete br-alone")
	ping(t, cluster.Worker, "alone1", address(t, "alone2"))
	l.add(attachment("alone3", cluster.Worker, "alone"))
	if c := get[status](t, "nsa", "alone3").condition("Accepted"); c.Status != "Unknown" || c.Reason != "Pending" {
		t.Errorf("what nobody judged says %s %s", c.Status, c.Reason)
	}
	kubectl(t, "patch", "nsa", "alone1", "--type=merge", "-p", `{"spec":{"routes":[{"to":"10.99.0.0/16","via":"10.72.0.1"}]}}`)
	replaceAgent(t, cluster.Worker)
	ping(t, cluster.Worker, "alone1", address(t, "alone2"))
	scaleController(t, 1)
	ready(t, "nsa/alone1", "nsa/alone3")
	ping(t, cluster.Worker, "alone3", address(t, "alone1"))
}

func scaleController(t *testing.T, replicas int) {
	t.Helper()
	kubectl(t, "-n", "patchbay-system", "scale", "deploy/patchbay-controller", fmt.Sprint("--replicas=", replicas))
	if replicas > 0 {
		kubectl(t, "-n", "patchbay-system", "rollout", "status", "deploy/patchbay-controller", "--timeout=90s")
		return
	}
	kubectl(t, "-n", "patchbay-system", "wait", "--for=delete", "pod", "-l", "app.kubernetes.io/component=controller", "--timeout=60s")
}

// TestAPIServerDown: the API server is away for 30 s, while things break all the
// time; they are mended meanwhile, and status is right afterwards.
func TestAPIServerDown(t *testing.T) {
	newLab(t, network("away", "10.73.0.0/24", ""),
		attachment("away1", cluster.Worker, "away"), attachment("away2", cluster.Worker, "away"), publish("away", "away1", 20083, 8001))
	ready(t, "bnet/away", "nsa/away1", "nsa/away2", "pp/away")
	two, ip := address(t, "away2"), nodeIP(t, cluster.Worker)
	serve(t, cluster.Worker, "away1", 8001)
	curl(t, cluster.Worker2, "http://"+ip+":20083", "away1")
	const manifest, aside = "/etc/kubernetes/manifests/kube-apiserver.yaml", "/etc/kubernetes/kube-apiserver.yaml"
	back := func() {
		on(t, cluster.ControlPlane, fmt.Sprintf("if [ -e %[2]s ]; then mv %[2]s %[1]s; fi", manifest, aside))
		netlab.Eventually(t, patience, "the API server back", func() error {
			_, err := kind.Kubectl(context.Background(), nil, "get", "--raw", "/readyz")
			return err
		})
	}
	t.Cleanup(back)
	on(t, cluster.ControlPlane, "mv "+manifest+" "+aside)
	netlab.Eventually(t, patience, "the API server away", func() error {
		if _, err := kind.Kubectl(context.Background(), nil, "get", "--raw", "/readyz", "--request-timeout=2s"); err == nil {
			return errors.New("it answers")
		}
		return nil
	})
	breakages := []string{"ip link delete br-away", "nft delete table inet patchbay", "ip netns exec away1 ip route delete default", "ip netns exec away2 ip link set eth0 down",
		"ip address flush dev br-away", "ip netns exec away1 ip link set eth0 mtu 1300"}
	rounds := 0
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); rounds++ {
		on(t, cluster.Worker, breakages[rounds%len(breakages)])
		ping(t, cluster.Worker, "away1", two)
		curl(t, cluster.Worker2, "http://"+ip+":20083", "away1")
	}
	t.Logf("mended %d times without an API server", rounds)
	kubectlFails(t)
	back()
	ready(t, "bnet/away", "nsa/away1", "nsa/away2", "pp/away")
	kubectl(t, "patch", "pp", "away", "--type=merge", "-p", `{"spec":{"ports":[{"hostPort":20084,"targetPort":8001}]}}`)
	ready(t, "pp/away")
	curl(t, cluster.Worker2, "http://"+ip+":20084", "away1")
}

// kubectlFails says that the API server was away all the time.
func kubectlFails(t *testing.T) {
	t.Helper()
	if _, err := kind.Kubectl(context.Background(), nil, "get", "--raw", "/readyz", "--request-timeout=2s"); err == nil {
		t.Fatal("the API server answered meanwhile")
	}
}
