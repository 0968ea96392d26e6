package nftables

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	"github.com/patchbay-dev/patchbay/nodeagent/firewall/conntrack"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
	"github.com/patchbay-dev/patchbay/nodeagent/plan"
	"sigs.k8s.io/knftables"
)

// memory is what the kernel holds of ours.
type memory struct {
	source netstate.Source
	tables map[knftables.Family]*table
	// holds are all elements, whatever their source; counts are their numbers
	// by family.
	holds  map[id]held
	counts map[knftables.Family]int
	// entries are the objects of our source; refs counts those that want an
	// element.
	entries map[netstate.Key]*entry
	refs    map[id]int
	// loose elements belong to no object of any source.
	loose map[id]bool
}

func newMemory(source netstate.Source) memory {
	m := memory{source: source, tables: map[knftables.Family]*table{}, holds: map[id]held{}, counts: map[knftables.Family]int{},
		entries: map[netstate.Key]*entry{}, refs: map[id]int{}, loose: map[id]bool{}}
	for _, f := range families {
		m.tables[f] = &table{}
	}
	return m
}

// take adds a listed table.
func (m *memory) take(f knftables.Family, t table) {
	maps.Copy(m.holds, t.elements)
	m.counts[f], t.elements = len(t.elements), nil
	m.tables[f] = &t
}

// elementsOf are the elements of a family.
func (m *memory) elementsOf(f knftables.Family) map[id]held {
	out := maps.Clone(m.holds)
	maps.DeleteFunc(out, func(i id, _ held) bool { return setByName[i.set].family != f })
	return out
}

// understand makes objects of the elements.
func (m *memory) understand() {
	own := maps.Clone(m.holds)
	maps.DeleteFunc(own, func(_ id, h held) bool { return h.source != m.source })
	m.entries = objects(own, m.holds)
	claimed := map[id]bool{}
	for _, e := range m.entries {
		for _, w := range elements(e.object) {
			m.refs[w.id]++
		}
		for _, i := range e.extra {
			claimed[i] = true
		}
	}
	for i, h := range m.holds {
		if h.source == "" || h.source == m.source && m.refs[i] == 0 && !claimed[i] {
			m.loose[i] = true
		}
	}
}

func (m *memory) intact() bool {
	for f, t := range m.tables {
		if t.exists != (m.counts[f] > 0) || t.exists && !(t.sets && t.rules) {
			return false
		}
	}
	return len(m.loose) == 0
}

// observe returns the object if it is exact.
func (m *memory) observe(k netstate.Key) netstate.Object {
	if e := m.entries[k]; e != nil {
		if e.exact {
			return e.object
		}
		return nil
	}
	switch k.Kind {
	case netstate.KindPortAddress:
		return m.observeLinkLocal(k)
	case netstate.KindNoMasquerade:
		return m.observeCovered(k)
	}
	return nil
}

// observeLinkLocal finds the link-local address of a port's own MAC, which is
// the filter's already.
func (m *memory) observeLinkLocal(k netstate.Key) netstate.Object {
	e := m.entries[netstate.PortFilter{Link: k.Link}.Key()]
	if e == nil || !e.exact {
		return nil
	}
	mac := e.object.(netstate.PortFilter).MAC
	own := netstate.PortAddress{Link: k.Link, MAC: mac, Addr: mac.LinkLocal()}
	if own.Key() != k {
		return nil
	}
	return own
}

// change is what becomes of one element.
type change struct {
	id
	// remove and add together replace it.
	remove bool
	add    *held
}

// apply changes memory as the steps say. It returns what that changes in the
// kernel, in the order of writing, and the flows that then contradict it.
func (m *memory) apply(steps []plan.Step) ([]change, conntrack.Flows, error) {
	want := map[id]element{}
	touched := m.loose
	m.loose = map[id]bool{}
	var contradicted conntrack.Flows
	for _, stale := range m.displaced(steps) {
		contradicted = contradicted.Add(m.release(stale, touched), nil)
	}
	for _, s := range steps {
		old := m.release(s.Key, touched)
		if old == nil {
			old = s.Old
		}
		if s.Op == plan.Delete {
			contradicted = contradicted.Add(old, nil)
			continue
		}
		m.entries[s.Key] = &entry{object: s.New, exact: true}
		for _, w := range elements(s.New) {
			m.refs[w.id]++
			want[w.id], touched[w.id] = w, true
		}
		contradicted = contradicted.Add(old, s.New)
	}
	m.wantExclusions(touched, want)
	changes, err := m.settle(touched, want)
	return changes, contradicted, err
}

// displaced are publishes whose ports the steps lead elsewhere under other keys.
// Who applies steps has deleted those that it knew of; what somebody else put
// there must go too, since intervals that overlap are an error (EEXIST).
func (m *memory) displaced(steps []plan.Step) []netstate.Key {
	var ranges []netstate.Publish
	for _, e := range m.entries {
		if p, ok := e.object.(netstate.Publish); ok && p.HostPortEnd != 0 {
			ranges = append(ranges, p)
		}
	}
	var keys []netstate.Key
	for _, s := range steps {
		p, ok := s.New.(netstate.Publish)
		if !ok {
			continue
		}
		for _, r := range ranges {
			if r.Key() != s.Key && overlap(p, r) {
				keys = append(keys, r.Key())
			}
		}
		for port := p.HostPort; p.HostPortEnd != 0 && port >= p.HostPort && port <= p.HostPortEnd; port++ {
			one := netstate.Publish{Host: p.Host, Proto: p.Proto, HostPort: port}.Key()
			if m.entries[one] != nil {
				keys = append(keys, one)
			}
		}
	}
	return keys
}

func overlap(a, b netstate.Publish) bool {
	return a.Host == b.Host && a.Proto == b.Proto && a.HostPort <= b.Last() && b.HostPort <= a.Last()
}

// release forgets an object and returns it; touched collects the elements that
// it had.
func (m *memory) release(k netstate.Key, touched map[id]bool) netstate.Object {
	e := m.entries[k]
	if e == nil {
		return nil
	}
	delete(m.entries, k)
	for _, w := range elements(e.object) {
		touched[w.id] = true
		if m.refs[w.id]--; m.refs[w.id] == 0 {
			delete(m.refs, w.id)
		}
	}
	for _, i := range e.extra {
		touched[i] = true
	}
	return e.object
}

// settle changes what memory holds of the touched elements.
func (m *memory) settle(touched map[id]bool, want map[id]element) ([]change, error) {
	var changes []change
	for _, i := range slices.SortedFunc(maps.Keys(touched), compareIDs) {
		w, wanted := want[i]
		h, exists := m.holds[i]
		foreign := exists && h.source != m.source && h.source != ""
		c := change{id: i}
		switch {
		case m.refs[i] == 0 || !wanted && h.source == "" || covered(i, want):
			c.remove = exists && !foreign
		case !wanted || exists && h.source != "" && h.value == w.value && (foreign || h.note == w.note):
			continue
		case foreign:
			return nil, fmt.Errorf("add %s: source %s holds it with another value", i, h.source)
		default:
			c.remove, c.add = exists, &held{value: w.value, source: m.source, note: w.note}
		}
		if c.remove || c.add != nil {
			changes = append(changes, c)
			m.hold(c)
		}
	}
	slices.SortStableFunc(changes, compareChanges)
	return changes, nil
}

func (m *memory) hold(c change) {
	f := setByName[c.set].family
	if c.remove {
		delete(m.holds, c.id)
		m.counts[f]--
	}
	if c.add != nil {
		m.holds[c.id] = *c.add
		m.counts[f]++
	}
}

// committed notes that the kernel now holds what memory does.
func (m *memory) committed() {
	for f, t := range m.tables {
		here := m.counts[f] > 0
		if t.unread && !here {
			continue
		}
		*t = table{exists: here, sets: here, rules: here}
	}
}

var setRank = func() map[string]int {
	rank := map[string]int{}
	for i, d := range setDefs {
		rank[d.name] = i
	}
	return rank
}()

func compareIDs(a, b id) int {
	return cmp.Or(cmp.Compare(setRank[a.set], setRank[b.set]), cmp.Compare(a.key, b.key))
}

// compareChanges puts what goes before what changes before what comes.
func compareChanges(a, b change) int {
	rank := func(c change) int {
		switch {
		case c.add == nil:
			return 0
		case c.remove:
			return 1
		}
		return 2
	}
	return cmp.Compare(rank(a), rank(b))
}

// standing judges by what memory holds.
func (m *memory) standing() conntrack.Standing {
	return conntrack.Among(func(k netstate.Key) netstate.Object {
		if e := m.entries[k]; e != nil {
			return e.object
		}
		return nil
	}, func(yield func(netstate.Object) bool) {
		for _, e := range m.entries {
			if !yield(e.object) {
				return
			}
		}
	})
}
