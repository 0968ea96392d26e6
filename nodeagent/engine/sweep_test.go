package engine

import (
	"fmt"
	"maps"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/patchbay-dev/patchbay/api/v1alpha1"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
	"github.com/patchbay-dev/patchbay/nodeagent/plan"
)

// mortal is a world whose process can be killed before a step.
type mortal struct {
	*world
	steps int
}

// mortalFirewall is a firewall whose transactions are steps.
type mortalFirewall struct {
	*fakeFirewall
	step func()
}

func (n mortalFirewall) Apply(steps []plan.Step) []error {
	n.step()
	return n.fakeFirewall.Apply(steps)
}

// begin starts a process as apply does, which sweeps nothing. It is killed before a step;
// zero is none.
func (m *mortal) begin(kill int) {
	m.k.held = m.k.inventory()
	m.e = m.engine()
	m.steps = 0
	step := func() {
		if m.steps++; m.steps == kill {
			panic("killed")
		}
	}
	m.k.appErr = func(plan.Step) error { step(); return nil }
	m.e.Firewall = mortalFirewall{m.n, step}
}

// apply brings the objects about, and returns the objects in the kernel then.
func (m *mortal) apply(kill int, objects ...v1alpha1.Object) netstate.Set {
	m.t.Helper()
	defer func() { _ = recover() }()
	m.begin(kill)
	for _, o := range objects {
		m.set(copyOf(o))
	}
	if m.turns(100) == 100 {
		m.t.Fatal("no rest")
	}
	all := maps.Clone(m.k.set)
	maps.Copy(all, m.n.set)
	return all
}

// twoPublishes are a network with two attachments and a publish of each.
func twoPublishes(port1, port2 int32) []v1alpha1.Object {
	return []v1alpha1.Object{bnet("red", "10.0.0.0/24"), nsa("a", "red", "10.0.0.11/24"), nsa("b", "red", "10.0.0.12/24"), pp("one", "a", "", port1), pp("two", "b", "", port2)}
}

// TestKilledBeforeEachStep kills a process that changes the objects of another one before
// each of its steps. The next process may want a third version, and leaves nothing of both.
func TestKilledBeforeEachStep(t *testing.T) {
	moved := twoPublishes(80, 81)
	moved[1] = nsa("a", "red", "10.0.0.21/24")
	for name, edited := range map[string][]v1alpha1.Object{
		"nothing":         nil,
		"other ports":     twoPublishes(90, 91),
		"swapped ports":   twoPublishes(81, 80),
		"another address": moved,
		"not all named":   twoPublishes(80, 81)[:4],
	} {
		for _, last := range [][]v1alpha1.Object{edited, twoPublishes(70, 71), twoPublishes(81, 80)} {
			if last == nil {
				continue
			}
			want := (&mortal{world: newWorld(t)}).apply(0, last...)
			if name == "not all named" && len(last) == 4 {
				// A resource that is not named stays.
				want = (&mortal{world: newWorld(t)}).apply(0, append(last, twoPublishes(80, 81)[4])...)
			}
			for kill := 1; ; kill++ {
				m := &mortal{world: newWorld(t)}
				if edited != nil {
					m.apply(0, twoPublishes(80, 81)...)
					m.apply(kill, edited...)
				} else {
					m.apply(kill, twoPublishes(80, 81)...)
				}
				steps := m.steps
				got := m.apply(0, last...)
				if d := cmp.Diff(texts(want), texts(got)); d != "" {
					t.Fatalf("%s, killed before step %d (-want +got):\n%s", name, kill, d)
				}
				if steps < kill {
					break
				}
			}
		}
	}
}

func texts(set netstate.Set) (list []string) {
	for _, k := range set.Keys() {
		list = append(list, fmt.Sprint(k, " ", set[k]))
	}
	return list
}

// TestKeysAreCut shows that the key of an object is kept no longer once the object is gone, and
// none of a resource that is gone.
func TestKeysAreCut(t *testing.T) {
	w := newWorld(t)
	for _, o := range twoPublishes(80, 81) {
		w.set(o)
	}
	w.e.Synced(true)
	w.turns(20)
	one := pp("one", "a", "", 80)
	before := w.r.keys.of[own(one)]
	w.set(pp("one", "a", "", 90))
	w.turns(20)
	after := w.r.keys.of[own(one)]
	if len(before) == 0 || len(after) != len(before) || slices.ContainsFunc(before, func(k netstate.Key) bool {
		return k.Kind == netstate.KindPublish && slices.Contains(after, k)
	}) {
		t.Errorf("keys %v after another port, %v before", after, before)
	}
	w.e.Remove(yes(InputOf(one)))
	w.turns(20)
	if left, ok := w.r.keys.of[own(one)]; ok {
		t.Errorf("keys %v of a publish that is gone", left)
	}
}

// TestFormerPortStaysWithItsHolder restarts beside stale keys: they give a loser no port, and
// take none from its holder.
func TestFormerPortStaysWithItsHolder(t *testing.T) {
	for name, loser := range map[string]v1alpha1.Object{"wants it": pp("one", "a", "", 81), "wants another": pp("one", "a", "", 90)} {
		w := newWorld(t)
		m := &mortal{world: w}
		m.apply(0, twoPublishes(80, 81)...)
		held := w.n.set[portKey(81)]
		w.r.keys.keep(own(loser), append(w.r.keys.of[own(loser)], portKey(81)))
		objects := twoPublishes(80, 81)
		objects[3] = loser
		m.apply(0, objects...)
		if got := w.n.set[portKey(81)]; got == nil || got != held {
			t.Errorf("%s: port 81 is %v, was %v", name, got, held)
		}
		if w.n.set[portKey(80)] != nil {
			t.Errorf("%s: port 80 is left", name)
		}
	}
}

func portKey(port uint16) netstate.Key {
	return netstate.Key{Kind: netstate.KindPublish, Name: fmt.Sprintf("0.0.0.0:%d/tcp", port)}
}

// TestLearn lets a process learn without keys what another one built.
func TestLearn(t *testing.T) {
	w := newWorld(t)
	m := &mortal{world: w}
	m.apply(0, twoPublishes(80, 81)...)
	w.r.keys.replace(nil)
	m.begin(0)
	for _, o := range twoPublishes(80, 81) {
		w.set(o)
	}
	keys, err := w.e.Learn()
	if err != nil || !slices.Contains(keys[own(pp("one", "a", "", 80))], portKey(80)) {
		t.Fatalf("learned %v: %v", keys, err)
	}
	for _, o := range twoPublishes(80, 81) {
		w.e.Remove(InputOf(o))
	}
	w.turns(20)
	if left := w.k.inventory(); len(left)+len(w.n.set) > 0 {
		t.Errorf("left: %v %v", left, texts(w.n.set))
	}
}
