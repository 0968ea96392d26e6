//go:build e2e

package e2e

import (
	"context"
	"os"
	"strings"
	"testing"

	"github.com/patchbay-dev/patchbay/test/e2e/cluster"
)

// TestSample is the README's way: the sample applied, waited for, looked at and
// used.
func TestSample(t *testing.T) {
	const sample = "../../config/samples/kind/two-workers.yaml"
	text, err := os.ReadFile(sample)
	if err != nil {
		t.Fatal(err)
	}
	newLab(t, string(text))
	kubectl(t, "wait", "--for=condition=Ready", "--timeout=60s", "bnet,nbr", "--all")
	kubectl(t, "-n", "lab", "wait", "--for=condition=Ready", "--timeout=60s", "nsa,pp", "--all")
	table := kubectl(t, "-n", "lab", "get", "bnet,nsa,pp,nbr")
	t.Logf("kubectl get bnet,nsa,pp,nbr\n%s", table)
	for _, want := range []string{
		"ACCEPTED", "READY", "NODES", "SELECTED", "NETNS", "NETWORK", "ADDRESSES", "ATTACHMENT", "PUBLISHED", "BRIDGE", "REASON", "AGE",
		`["10.68.0.0/24","fd00:68::/64"]`, `["10.68.0.2/24","fd00:68::2/64"]`, "*:20080/TCP->10.68.0.", "br-lab", "Programmed",
	} {
		if !strings.Contains(table, want) {
			t.Errorf("the tables lack %s", want)
		}
	}
	counts(t, "lab", 3, 3)
	lab := func(name string) string {
		return kubectl(t, "-n", "lab", "get", "nsa", name, "-o", "jsonpath={.status.addresses[0]}")
	}
	for _, name := range []string{"net1", "net2"} {
		ip, _, _ := strings.Cut(lab(name), "/")
		ping(t, cluster.Worker, "net1", ip)
	}
	serve(t, cluster.Worker, "net1", 8080)
	url := "http://" + nodeIP(t, cluster.Worker) + ":20080"
	for _, node := range cluster.Nodes() {
		curl(t, node, url, "net1")
	}
	// Out of the namespace, hidden behind the node.
	ping(t, cluster.Worker2, "net3", nodeIP(t, cluster.ControlPlane))
	events, err := kind.Kubectl(context.Background(), nil, "-n", "lab", "events")
	if err != nil || !strings.Contains(events, "Programmed") {
		t.Errorf("events: %v\n%s", err, events)
	}
}
