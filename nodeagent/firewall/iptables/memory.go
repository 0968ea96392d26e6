package iptables

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	"github.com/patchbay-dev/patchbay/nodeagent/firewall/conntrack"
	"github.com/patchbay-dev/patchbay/nodeagent/firewall/iptsave"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
	"github.com/patchbay-dev/patchbay/nodeagent/plan"
)

// ipMemory is what iptables holds of ours.
type ipMemory struct {
	source netstate.Source
	areas  map[iptsave.TableID]*areaState
	// entries are the objects of all sources.
	entries map[ipKey]*ipEntry
}

type ipKey struct {
	source netstate.Source
	name   string
}

// areaState is a table of one family.
type areaState struct {
	// chains of ours and jumps to them that exist.
	chains map[string]bool
	jumps  []iptsave.Rule
	// framed says that all chains of ours are in their frames, and that every
	// other rule in them is an object's; sound, that the hooks are right too.
	framed, sound bool
}

func newIPMemory(source netstate.Source) ipMemory {
	m := ipMemory{source: source, areas: map[iptsave.TableID]*areaState{}, entries: map[ipKey]*ipEntry{}}
	for _, table := range ipTables {
		for _, six := range []bool{false, true} {
			m.areas[iptsave.InTable(six, table)] = &areaState{chains: map[string]bool{}, framed: true, sound: true}
		}
	}
	return m
}

func (m *ipMemory) key(k netstate.Key) ipKey { return ipKey{m.source, k.String()} }

// take makes objects of what iptables-save told of a family.
func (m *ipMemory) take(s iptsave.Saved) {
	named := map[ipKey][]iptsave.Rule{}
	for a, t := range s.Tables {
		st := m.areas[a]
		if st == nil {
			continue
		}
		st.jumps = t.Jumps
		for chain, specs := range t.Chains {
			st.chains[chain] = true
			for _, spec := range specs {
				if source, name, ok := iptsave.OwnerOf(spec); ok {
					k := ipKey{source, name}
					named[k] = append(named[k], a.At(chain).With(spec))
				}
			}
		}
	}
	for k, lines := range named {
		e := m.entries[k]
		if e == nil {
			e = &ipEntry{}
		}
		e.lines = append(e.lines, lines...)
		m.entries[k] = e
	}
}

// understand judges the objects and then the areas, once all families were
// taken.
func (m *ipMemory) understand(all []iptsave.Saved) {
	chains := map[iptsave.ChainID]bool{}
	for k, e := range m.entries {
		if e.object = objectFrom(k.name, e.lines); e.object == nil {
			delete(m.entries, k)
			continue
		}
		want := rulesOf(k.source, e.object)
		e.exact = judgeLines(want, e.lines)
		for _, c := range ownChains(want) {
			chains[c] = true
		}
	}
	used := m.used()
	for _, s := range all {
		for a, t := range s.Tables {
			if st := m.areas[a]; st != nil {
				st.framed = m.framedArea(a, t, chains, used[a] > 0)
				st.sound = st.framed && (used[a] == 0 && len(t.Jumps) == 0 || used[a] > 0 && soundJumps(a, t))
			}
		}
	}
	for a, st := range m.areas {
		st.framed = st.framed && (used[a] == 0 || len(st.chains) > 0)
		st.sound = st.sound && st.framed
	}
}

// used counts the rules of objects in each area.
func (m *ipMemory) used() map[iptsave.TableID]int {
	n := map[iptsave.TableID]int{}
	for _, e := range m.entries {
		for _, l := range e.lines {
			n[l.TableID]++
		}
	}
	return n
}

// framedArea reports whether an area has the chains that it must have, and no
// others.
func (m *ipMemory) framedArea(a iptsave.TableID, t *iptsave.SavedTable, own map[iptsave.ChainID]bool, used bool) bool {
	if !used {
		return len(t.Chains) == 0
	}
	known := map[string]bool{}
	for _, f := range framesOf(a) {
		known[f.chain] = true
		if specs, ok := t.Chains[f.chain]; !ok || !m.soundChain(f, specs) {
			return false
		}
	}
	for chain, specs := range t.Chains {
		if !known[chain] && (!own[a.At(chain)] || !m.soundChain(frame{}, specs)) {
			return false
		}
	}
	return true
}

// soundChain reports whether a chain has its frame, and else only rules of
// objects.
func (m *ipMemory) soundChain(f frame, specs []string) bool {
	n := len(specs) - len(f.tail)
	if n < len(f.head) || !iptsave.SameSpecs(specs[:len(f.head)], f.head) || !iptsave.SameSpecs(specs[n:], f.tail) {
		return false
	}
	return !slices.ContainsFunc(specs[len(f.head):n], func(spec string) bool {
		source, name, ok := iptsave.OwnerOf(spec)
		return !ok || m.entries[ipKey{source, name}] == nil
	})
}

func soundJumps(a iptsave.TableID, t *iptsave.SavedTable) bool {
	want := hooks[a.Table]
	if len(t.Jumps) != len(want) {
		return false
	}
	for _, h := range want {
		if !slices.ContainsFunc(t.Jumps, func(j iptsave.Rule) bool {
			return j.Chain == h.chain && iptsave.Canon(j.Spec) == iptsave.Canon(h.spec) && (!h.first || t.First[j])
		}) {
			return false
		}
	}
	return true
}

func (m *ipMemory) intact() bool {
	for _, st := range m.areas {
		if !st.sound {
			return false
		}
	}
	return true
}

func (m *ipMemory) observe(k netstate.Key) netstate.Object {
	if e := m.entries[m.key(k)]; e != nil && e.exact {
		return e.object
	}
	return nil
}

func (m *ipMemory) standing() conntrack.Standing {
	return conntrack.Among(func(k netstate.Key) netstate.Object {
		if e := m.entries[m.key(k)]; e != nil {
			return e.object
		}
		return nil
	}, maps.Values(m.held()))
}

func (m *ipMemory) held() netstate.Set {
	set := netstate.Set{}
	for k, e := range m.entries {
		if k.source == m.source {
			set.Add(e.object)
		}
	}
	return set
}

// ipChanges are what becomes of rules.
type ipChanges struct {
	add, remove []iptsave.Rule
	// define are chains of an object's own with all their rules; drop are those
	// that go.
	define []iptsave.Rule
	drop   []iptsave.ChainID
}

// apply changes memory as the steps say. It returns what that changes in the
// kernel, and the flows that then contradict it.
func (m *ipMemory) apply(steps []plan.Step) (ipChanges, conntrack.Flows, error) {
	var c ipChanges
	var contradicted conntrack.Flows
	for _, s := range steps {
		k, old := m.key(s.Key), s.Old
		var have, want []iptsave.Rule
		if e := m.entries[k]; e != nil {
			old, have = e.object, e.lines
			delete(m.entries, k)
		}
		if s.Op == plan.Delete {
			contradicted = contradicted.Add(old, nil)
		} else {
			if other := m.otherHolds(s.Key); other != "" {
				return c, nil, fmt.Errorf("add %s: source %s holds it", s.Key, other)
			}
			want = rulesOf(m.source, s.New)
			m.entries[k] = &ipEntry{object: s.New, exact: true, lines: want}
			contradicted = contradicted.Add(old, s.New)
		}
		c.between(have, want, m.wantedChains(old))
	}
	return c, contradicted, nil
}

// otherHolds is another source that has a publish of the same port.
func (m *ipMemory) otherHolds(k netstate.Key) netstate.Source {
	for _, s := range []netstate.Source{netstate.SourceCluster, netstate.SourceLocal} {
		if s != m.source && k.Kind == netstate.KindPublish && m.entries[ipKey{s, k.String()}] != nil {
			return s
		}
	}
	return ""
}

// wantedChains are the chains of an object's own that exist, with or without
// rules.
func (m *ipMemory) wantedChains(o netstate.Object) []iptsave.ChainID {
	if o == nil {
		return nil
	}
	return slices.DeleteFunc(ownChains(rulesOf(m.source, o)), func(s iptsave.ChainID) bool { return !m.areas[s.TableID].chains[s.Chain] })
}

// between adds what turns the rules that an object has into those it wants.
func (c *ipChanges) between(have, want []iptsave.Rule, chains []iptsave.ChainID) {
	count := map[iptsave.Rule]int{}
	for _, l := range have {
		count[canonical(l)]++
	}
	for _, l := range want {
		if ownChain(l.Chain) {
			continue
		}
		if k := canonical(l); count[k] > 0 {
			count[k]--
		} else {
			c.add = append(c.add, l)
		}
	}
	for _, l := range have {
		if k := canonical(l); !ownChain(l.Chain) && count[k] > 0 {
			count[k]--
			c.remove = append(c.remove, l)
		}
	}
	for _, s := range append(ownChains(have), chains...) {
		if !slices.Contains(ownChains(want), s) && !slices.Contains(c.drop, s) {
			c.drop = append(c.drop, s)
		}
	}
	for _, s := range ownChains(want) {
		if !judgeLines(linesAt(s, want), linesAt(s, have)) {
			c.define = append(c.define, linesAt(s, want)...)
		}
	}
}

func linesAt(s iptsave.ChainID, lines []iptsave.Rule) []iptsave.Rule {
	return slices.DeleteFunc(slices.Clone(lines), func(l iptsave.Rule) bool { return l.ChainID != s })
}

func canonical(l iptsave.Rule) iptsave.Rule {
	l.Spec = iptsave.Canon(l.Spec)
	return l
}

// linesIn are the rules of all objects in an area, in an order that does not
// depend on how they came.
func (m *ipMemory) linesIn(a iptsave.TableID) []iptsave.Rule {
	var out []iptsave.Rule
	for _, k := range slices.SortedFunc(maps.Keys(m.entries), func(a, b ipKey) int {
		return cmp.Or(cmp.Compare(a.source, b.source), cmp.Compare(a.name, b.name))
	}) {
		for _, l := range m.entries[k].lines {
			if l.TableID == a {
				out = append(out, l)
			}
		}
	}
	return out
}

// committed notes that the kernel now holds what memory does.
func (m *ipMemory) committed() {
	used := m.used()
	for a, st := range m.areas {
		*st = areaState{chains: map[string]bool{}, framed: true, sound: true}
		if used[a] == 0 {
			continue
		}
		for _, f := range framesOf(a) {
			st.chains[f.chain] = true
		}
		for _, h := range hooks[a.Table] {
			st.jumps = append(st.jumps, a.At(h.chain).With(h.spec))
		}
	}
	for _, e := range m.entries {
		for _, s := range ownChains(e.lines) {
			m.areas[s.TableID].chains[s.Chain] = true
		}
	}
}
