package engine

import (
	"fmt"
	"testing"

	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
)

// TestLearnedIsBoundedByWhatIsAttached: a bridge has room for the MAC addresses of
// its attachments and some more, whichever come and go, and few of them change it.
func TestLearnedIsBoundedByWhatIsAttached(t *testing.T) {
	w := newWorld(t)
	w.e.SweepDelay = -1
	w.e.Synced(true)
	w.set(bnet("red", "10.0.0.0/24"))
	changes, last := 0, uint32(0)
	expect := func(attached int, want uint32) {
		t.Helper()
		w.turns(9)
		l, _ := w.k.set[netstate.Link{Name: "br-red"}.Key()].(netstate.Link)
		got, _ := l.Attributes.Get(netstate.FDBMaxLearned)
		if want != 0 && got != want {
			t.Errorf("with %d attached a bridge learns %d, want %d", attached, got, want)
		}
		if got < 8*uint32(attached) {
			t.Errorf("with %d attached a bridge learns no more than %d", attached, got)
		}
		if got != last {
			changes, last = changes+1, got
		}
	}
	expect(0, 64)
	for i := 1; i <= 40; i++ {
		w.set(nsa(fmt.Sprint("n", i), "red"))
		expect(i, 0)
	}
	expect(40, 512)
	if changes != 4 {
		t.Errorf("40 attachments changed the bridge %d times, want 4: 64, 128, 256, 512", changes)
	}
	for i := 40; i > 8; i-- {
		w.e.Remove(yes(InputOf(nsa(fmt.Sprint("n", i), "red"))))
	}
	expect(8, 64)
}
