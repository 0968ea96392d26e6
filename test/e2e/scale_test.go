//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/patchbay-dev/patchbay/test/e2e/cluster"
	"github.com/patchbay-dev/patchbay/test/netlab"
)

// TestScale applies 300 attachments and 300 publishes at once on one worker, and
// prints what that costs. The bounds are generous; the figures are the point.
func TestScale(t *testing.T) {
	const count = 300
	newLab(t, network("wide", "10.84.0.0/22", ""))
	ready(t, "bnet/wide")
	var all strings.Builder
	for i := range count {
		name := fmt.Sprintf("wide%d", i)
		all.WriteString(attachment(name, cluster.Worker, "wide") + publish(name, name, 21000+i, 8001))
	}
	cpu := agentCPU(t, cluster.Worker)
	logged := auditLines(t)
	start := time.Now()
	t.Cleanup(func() { kubectl(t, "delete", "nsa,pp", "--all", "--wait=false") })
	if _, err := kind.Kubectl(t.Context(), []byte(all.String()), "apply", "--server-side", "-f", "-"); err != nil {
		t.Fatal(err)
	}
	applied := time.Since(start)
	var last time.Time
	netlab.Eventually(t, 2*time.Minute, "all Ready", func() error {
		n, newest := readyCount(t)
		if n < 2*count {
			return fmt.Errorf("%d of %d are Ready", n, 2*count)
		}
		last = newest
		return nil
	})
	took := time.Since(start)
	attachments, publishes := writes(t, logged)
	spent := agentCPU(t, cluster.Worker) - cpu
	t.Logf("%d attachments and %d publishes on one worker:\n  kubectl apply took           %v\n  apply to the last Ready      %v (%v by its transition time)\n  API writes per attachment    %.2f, with its creation, without its Event\n  API writes per publish       %.2f\n  agent CPU                    %.1f s\n  agent RSS                    %d MiB",
		count, count, applied.Round(time.Millisecond), took.Round(time.Millisecond), last.Sub(start).Round(time.Second),
		float64(attachments)/count, float64(publishes)/count, spent, agentRSS(t, cluster.Worker))
	if took > time.Minute {
		t.Errorf("all Ready only after %v", took)
	}
	if attachments > 4*count || publishes > 4*count {
		t.Errorf("%d writes for %d attachments, %d for as many publishes", attachments, count, publishes)
	}
	ping(t, cluster.Worker, "wide0", address(t, "wide299"))
}

// readyCount counts the Ready objects, and says when the last became so.
func readyCount(t *testing.T) (n int, last time.Time) {
	t.Helper()
	out := kubectl(t, "get", "nsa,pp", "-o", `jsonpath={range .items[*]}{.status.conditions[?(@.type=="Ready")].status} {.status.conditions[?(@.type=="Ready")].lastTransitionTime}{"\n"}{end}`)
	for _, line := range strings.Split(out, "\n") {
		when, ok := strings.CutPrefix(line, "True ")
		if !ok {
			continue
		}
		n++
		if at, err := time.Parse(time.RFC3339, when); err == nil && at.After(last) {
			last = at
		}
	}
	return n, last
}

func auditLines(t *testing.T) int {
	t.Helper()
	n, err := strconv.Atoi(strings.TrimSpace(on(t, cluster.ControlPlane, "wc -l <"+cluster.AuditLog)))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// writes counts the API writes since a line of the audit log, by kind.
func writes(t *testing.T, since int) (attachments, publishes int) {
	t.Helper()
	by := map[string]int{}
	for _, line := range strings.Split(on(t, cluster.ControlPlane, fmt.Sprintf("tail -n +%d %s", since+1, cluster.AuditLog)), "\n") {
		var event struct {
			Verb string
			User struct{ Username string }
			// Refused ones have changed nothing, but were sent.
			ObjectRef struct{ Resource, Subresource, Name string }
		}
		if json.Unmarshal([]byte(line), &event) != nil {
			continue
		}
		switch event.ObjectRef.Resource {
		case "namespaceattachments":
			attachments++
		case "portpublishes":
			publishes++
		default:
			continue
		}
		by[fmt.Sprintf("%s %s %s/%s", event.User.Username, event.Verb, event.ObjectRef.Resource, event.ObjectRef.Subresource)]++
	}
	t.Logf("API writes: %v", by)
	return attachments, publishes
}

const findAgentProcess = `pid=$(pgrep -o -f '^/usr/local/bin/patchbay agent'); `

// agentCPU is the CPU time of a node's agent so far, in seconds.
func agentCPU(t *testing.T, node string) float64 {
	t.Helper()
	var user, system float64
	if _, err := fmt.Sscan(on(t, node, findAgentProcess+`cut -d' ' -f14,15 /proc/$pid/stat`), &user, &system); err != nil {
		t.Fatal(err)
	}
	// In ticks of 10 ms, as the kernel tells every program (proc(5), USER_HZ).
	return (user + system) / 100
}

// agentRSS is the memory of a node's agent in MiB.
func agentRSS(t *testing.T, node string) int {
	t.Helper()
	var kib int
	if _, err := fmt.Sscan(on(t, node, findAgentProcess+`awk '/^VmRSS:/ {print $2}' /proc/$pid/status`), &kib); err != nil {
		t.Fatal(err)
	}
	return kib / 1024
}
