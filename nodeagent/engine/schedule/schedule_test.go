package schedule

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// TestHistories compares random histories with a plain map.
func TestHistories(t *testing.T) {
	for seed := range uint64(2000) {
		r := rand.New(rand.NewPCG(seed, 1))
		var s Schedule[int]
		at, rests := map[int]time.Time{}, map[int]time.Time{}
		now := time.Unix(0, 0)
		set := func(k int, t time.Time) {
			if rest, ok := rests[k]; ok && t.Before(rest) {
				t = rest
			}
			at[k] = t
		}
		for range 60 {
			k, then := r.IntN(5), now.Add(time.Duration(r.IntN(10))*time.Second)
			switch r.IntN(6) {
			case 0:
				s.At(k, then)
				set(k, then)
			case 1:
				s.By(k, then)
				if old, ok := at[k]; !ok || then.Before(old) {
					set(k, then)
				}
			case 2:
				s.Rest(k, then)
				rests[k] = then
				if old, ok := at[k]; ok {
					set(k, old)
				}
			case 3:
				s.Clear(k)
				delete(at, k)
				delete(rests, k)
			default:
				now = now.Add(time.Duration(r.IntN(4)) * time.Second)
				var want []int
				for k, t := range at {
					if !now.Before(t) {
						want = append(want, k)
						delete(at, k)
					}
				}
				for k, t := range rests {
					if !now.Before(t) {
						delete(rests, k)
					}
				}
				got := s.Due(now)
				slices.Sort(got)
				slices.Sort(want)
				if !slices.Equal(got, want) {
					t.Fatalf("seed %d: due are %v, want %v", seed, got, want)
				}
			}
			check(t, seed, &s, at)
		}
	}
}

func check(t *testing.T, seed uint64, s *Schedule[int], at map[int]time.Time) {
	t.Helper()
	var first time.Time
	for _, then := range at {
		if first.IsZero() || then.Before(first) {
			first = then
		}
	}
	if next, ok := s.Next(); ok != (len(at) > 0) || !next.Equal(first) {
		t.Fatalf("seed %d: next is %s, %v, want %s", seed, next, ok, first)
	}
	for k := range 5 {
		if _, ok := at[k]; s.Has(k) != ok {
			t.Fatalf("seed %d: has %d: %v", seed, k, s.Has(k))
		}
	}
}

// TestBackOff shows that pauses double and end at the last.
func TestBackOff(t *testing.T) {
	var got []time.Duration
	for n := range 5 {
		got = append(got, BackOff(time.Second, 10*time.Second, n))
	}
	if want := []time.Duration{1e9, 2e9, 4e9, 8e9, 10e9}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	if BackOff(time.Second, time.Minute, 1000) != time.Minute {
		t.Error("many failures overflow")
	}
}
