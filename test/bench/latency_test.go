package bench

import (
	"fmt"
	"os"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/patchbay-dev/patchbay/test/sandbox"
)

const (
	// patience bounds every single wait.
	patience = 30 * time.Second
	netnsDir = "/run/netns"
)

// latencies are the times of attachments made one after the other.
type latencies []time.Duration

// at is the time that a share of them did not exceed: 0.5 or 0.99.
func (l latencies) at(share float64) time.Duration {
	sorted := slices.Sorted(slices.Values(l))
	return sorted[min(int(share*float64(len(sorted))), len(sorted)-1)]
}

// BenchmarkLatency attaches 200 namespaces that exist to a network that is
// built, one after the other as a container runtime does, and has the CNI
// reference plugins do the same. Every measurement begins with namespaces of its
// own and without links, rules or sysctls of another's.
func BenchmarkLatency(b *testing.B) {
	if !sandbox.Inside() {
		b.Setenv(pluginsFolder, buildPlugins(b))
	}
	if !sandbox.Enter(b) {
		return
	}
	for b.Loop() {
		var held, told, set, made latencies
		var together time.Duration
		inNamespaces(b, func() { held, told = oneByOne(b) })
		inNamespaces(b, func() { together = atOnce(b) })
		peers := make([]latencies, len(variants))
		for i, v := range variants {
			inNamespaces(b, func() { peers[i] = plugins(b, v) })
		}
		// At the end, since an API server is never quite idle.
		inNamespaces(b, func() { set, made = untilWritten(b) })

		fmt.Printf("\n%d existing namespaces attached, one after the other:\n%46s %11s   ratio\n", attachments, "p50", "p99")
		row := func(name string, l latencies) float64 {
			ratio := float64(l.at(0.5)) / float64(held.at(0.5))
			fmt.Printf("  %-33s %10s %11s   %5.1f\n", name, inMillis(l.at(0.5)), inMillis(l.at(0.99)), ratio)
			return ratio
		}
		row("patchbay: held by the kernel", held)
		row("patchbay: told Ready", told)
		row("patchbay: Ready written", set)
		row("patchbay: Ready written, from API", made)
		for i, v := range variants {
			b.ReportMetric(row("plugins: "+v.name, peers[i]), v.metric)
		}
		fmt.Printf("All %d at once: held after %s, %s each.\n", attachments, inMillis(together), inMillis(together/attachments))
	}
}

func inMillis(d time.Duration) string { return fmt.Sprintf("%.2fms", float64(d.Microseconds())/1e3) }

// inNamespaces makes the namespaces that are attached, as `ip netns add` does,
// and removes them.
func inNamespaces(b *testing.B, measure func()) {
	b.Helper()
	if err := os.MkdirAll(netnsDir, 0o755); err != nil {
		b.Fatal(err)
	}
	for i := range attachments {
		ns, err := newNamespace(namespace(i))
		if err != nil {
			b.Fatal(err)
		}
		_ = ns.Close()
	}
	measure()
	for i := range attachments {
		if err := unix.Unmount(namespace(i), unix.MNT_DETACH); err != nil {
			b.Fatal(err)
		}
		if err := os.Remove(namespace(i)); err != nil {
			b.Fatal(err)
		}
	}
	awaitCleanup(b)
}

func namespace(i int) string { return netnsDir + "/" + name(i) }

func name(i int) string { return fmt.Sprintf("a%03d", i) }
