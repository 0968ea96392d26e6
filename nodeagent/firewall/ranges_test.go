package firewall

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/patchbay-dev/patchbay/nodeagent/firewall/firewalltest"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
	"github.com/patchbay-dev/patchbay/test/sandbox"
)

// TestChangesAtRandom has the kernel hold the objects that were applied last after any
// change, also where elements overlap the ones that they replace.
func TestChangesAtRandom(t *testing.T) {
	if !sandbox.Enter(t) {
		return
	}
	random := rand.New(rand.NewPCG(6, 1))
	b, have := backend(t, netstate.SourceLocal), netstate.Set{}
	for range 60 {
		want := netstate.Set{}
		for port := uint16(1000); port < 1100; port += 20 {
			if p := firewalltest.RandomPublish(random, port); random.IntN(4) > 0 {
				want.Add(p)
			}
		}
		// As an engine does: what goes, goes before.
		var gone []netstate.Object
		for k, o := range have {
			if want[k] == nil {
				gone = append(gone, o)
			}
		}
		if random.IntN(2) == 0 {
			firewalltest.Apply(t, b, firewalltest.Deletes(gone...))
			firewalltest.Apply(t, b, firewalltest.Creates(firewalltest.List(missing(b, want))...))
		} else {
			firewalltest.Apply(t, b, firewalltest.Creates(firewalltest.List(missing(b, want))...), firewalltest.Deletes(gone...))
		}
		have = want
		again := loaded(t, netstate.SourceLocal)
		firewalltest.Same(t, "held", want, again.Held())
		firewalltest.Same(t, "intact", true, again.Intact())
		if t.Failed() {
			return
		}
	}
	firewalltest.Apply(t, b, firewalltest.Deletes(firewalltest.List(have)...))
	firewalltest.Same(t, "ruleset", "", firewalltest.Ruleset(t))
}

// TestSourcesWithinOthers changes sources into some that hold the former or lie
// within them.
func TestSourcesWithinOthers(t *testing.T) {
	if !sandbox.Enter(t) {
		return
	}
	b, p := backend(t, netstate.SourceLocal), firewalltest.Ranged("0.0.0.0", "tcp", 80, 90, "10.0.0.2:80")
	last := p
	for _, sources := range [][]string{{"10.0.0.0/8"}, {"10.1.0.0/16", "10.2.0.0/16"}, {"10.0.0.0/8", "10.1.0.0/16"}, {"10.1.2.3/32"}, {"0.0.0.0/0"}, {}, {"10.1.2.0/24"}} {
		now := firewalltest.From(p, sources...)
		firewalltest.Apply(t, b, firewalltest.Updates(last, now))
		firewalltest.Same(t, "held", netstate.Set{}.Add(now), loaded(t, netstate.SourceLocal).Held())
		last = now
	}
}

// TestThousandsGated has a gate on each of many ports; one more is no slower than
// the engine may be.
func TestThousandsGated(t *testing.T) {
	if !sandbox.Enter(t) {
		return
	}
	want := netstate.Set{}
	for i := range 2000 {
		want.Add(firewalltest.From(firewalltest.Publish("0.0.0.0", "tcp", uint16(20000+i), fmt.Sprintf("10.68.%d.%d:80", i/250, 1+i%250)), "10.0.0.0/8"))
	}
	b := backend(t, netstate.SourceLocal)
	begin := time.Now()
	firewalltest.Apply(t, b, firewalltest.Creates(firewalltest.List(want)...))
	t.Logf("2,000 gated ports: %s", time.Since(begin))
	begin = time.Now()
	firewalltest.Apply(t, b, firewalltest.Creates(firewalltest.From(firewalltest.Publish("0.0.0.0", "tcp", 80, "10.68.0.1:80"), "10.0.0.0/8")))
	t.Logf("one more: %s", time.Since(begin))
	firewalltest.Apply(t, b, firewalltest.Deletes(firewalltest.Publish("0.0.0.0", "tcp", 80, "10.68.0.1:80")))
	firewalltest.Same(t, "observed", want, loaded(t, netstate.SourceLocal).Held())
	firewalltest.Apply(t, b, firewalltest.Deletes(firewalltest.List(want)...))
	firewalltest.Same(t, "ruleset", "", firewalltest.Ruleset(t))
}
