package engine

import (
	"errors"
	"slices"
	"testing"

	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
)

// TestFailedFirewallIsNotBelieved shows that the objects of a failed change count neither
// as there nor as gone, also while the firewall cannot be read.
func TestFailedFirewallIsNotBelieved(t *testing.T) {
	w := newWorld(t)
	red := bnet("red", "10.0.0.0/24")
	// What comes after the filters.
	built := func() bool {
		return slices.ContainsFunc(w.k.set.Keys(), func(k netstate.Key) bool { return k.Kind == netstate.KindAddress })
	}
	expect := func(what string, ready string, isBuilt bool) {
		t.Helper()
		for range 10 {
			w.later(pauseAfterError)
			w.e.firewallChanged()
			w.e.everything()
			w.turn()
			if got := w.r.status[own(red)].Ready; string(got.Status) != ready || built() != isBuilt {
				t.Fatalf("%s: built %t, Ready is %s %s %q", what, built(), got.Status, got.Reason, got.Message)
			}
		}
	}
	w.n.err = errors.New("run nft: killed")
	w.set(red)
	expect("while nothing can be written", "False", false)
	w.n.unreadable = errors.New("run nft: killed")
	expect("while nothing can be read either", "False", false)
	w.n.unreadable, w.n.err = nil, nil
	expect("again", "True", true)
	held := len(w.n.set)
	w.n.err = errors.New("run nft: killed")
	w.e.Remove(yes(InputOf(red)))
	w.turns(5)
	if len(w.n.set) != held || w.r.removed[own(red)] != 0 {
		t.Errorf("%d of %d objects are held, removed %d times", len(w.n.set), held, w.r.removed[own(red)])
	}
	w.n.err = nil
	w.later(pauseAfterError)
	w.e.firewallChanged()
	w.e.everything()
	w.turns(5)
	if len(w.n.set) != 0 || w.r.removed[own(red)] != 1 {
		t.Errorf("%v is held, removed %d times", w.n.set, w.r.removed[own(red)])
	}
}
