package engine

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
	"github.com/patchbay-dev/patchbay/nodeagent/plan"
)

// applyFails is a firewall that somebody else changes at the same time.
type applyFails struct {
	*fakeNAT
	fail bool
}

func (a *applyFails) Apply(ctx context.Context, steps []plan.Step) error {
	if a.fail {
		return errors.New("run iptables-restore: No chain/target/match by that name")
	}
	return a.fakeNAT.Apply(ctx, steps)
}

// TestFirewallIsTriedAgainSoon shows that a first failure does not cost a flushed
// firewall the second in which it is to be back, that failures in a row are tried
// less and less often, and that a success forgets them.
func TestFirewallIsTriedAgainSoon(t *testing.T) {
	w := newWorld(t)
	a := &applyFails{fakeNAT: w.n}
	w.e.NAT = a
	w.set(bnet("red", "10.0.0.0/24"))
	w.turns(20)
	var pauses []time.Duration
	fail := func() {
		a.fail, a.set = true, netstate.Set{}
		w.e.setNATLost(true)
		w.e.natRetry = time.Time{}
		w.turn()
		pauses = append(pauses, time.Until(w.e.natRetry))
	}
	for range 8 {
		fail()
	}
	if first, last := pauses[0], pauses[len(pauses)-1]; first > pauseAfterError/4 || last < pauseAfterError/2 || last > pauseAfterError {
		t.Errorf("failures are followed by pauses of %s", pauses)
	}
	a.fail = false
	w.e.natRetry = time.Time{}
	w.turns(20)
	fail()
	if again := pauses[len(pauses)-1]; again > pauseAfterError/4 {
		t.Errorf("after a success a failure is followed by a pause of %s", again)
	}
}
