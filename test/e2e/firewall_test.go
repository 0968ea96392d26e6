//go:build e2e

package e2e

import (
	"fmt"
	"strings"
	"testing"

	"github.com/patchbay-dev/patchbay/api/v1alpha1"
	"github.com/patchbay-dev/patchbay/test/e2e/cluster"
	"github.com/patchbay-dev/patchbay/test/netlab"
)

// TestFirewallReload: rules that another program takes out of a node's firewall are
// back, counted with the network there, and told of by an Event.
func TestFirewallReload(t *testing.T) {
	newLab(t, network("reload", "10.83.0.0/24", ""), attachment("reload", cluster.Worker, "reload"), publish("reload", "reload", 20093, 8001))
	ready(t, "nsa/reload", "pp/reload")
	serve(t, cluster.Worker, "reload", 8001)
	url := "http://" + nodeIP(t, cluster.Worker) + ":20093"
	curl(t, cluster.Worker2, url, "reload")
	on(t, cluster.Worker, "nft delete table inet patchbay; nft flush table bridge patchbay")
	curl(t, cluster.Worker2, url, "reload")
	bridge := "reload." + cluster.Worker
	netlab.Eventually(t, patience, "the repair is counted", func() error {
		b, err := try[v1alpha1.NodeBridge]("nbr", bridge)
		if err == nil && b.Status.Repairs == 0 {
			err = fmt.Errorf("%+v", b.Status)
		}
		return err
	})
	netlab.Eventually(t, patience, "and told of", func() error {
		out := kubectl(t, "get", "events", "-A", "--field-selector", "reason=DriftRepaired")
		if !strings.Contains(out, bridge) {
			return fmt.Errorf("events: %s", out)
		}
		return nil
	})
	if far := get[v1alpha1.NodeBridge](t, "nbr", "reload."+cluster.Worker2); far.Status.Repairs != 0 {
		t.Errorf("another node counts %d", far.Status.Repairs)
	}
}
