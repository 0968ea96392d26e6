package nftables

import (
	"cmp"
	"maps"

	"github.com/patchbay-dev/patchbay/nodeagent/firewall/book"
	"github.com/patchbay-dev/patchbay/nodeagent/firewall/conntrack"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
	"github.com/patchbay-dev/patchbay/nodeagent/plan"
	"sigs.k8s.io/knftables"
)

// memory is what the kernel holds in our name.
type memory struct {
	*book.Book[id]
	tables map[knftables.Family]*table
	// counts are the numbers of elements.
	counts map[knftables.Family]int
}

// newMemory has the listed tables.
func newMemory(source netstate.Source, tables map[knftables.Family]table) memory {
	m := memory{tables: map[knftables.Family]*table{}, counts: map[knftables.Family]int{}}
	holds := map[id]book.Held{}
	for _, f := range families {
		t := tables[f]
		maps.Copy(holds, t.elements)
		m.counts[f], t.elements = len(t.elements), nil
		m.tables[f] = &t
	}
	m.Book = book.New(sets{}, source, holds)
	return m
}

// elementsOf are the elements of a family.
func (m *memory) elementsOf(f knftables.Family) map[id]book.Held {
	out := maps.Clone(m.Holds)
	maps.DeleteFunc(out, func(i id, _ book.Held) bool { return setByName[i.set].family != f })
	return out
}

func (m *memory) intact() bool {
	for f, t := range m.tables {
		if t.exists != (m.counts[f] > 0) || t.exists && !(t.sets && t.rules) {
			return false
		}
	}
	return len(m.Loose) == 0
}

// object returns the object of a key, and whether it is held complete and exactly.
func (m *memory) object(k netstate.Key) (netstate.Object, bool) {
	o, whole := m.Object(k)
	switch {
	case o != nil:
	case k.Kind == netstate.KindPortAddress:
		o = m.linkLocal(k)
		whole = o != nil
	case k.Kind == netstate.KindNoMasquerade:
		o = m.held(k)
		whole = o != nil
	}
	return o, whole
}

// linkLocal finds the link-local address of a port's own MAC, which is the filter's
// already.
func (m *memory) linkLocal(k netstate.Key) netstate.Object {
	found, whole := m.Object(netstate.PortFilter{Link: k.Link}.Key())
	if !whole {
		return nil
	}
	mac := found.(netstate.PortFilter).MAC
	own := netstate.PortAddress{Link: k.Link, MAC: mac, Addr: mac.LinkLocal()}
	if own.Key() != k {
		return nil
	}
	return own
}

// apply changes memory as the steps say. It returns the changes of the kernel in the order of
// writing, and the connections that then contradict the publishes.
func (m *memory) apply(steps []plan.Step) ([]change, conntrack.Flows, error) {
	changes, contradicted, err := m.Apply(m.withExclusions(append(m.displaced(steps), steps...)))
	for _, c := range changes {
		f := setByName[c.ID.set].family
		if c.Was != nil {
			m.counts[f]--
		}
		if c.Now != nil {
			m.counts[f]++
		}
	}
	return changes, contradicted, err
}

// displaced deletes publishes whose ports the steps lead elsewhere under other keys. The
// steps delete the publishes that the planner knew of; a publish that another program put
// there must go too, since intervals that overlap are an error (EEXIST).
func (m *memory) displaced(steps []plan.Step) (gone []plan.Step) {
	var ranges []netstate.Publish
	for o := range m.Objects() {
		if p, ok := o.(netstate.Publish); ok && p.HostPortEnd != 0 {
			ranges = append(ranges, p)
		}
	}
	for _, s := range steps {
		p, ok := s.New.(netstate.Publish)
		if !ok {
			continue
		}
		for _, r := range ranges {
			if r.Key() != s.Key && overlap(p, r) {
				gone = append(gone, plan.Step{Op: plan.Delete, Key: r.Key()})
			}
		}
		for port := p.HostPort; p.HostPortEnd != 0 && port >= p.HostPort && port <= p.HostPortEnd; port++ {
			one := netstate.Publish{Host: p.Host, Proto: p.Proto, HostPort: port}.Key()
			if o, _ := m.Object(one); o != nil {
				gone = append(gone, plan.Step{Op: plan.Delete, Key: one})
			}
		}
	}
	return gone
}

func overlap(a, b netstate.Publish) bool {
	return a.Host == b.Host && a.Proto == b.Proto && a.HostPort <= b.Last() && b.HostPort <= a.Last()
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
