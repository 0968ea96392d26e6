package iptables

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/patchbay-dev/patchbay/nodeagent/firewall/book"
	"github.com/patchbay-dev/patchbay/nodeagent/firewall/conntrack"
	"github.com/patchbay-dev/patchbay/nodeagent/firewall/iptsave"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
	"github.com/patchbay-dev/patchbay/nodeagent/plan"
)

// entry names what an object has in the kernel: a rule of a shared chain by the chain and
// the rule's canonical text, or a chain of the object's own by its name alone. The note of
// an entry is the text of the object's key.
type entry struct {
	iptsave.ChainID
	canon string
}

func (e entry) own() bool { return e.canon == "" }

func entryOf(r iptsave.Rule) entry {
	if ownChain(r.Chain) {
		return entry{r.ChainID, ""}
	}
	return entry{r.ChainID, iptsave.Canon(r.Spec)}
}

// written are the rules of an entry: of a shared chain the same rule as often as it is
// there, of an own chain all in order. Entries are numbered as they came.
type written struct {
	specs []string
	at    int
}

// texts are the rules of all entries.
type texts map[entry]*written

func (t texts) add(r iptsave.Rule) {
	e := entryOf(r)
	if t[e] == nil {
		t[e] = &written{at: len(t)}
	}
	t[e].specs = append(t[e].specs, r.Spec)
}

// rules are the rules of an entry.
func (t texts) rules(e entry) []iptsave.Rule {
	if t[e] == nil {
		return nil
	}
	var out []iptsave.Rule
	for _, spec := range t[e].specs {
		out = append(out, e.With(spec))
	}
	return out
}

// value is how often a shared rule is there, or the rules of an own chain.
func (t texts) value(e entry) string {
	if !e.own() {
		return strconv.Itoa(len(t[e].specs))
	}
	var out []string
	for _, spec := range t[e].specs {
		out = append(out, iptsave.Canon(spec))
	}
	return strings.Join(out, "\x00")
}

// rules is the dialect of rules in chains.
type rules struct {
	source netstate.Source
	texts  texts
}

// Encode returns the rules and chains of an object.
func (r rules) Encode(o netstate.Object) []book.Entry[entry] {
	t, name := texts{}, o.Key().String()
	for _, rule := range rulesOf(r.source, o) {
		t.add(rule)
	}
	var out []book.Entry[entry]
	for e := range t {
		out = append(out, book.Entry[entry]{ID: e, Value: t.value(e), Note: name})
	}
	return out
}

// KeyOf returns the key that is the note.
func (rules) KeyOf(_ entry, h book.Held) (netstate.Key, bool) {
	o := objectNamed(h.Note, nil)
	if o == nil {
		return netstate.Key{}, false
	}
	return o.Key(), o.Key().String() == h.Note
}

// Decode returns the object that the rules of entries remain of.
func (r rules) Decode(k netstate.Key, group []entry, _ map[entry]book.Held) netstate.Object {
	var lines []iptsave.Rule
	for _, e := range group {
		lines = append(lines, r.texts.rules(e)...)
	}
	return objectFrom(k.String(), lines)
}

// Compare orders by table, chain and text.
func (rules) Compare(a, b entry) int {
	return cmp.Or(iptsave.CompareChains(a.ChainID, b.ChainID), cmp.Compare(a.canon, b.canon))
}

// Covered reports false: each rule has its effect alone.
func (rules) Covered(entry, map[entry]book.Entry[entry]) bool { return false }

// memory is what iptables holds in our name.
type memory struct {
	*book.Book[entry]
	tables map[iptsave.TableID]*tableState
	texts  texts
}

// tableState is a table of one family.
type tableState struct {
	// our chains and jumps to them that exist.
	chains map[string]bool
	jumps  []iptsave.Rule
	// framed says that all our chains are in their frames, and that every
	// other rule in them is an object's; sound, that the hooks are right too.
	framed, sound bool
}

// newMemory has what iptables-save told of each family.
func newMemory(source netstate.Source, all ...iptsave.Saved) memory {
	m := memory{tables: map[iptsave.TableID]*tableState{}, texts: texts{}}
	for _, table := range ipTables {
		for _, six := range []bool{false, true} {
			m.tables[iptsave.InTable(six, table)] = &tableState{chains: map[string]bool{}, framed: true, sound: true}
		}
	}
	holds := map[entry]book.Held{}
	for _, s := range all {
		for a, t := range s.Tables {
			if st := m.tables[a]; st != nil {
				st.jumps = t.Jumps
				m.take(a, t, st, holds)
			}
		}
	}
	m.Book = book.New(rules{source, m.texts}, source, holds)
	for _, s := range all {
		for a, t := range s.Tables {
			m.judge(a, t)
		}
	}
	return m
}

// take reads the chains of a table.
func (m *memory) take(a iptsave.TableID, t *iptsave.SavedTable, st *tableState, holds map[entry]book.Held) {
	leads := map[string]book.Held{}
	for _, chain := range slices.Sorted(maps.Keys(t.Chains)) {
		st.chains[chain] = true
		for _, spec := range t.Chains[chain] {
			source, name, ok := iptsave.OwnerOf(spec)
			if !ok {
				continue
			}
			r := a.At(chain).With(spec)
			m.texts.add(r)
			holds[entryOf(r)] = book.Held{Source: source, Note: name}
			leads[iptsave.Target(spec)] = book.Held{Source: source, Note: name}
		}
	}
	for chain := range t.Chains {
		if e := (entry{a.At(chain), ""}); ownChain(chain) && m.texts[e] == nil {
			// Emptied, it is still the object's whose rules lead there.
			m.texts[e], holds[e] = &written{at: len(m.texts)}, leads[chain]
		}
	}
	for e, h := range holds {
		if e.TableID == a {
			h.Value = m.texts.value(e)
			holds[e] = h
		}
	}
}

// judge compares the chains of a table with what they must be.
func (m *memory) judge(a iptsave.TableID, t *iptsave.SavedTable) {
	st, used := m.tables[a], m.used()[a] > 0
	if st == nil {
		return
	}
	st.framed = m.framedArea(a, t, used) && (!used || len(st.chains) > 0)
	st.sound = st.framed && (!used && len(t.Jumps) == 0 || used && soundJumps(a, t))
}

// used counts the rules of objects in each table.
func (m *memory) used() map[iptsave.TableID]int {
	n := map[iptsave.TableID]int{}
	for e := range m.Holds {
		if !m.Loose[e] {
			n[e.TableID] += len(m.texts[e].specs)
		}
	}
	return n
}

// framedArea reports whether a table has the chains that it must have, and no
// further ones.
func (m *memory) framedArea(a iptsave.TableID, t *iptsave.SavedTable, used bool) bool {
	if !used {
		return len(t.Chains) == 0
	}
	known := map[string]bool{}
	for _, f := range framesOf(a) {
		known[f.chain] = true
		if specs, ok := t.Chains[f.chain]; !ok || !m.soundChain(a.At(f.chain), f, specs) {
			return false
		}
	}
	for chain, specs := range t.Chains {
		at := a.At(chain)
		if !known[chain] && (!m.objects(entry{at, ""}) || !m.soundChain(at, frame{}, specs)) {
			return false
		}
	}
	return true
}

// objects reports whether an entry is an object's.
func (m *memory) objects(e entry) bool {
	_, held := m.Holds[e]
	return held && !m.Loose[e]
}

// soundChain reports whether a chain has its frame, and else only rules of
// objects.
func (m *memory) soundChain(at iptsave.ChainID, f frame, specs []string) bool {
	n := len(specs) - len(f.tail)
	if n < len(f.head) || !iptsave.SameSpecs(specs[:len(f.head)], f.head) || !iptsave.SameSpecs(specs[n:], f.tail) {
		return false
	}
	return !slices.ContainsFunc(specs[len(f.head):n], func(spec string) bool {
		_, _, ok := iptsave.OwnerOf(spec)
		return !ok || !m.objects(entryOf(at.With(spec)))
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

func (m *memory) intact() bool {
	for _, st := range m.tables {
		if !st.sound {
			return false
		}
	}
	return true
}

// ipChanges are what becomes of rules.
type ipChanges struct {
	add, remove []iptsave.Rule
	// define are chains of an object's own with all their rules; drop are those
	// that go.
	define []iptsave.Rule
	drop   []iptsave.ChainID
}

// apply changes memory as the steps say. It returns the changes of the kernel, and
// the connections that then contradict the publishes.
func (m *memory) apply(steps []plan.Step) (c ipChanges, contradicted conntrack.Flows, err error) {
	fresh, others := texts{}, m.othersPublishes()
	for _, s := range steps {
		if s.Op == plan.Delete {
			continue
		}
		if other := others[s.Key.String()]; other != "" && s.Key.Kind == netstate.KindPublish {
			return c, nil, fmt.Errorf("add %s: source %s holds it", s.Key, other)
		}
		for _, r := range rulesOf(m.Source, s.New) {
			fresh.add(r)
		}
	}
	changes, contradicted, err := m.Apply(steps)
	slices.SortStableFunc(changes, func(a, b book.Change[entry]) int { return cmp.Compare(fresh.at(a.ID), fresh.at(b.ID)) })
	for _, change := range changes {
		c.take(change, m.texts.rules(change.ID), fresh.rules(change.ID))
		delete(m.texts, change.ID)
		if change.Now != nil {
			m.texts[change.ID] = &written{fresh[change.ID].specs, len(m.texts) + fresh.at(change.ID)}
		}
	}
	return c, contradicted, err
}

// at is the number of an entry; of one that is not there, the first.
func (t texts) at(e entry) int {
	if t[e] == nil {
		return -1
	}
	return t[e].at
}

// take adds what one entry becomes, from the rules it has to those it wants.
func (c *ipChanges) take(change book.Change[entry], have, want []iptsave.Rule) {
	switch e := change.ID; {
	case e.own() && change.Now != nil:
		c.define = append(c.define, want...)
	case e.own():
		c.drop = append(c.drop, e.ChainID)
	case change.Was == nil:
		c.add = append(c.add, want...)
	case change.Now == nil:
		c.remove = append(c.remove, have...)
	default:
		c.remove = append(c.remove, have[1:]...)
	}
}

// othersPublishes are the ports published by other sources, by the text of their keys.
func (m *memory) othersPublishes() map[string]netstate.Source {
	others := map[string]netstate.Source{}
	for _, h := range m.Holds {
		if h.Source != m.Source && h.Source != "" && strings.HasPrefix(h.Note, netstate.KindPublish.String()+" ") {
			others[h.Note] = h.Source
		}
	}
	return others
}

// linesIn are the rules of all objects in a table, in an order that does not
// depend on how they came.
func (m *memory) linesIn(a iptsave.TableID) []iptsave.Rule {
	var out []iptsave.Rule
	for _, e := range slices.SortedFunc(maps.Keys(m.Holds), func(a, b entry) int {
		h, o := m.Holds[a], m.Holds[b]
		return cmp.Or(cmp.Compare(h.Source, o.Source), cmp.Compare(h.Note, o.Note), cmp.Compare(m.texts.at(a), m.texts.at(b)))
	}) {
		if e.TableID == a {
			out = append(out, m.texts.rules(e)...)
		}
	}
	return out
}

// committed notes that the kernel now holds what memory does.
func (m *memory) committed() {
	used := m.used()
	for a, st := range m.tables {
		*st = tableState{chains: map[string]bool{}, framed: true, sound: true}
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
	for e := range m.Holds {
		if e.own() {
			m.tables[e.TableID].chains[e.Chain] = true
		}
	}
}

// linesAt are the rules in a chain.
func linesAt(s iptsave.ChainID, lines []iptsave.Rule) []iptsave.Rule {
	return slices.DeleteFunc(slices.Clone(lines), func(l iptsave.Rule) bool { return l.ChainID != s })
}
