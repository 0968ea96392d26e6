package ledger

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
)

// book is the same as a ledger, looked through for every answer.
type book struct {
	wanted map[netstate.Owner]netstate.Set
	held   map[netstate.Owner]map[netstate.Key]bool
}

// TestHistories compares random histories with a book without indexes.
func TestHistories(t *testing.T) {
	var keys []netstate.Object
	for i := range 4 {
		keys = append(keys, netstate.Link{Name: fmt.Sprint("l", i)}, netstate.LinkPolicy{Link: fmt.Sprint("l", i)})
	}
	for seed := range uint64(500) {
		r := rand.New(rand.NewPCG(seed, 2))
		l, b := New(), book{map[netstate.Owner]netstate.Set{}, map[netstate.Owner]map[netstate.Key]bool{}}
		for range 40 {
			o := netstate.Owner{Name: fmt.Sprint("o", r.IntN(4))}
			k := keys[r.IntN(len(keys))].Key()
			switch r.IntN(5) {
			case 0, 1:
				set := netstate.Set{}
				for _, object := range keys {
					if r.IntN(3) == 0 {
						set.Add(object)
					}
				}
				before := b.all(keys)
				b.wanted[o] = set
				came, went := l.Account(o).Want(set)
				after := b.all(keys)
				expect(t, seed, "came", came, minus(after, before))
				expect(t, seed, "went", went, minus(before, after))
			case 2:
				l.Account(o).Hold(k)
				if b.held[o] == nil {
					b.held[o] = map[netstate.Key]bool{}
				}
				b.held[o][k] = true
			case 3:
				l.Account(o).Drop(k)
				delete(b.held[o], k)
			case 4:
				l.Close(o)
				delete(b.wanted, o)
				delete(b.held, o)
			}
			b.compare(t, seed, l, keys)
		}
	}
}

func (b book) all(keys []netstate.Object) (list []netstate.Key) {
	for _, object := range keys {
		for _, set := range b.wanted {
			if set[object.Key()] != nil {
				list = append(list, object.Key())
				break
			}
		}
	}
	return list
}

func minus(a, b []netstate.Key) []netstate.Key {
	return slices.DeleteFunc(slices.Clone(a), func(k netstate.Key) bool { return slices.Contains(b, k) })
}

func expect(t *testing.T, seed uint64, what string, got, want []netstate.Key) {
	t.Helper()
	slices.SortFunc(got, netstate.Key.Compare)
	slices.SortFunc(want, netstate.Key.Compare)
	if !slices.Equal(got, want) {
		t.Fatalf("seed %d: %s: %v, want %v", seed, what, got, want)
	}
}

func (b book) compare(t *testing.T, seed uint64, l *Ledger, keys []netstate.Object) {
	t.Helper()
	at := map[netstate.End][]netstate.Key{}
	for _, k := range b.all(keys) {
		if !k.Kind.Firewall() {
			at[On(k)] = append(at[On(k)], k)
		}
	}
	for _, object := range keys {
		k := object.Key()
		wants, holds := 0, 0
		for o, set := range b.wanted {
			if set[k] != nil {
				wants++
			}
			if l.Owners(k).Has(o) != (set[k] != nil) {
				t.Fatalf("seed %d: %s of %s", seed, k, o)
			}
		}
		for o, held := range b.held {
			if held[k] {
				holds++
			}
			if l.Account(o).Holds(k) != held[k] || l.Holders(k).Has(o) != held[k] {
				t.Fatalf("seed %d: %s held by %s", seed, k, o)
			}
		}
		if l.Owners(k).Len() != wants || l.Holders(k).Len() != holds || (l.Wanted(k) != nil) != (wants > 0) {
			t.Fatalf("seed %d: %s: %d want and %d hold it, want %d and %d", seed, k, l.Owners(k).Len(), l.Holders(k).Len(), wants, holds)
		}
		expect(t, seed, "at", slices.Collect(l.At(On(k))), at[On(k)])
		if len(slices.Collect(l.Owners(k).All())) != wants {
			t.Fatalf("seed %d: not all owners of %s", seed, k)
		}
	}
	for o, held := range b.held {
		expect(t, seed, "held", slices.Collect(l.Account(o).Held()), slices.Collect(maps.Keys(held)))
	}
}
