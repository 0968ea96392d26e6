package facts

import (
	"math/rand/v2"
	"testing"
)

// TestHistories drives random histories of readers that read values, against the plain
// rule: a reader is dirty if a value that it has read is another now, if it was touched,
// or if it was marked.
func TestHistories(t *testing.T) {
	for seed := range uint64(2000) {
		r := rand.New(rand.NewPCG(seed, 3))
		b := New[int, string]()
		facts := []string{"a", "b", "c"}
		values := map[string]any{}
		read, dirty := map[int]map[string]bool{}, map[int]bool{}
		concern := func(f string) {
			for reader, list := range read {
				if list[f] {
					dirty[reader] = true
				}
			}
		}
		members := map[string]map[int]int{"a": {}, "b": {}, "c": {}}
		others := func(f string, member int) {
			was := dirty[member]
			concern(f)
			if dirty[member] = was; !was {
				delete(dirty, member)
			}
		}
		for range 60 {
			reader, f := r.IntN(4), facts[r.IntN(len(facts))]
			switch r.IntN(9) {
			case 0:
				b.Begin(reader)
				delete(read, reader)
				delete(dirty, reader)
			case 1, 2:
				if read[reader] == nil {
					read[reader] = map[string]bool{}
				}
				read[reader][f] = true
				if got, want := b.Get(reader, f), values[f]; (got == nil) != (want == nil) || got != nil && got.([]int)[0] != want.([]int)[0] {
					t.Fatalf("seed %d: %s is %v, want %v", seed, f, got, want)
				}
			case 3, 4:
				var value any
				if n := r.IntN(3); n > 0 {
					value = []int{n}
				}
				old := values[f]
				same := old == nil && value == nil || old != nil && value != nil && old.([]int)[0] == value.([]int)[0]
				b.Set(f, value)
				values[f] = value
				if !same {
					concern(f)
				}
			case 5:
				b.Touch(f)
				concern(f)
			case 6:
				value := r.IntN(2)
				if old, is := members[f][reader]; !is || old != value {
					members[f][reader] = value
					others(f, reader)
				}
				b.Join(f, reader, value)
			case 7:
				if _, is := members[f][reader]; is {
					delete(members[f], reader)
					others(f, reader)
				}
				b.Leave(f, reader)
			case 8:
				if r.IntN(2) == 0 {
					b.Mark(reader)
					dirty[reader] = true
					break
				}
				even := func(r int) bool { return r%2 == reader%2 }
				got := map[int]bool{}
				for _, taken := range b.Take(even) {
					got[taken] = true
				}
				for r := range 4 {
					if want := dirty[r] && even(r); got[r] != want {
						t.Fatalf("seed %d: reader %d is taken: %v, want %v", seed, r, got[r], want)
					}
					if even(r) {
						delete(dirty, r)
					}
				}
			}
			for _, f := range facts {
				if got := b.PeekMembers(f); len(got) != len(members[f]) {
					t.Fatalf("seed %d: members of %s are %v, want %v", seed, f, got, members[f])
				}
			}
			if b.Clean() != (len(dirty) == 0) {
				t.Fatalf("seed %d: clean %v, dirty are %v", seed, b.Clean(), dirty)
			}
		}
	}
}
