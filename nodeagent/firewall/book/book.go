package book

import (
	"cmp"
	"fmt"
	"iter"
	"maps"
	"slices"

	"github.com/patchbay-dev/patchbay/nodeagent/firewall/conntrack"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
	"github.com/patchbay-dev/patchbay/nodeagent/plan"
)

// Held is an entry as the kernel holds it.
type Held struct {
	// Value is what differs between two entries of one ID that contradict each other.
	Value string
	// Source is empty where the comment is not Patchbay's: then the entry goes.
	Source netstate.Source
	// Note is the rest of the comment.
	Note string
}

// Entry is what an object wants in the kernel: an element of a set, a rule, or a chain
// that is one object's alone.
type Entry[I comparable] struct {
	ID          I
	Value, Note string
}

// Dialect says what objects are in the kernel.
type Dialect[I comparable] interface {
	// Encode returns what the kernel must hold for an object. Two objects may want the
	// same entry. Decode is the inverse.
	Encode(netstate.Object) []Entry[I]
	// KeyOf returns the key of the object that an entry belongs to. It returns false for
	// an entry that several objects may share.
	KeyOf(I, Held) (netstate.Key, bool)
	// Decode returns the valid object of a key from those entries that belong to it, and
	// all that the kernel holds; nil where they do not tell.
	Decode(key netstate.Key, group []I, holds map[I]Held) netstate.Object
	// Compare orders entries as they are written.
	Compare(a, b I) int
	// Covered reports whether an entry is not made because another wanted one has its
	// effect.
	Covered(i I, want map[I]Entry[I]) bool
}

// Change is what becomes of one entry: it goes, comes, or is replaced.
type Change[I comparable] struct {
	ID       I
	Was, Now *Held
}

// Book is which entries the kernel holds, and which objects of one source they are.
type Book[I comparable] struct {
	Dialect[I]
	Source netstate.Source
	// Holds are all entries, whatever their source.
	Holds map[I]Held
	// Loose are the entries that belong to no object of any source.
	Loose   map[I]bool
	objects map[netstate.Key]*object[I]
	// wanted counts the objects that want an entry.
	wanted map[I]int
}

type object[I comparable] struct {
	netstate.Object
	// whole objects have all their entries and no contradictory ones.
	whole bool
	// extra entries contradict the object.
	extra []I
}

// New returns a book of objects of a source in which the kernel holds the given entries.
func New[I comparable](d Dialect[I], s netstate.Source, holds map[I]Held) *Book[I] {
	b := &Book[I]{Dialect: d, Source: s, Holds: holds, Loose: map[I]bool{}, wanted: map[I]int{}}
	b.objects = b.decode(func(h Held) bool { return h.Source == s })
	claimed := map[I]bool{}
	for _, o := range b.objects {
		for _, w := range d.Encode(o.Object) {
			b.wanted[w.ID]++
		}
		for _, i := range o.extra {
			claimed[i] = true
		}
	}
	for i, h := range holds {
		if h.Source == "" || h.Source == s && b.wanted[i] == 0 && !claimed[i] {
			b.Loose[i] = true
		}
	}
	return b
}

// decode returns the objects that chosen entries were made of. Entries that belong to no
// object, such as a target that nothing leads to, contribute nothing.
func (b *Book[I]) decode(chosen func(Held) bool) map[netstate.Key]*object[I] {
	groups := map[netstate.Key][]I{}
	for i, h := range b.Holds {
		if !chosen(h) {
			continue
		}
		if k, ok := b.KeyOf(i, h); ok {
			groups[k] = append(groups[k], i)
		}
	}
	objects := make(map[netstate.Key]*object[I], len(groups))
	for k, group := range groups {
		slices.SortFunc(group, b.Compare)
		if o := b.Decode(k, group, b.Holds); o != nil {
			objects[k] = b.judge(o, group)
		}
	}
	return objects
}

// judge compares an object with the entries that bear its key. An entry without a source
// will go and so does not count.
func (b *Book[I]) judge(o netstate.Object, group []I) *object[I] {
	out := &object[I]{Object: o, whole: true}
	want := b.Encode(o)
	for _, w := range want {
		if h, ok := b.Holds[w.ID]; !ok || h.Source == "" || h.Value != w.Value {
			out.whole = false
		}
	}
	for _, i := range group {
		if !slices.ContainsFunc(want, func(w Entry[I]) bool { return w.ID == i }) {
			out.whole, out.extra = false, append(out.extra, i)
		}
	}
	return out
}

// Object returns the object of a key, and whether the kernel holds it complete and
// exactly; nil where it holds nothing of it.
func (b *Book[I]) Object(k netstate.Key) (o netstate.Object, whole bool) {
	if found := b.objects[k]; found != nil {
		return found.Object, found.whole
	}
	return nil, false
}

// Objects are the objects of the source, complete or not.
func (b *Book[I]) Objects() iter.Seq[netstate.Object] {
	return func(yield func(netstate.Object) bool) {
		for _, o := range b.objects {
			if !yield(o.Object) {
				return
			}
		}
	}
}

// All are the objects of every source.
func (b *Book[I]) All() (all []netstate.Object) {
	for _, o := range b.decode(func(Held) bool { return true }) {
		all = append(all, o.Object)
	}
	return all
}

// Add notes an object that the kernel holds through the entries of another object.
func (b *Book[I]) Add(o netstate.Object) {
	b.objects[o.Key()] = &object[I]{Object: o, whole: true}
	for _, w := range b.Encode(o) {
		b.wanted[w.ID]++
	}
}

// Standing finds publishes as conntrack asks for them.
func (b *Book[I]) Standing() conntrack.Standing {
	return conntrack.Among(func(k netstate.Key) netstate.Object { o, _ := b.Object(k); return o }, b.Objects())
}

// Apply changes the book as the steps say. It returns the changes of the kernel in the
// order of writing, and the connections that then contradict the publishes. Loose entries go.
func (b *Book[I]) Apply(steps []plan.Step) ([]Change[I], conntrack.Flows, error) {
	want, touched := map[I]Entry[I]{}, b.Loose
	b.Loose = map[I]bool{}
	var contradicted conntrack.Flows
	for _, s := range steps {
		old := cmp.Or(b.release(s.Key, touched), s.Old)
		if s.Op == plan.Delete {
			contradicted = contradicted.Add(old, nil)
			continue
		}
		b.Add(s.New)
		for _, w := range b.Encode(s.New) {
			want[w.ID], touched[w.ID] = w, true
		}
		contradicted = contradicted.Add(old, s.New)
	}
	changes, err := b.change(touched, want)
	return changes, contradicted, err
}

// release forgets an object and returns it; touched collects the entries that it had.
func (b *Book[I]) release(k netstate.Key, touched map[I]bool) netstate.Object {
	o := b.objects[k]
	if o == nil {
		return nil
	}
	delete(b.objects, k)
	for _, w := range b.Encode(o.Object) {
		touched[w.ID] = true
		if b.wanted[w.ID]--; b.wanted[w.ID] == 0 {
			delete(b.wanted, w.ID)
		}
	}
	for _, i := range o.extra {
		touched[i] = true
	}
	return o.Object
}

// change brings the touched entries to the wanted state: entries that go come first,
// then entries that are replaced, then new ones.
func (b *Book[I]) change(touched map[I]bool, want map[I]Entry[I]) ([]Change[I], error) {
	var goes, replaced, comes []Change[I]
	for _, i := range slices.SortedFunc(maps.Keys(touched), b.Compare) {
		w, wanted := want[i]
		h, exists := b.Holds[i]
		foreign := exists && h.Source != b.Source && h.Source != ""
		now := &Held{Value: w.Value, Source: b.Source, Note: w.Note}
		switch {
		case b.wanted[i] == 0 || !wanted && h.Source == "" || b.Covered(i, want):
			if exists && !foreign {
				goes = append(goes, Change[I]{ID: i, Was: &h})
				delete(b.Holds, i)
			}
		case !wanted || exists && h.Source != "" && h.Value == w.Value && (foreign || h.Note == w.Note):
		case foreign:
			return nil, fmt.Errorf("add %v: source %s holds it with another value", i, h.Source)
		case exists:
			replaced = append(replaced, Change[I]{ID: i, Was: &h, Now: now})
			b.Holds[i] = *now
		default:
			comes = append(comes, Change[I]{ID: i, Now: now})
			b.Holds[i] = *now
		}
	}
	return slices.Concat(goes, replaced, comes), nil
}
