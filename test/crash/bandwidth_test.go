package crash

import (
	"bytes"
	"slices"
	"strconv"
	"testing"

	"github.com/patchbay-dev/patchbay/nodeagent/firewall"
	"github.com/patchbay-dev/patchbay/test/sandbox"
)

// TestKillWhileLimiting kills apply after each step of limiting a live
// attachment, and of lifting the limits again: the next apply finishes either.
func TestKillWhileLimiting(t *testing.T) {
	if !sandbox.Enter(t) {
		return
	}
	b := newBench(t, firewall.KindNFTables)
	address := []byte(`  addresses: ["192.168.1.2/24"]`)
	limited := bytes.ReplaceAll(b.manifest, address, append([]byte("  bandwidth: {ingressRate: 20M, egressRate: 20M}\n"), address...))
	b.fill()
	b.apply()
	unlimited := b.dump()
	b.write(limited)
	limiting := b.steps()
	want := b.dump()
	b.fill()
	lifting := b.steps()
	t.Logf("limiting takes %d steps, lifting %d", limiting, lifting)
	if limiting < 7 || lifting < 3 || slices.Equal(want, unlimited) {
		t.Fatalf("the hook counted %d and %d steps: it does not count", limiting, lifting)
	}
	for n := 1; n <= max(limiting, lifting); n++ {
		b.killAndFinish(limited, min(n, limiting), want)
		b.killAndFinish(b.manifest, min(n, lifting), unlimited)
	}
}

// killAndFinish kills an apply of the manifest after n steps, lets another one
// run, and compares.
func (b *bench) killAndFinish(manifest []byte, n int, want []string) {
	b.t.Helper()
	b.write(manifest)
	if err := b.command([]string{killAfter + "=" + strconv.Itoa(n)}, "apply", "-f", b.folder).Run(); !killed(err) {
		b.t.Fatalf("step %d: apply was not killed: %v", n, err)
	}
	b.apply()
	if err := b.is(want); err != nil {
		b.t.Fatalf("after a kill at step %d: %v", n, err)
	}
}
