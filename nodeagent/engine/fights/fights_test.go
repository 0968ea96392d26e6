package fights

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
)

func never(netstate.Key) bool { return false }

// TestHistories drives random repairs: no object is contested before FewRepairs in a
// Window, pauses double up to the last, and a book whose objects stay whole is empty.
func TestHistories(t *testing.T) {
	for seed := range uint64(500) {
		r := rand.New(rand.NewPCG(seed, 6))
		b, at := New(), time.Unix(0, 0)
		owners := []netstate.Owner{{Name: "a"}, {Name: "b"}, {Name: "c"}}
		repairs, pauses := map[Undoing][]time.Time{}, map[Undoing]time.Duration{}
		for range 400 {
			at = at.Add(time.Duration(r.IntN(400)) * time.Millisecond)
			u := Undoing{Key: netstate.Link{Name: fmt.Sprint("l", r.IntN(2))}.Key()}
			if b.Pauses(u, at) {
				continue
			}
			repairs[u] = append(repairs[u], at)
			contested, begun := b.Repaired(u, owners[:1+r.IntN(3)], at)
			recent := 0
			for _, then := range repairs[u] {
				if at.Sub(then) <= Window {
					recent++
				}
			}
			if begun != nil && pauses[u] == 0 && recent <= FewRepairs {
				t.Fatalf("seed %d: contested after %d repairs", seed, recent)
			}
			if begun != nil {
				want := min(max(2*pauses[u], firstPause), lastPause)
				if begun.Pause != want || !contested || !b.Pauses(u, at) || b.Pauses(u, at.Add(want)) {
					t.Fatalf("seed %d: a pause of %s, want %s", seed, begun.Pause, want)
				}
				pauses[u] = begun.Pause
			}
			if r.IntN(20) == 0 {
				o := owners[r.IntN(3)]
				b.Forget(o)
				if b.Any(o) || b.Contested(o) != "" {
					t.Fatalf("seed %d: %s is not forgotten", seed, o)
				}
				if len(b.fights) == 0 {
					clear(repairs)
					clear(pauses)
				}
				for u := range pauses {
					if b.fights[u] == nil {
						delete(repairs, u)
						delete(pauses, u)
					}
				}
			}
		}
		for _, o := range owners {
			if next := b.End(o, at.Add(Window), never); !next.IsZero() {
				t.Fatalf("seed %d: %s is looked at again at %s", seed, o, next)
			}
		}
		if len(b.fights)+len(b.of) > 0 {
			t.Fatalf("seed %d: left are %v", seed, b)
		}
	}
}
