package firewall

import (
	"context"
	"testing"

	"github.com/patchbay-dev/patchbay/nodeagent/firewall/firewalltest"
	"github.com/patchbay-dev/patchbay/nodeagent/firewall/iptsave"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
	"github.com/patchbay-dev/patchbay/nodeagent/plan"
	"github.com/patchbay-dev/patchbay/test/sandbox"
)

// TestIPTablesCrash ends after each restore of building and of removing.
func TestIPTablesCrash(t *testing.T) {
	if !sandbox.Enter(t) {
		return
	}
	eachVariant(t, func(t *testing.T, k kind, v iptsave.Variant) {
		want := richIP()
		for n := 1; ; n++ {
			ended := cutOff(t, k, n, firewalltest.Creates(firewalltest.List(want)...))
			again := k.loaded(t, netstate.SourceLocal)
			repair(t, again, want)
			firewalltest.Same(t, "held after a repair", want, k.loaded(t, netstate.SourceLocal).Held())
			cutOff(t, k, n, firewalltest.Deletes(firewalltest.List(want)...))
			again = k.loaded(t, netstate.SourceLocal)
			firewalltest.Apply(t, again, firewalltest.Deletes(firewalltest.List(again.Held())...))
			firewalltest.Same(t, "what is left", "", firewall(t))
			if ended {
				firewalltest.Same(t, "cut off at all", true, n > 1)
				return
			}
			if n > 40 {
				t.Fatal("it never comes to an end")
			}
		}
	})
}

// cutOff applies steps and lets nothing run after n restores. It reports whether
// that was the end anyway.
func cutOff(t *testing.T, k kind, n int, steps []plan.Step) bool {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := 0
	b := k.make(t, Options{Source: netstate.SourceLocal, Context: ctx, Step: func() {
		if done++; done == n {
			cancel()
		}
	}})
	return b.Apply(steps) == nil
}
