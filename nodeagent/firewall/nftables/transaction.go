package nftables

import (
	"maps"
	"slices"

	"github.com/patchbay-dev/patchbay/nodeagent/firewall/book"
	"github.com/patchbay-dev/patchbay/nodeagent/firewall/nfnl"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
	"sigs.k8s.io/knftables"
)

// change is what becomes of one element.
type change = book.Change[id]

// unit is statements of a transaction that must not be torn apart.
type unit []statement

// statement is an edit, or a command to nft for whatever is not an element.
type statement interface {
	script(*knftables.Transaction)
}

type command func(*knftables.Transaction)

func (c command) script(tx *knftables.Transaction) { c(tx) }

func add(o knftables.Object) statement {
	return command(func(tx *knftables.Transaction) { tx.Add(o) })
}

func remove(o knftables.Object) statement {
	return command(func(tx *knftables.Transaction) { tx.Delete(o) })
}

func flush(o knftables.Object) statement {
	return command(func(tx *knftables.Transaction) { tx.Flush(o) })
}

// script is what turns the kernel's tables into what memory holds, given the
// changes of elements since.
func (m *memory) script(changes []change) []unit {
	var tables, lines []unit
	for _, f := range families {
		t, mine := m.tables[f], changesOf(f, changes)
		switch {
		case m.counts[f] == 0:
			// A table that could not be read is replaced once something is wanted there.
			if t.exists && !t.unread {
				tables = append(tables, deleteTable(f))
			}
			continue
		case !t.exists:
			tables = append(tables, createTable(f))
		case !t.sets:
			tables = append(tables, slices.Concat(deleteTable(f), createTable(f)))
			mine = m.everything(f, func(*setDef) bool { return true })
		case !t.rules:
			tables = append(tables, rewriteRules(f, t.chains))
			mine = slices.DeleteFunc(mine, func(c change) bool { return setByName[c.ID.set].bound() })
			mine = append(mine, m.everything(f, (*setDef).bound)...)
		}
		lines = append(lines, units(mine)...)
	}
	return append(tables, lines...)
}

func changesOf(f knftables.Family, changes []change) []change {
	return slices.DeleteFunc(slices.Clone(changes), func(c change) bool { return setByName[c.ID.set].family != f })
}

// everything adds all elements of a family's sets of some kind.
func (m *memory) everything(f knftables.Family, of func(*setDef) bool) []change {
	var changes []change
	for _, i := range slices.SortedFunc(maps.Keys(m.Holds), compareIDs) {
		if d := setByName[i.set]; d.family == f && of(d) {
			h := m.Holds[i]
			changes = append(changes, change{ID: i, Now: &h})
		}
	}
	return changes
}

func deleteTable(f knftables.Family) unit {
	return unit{remove(&knftables.Table{Family: f, Name: nfnl.OwnTable})}
}

func createTable(f knftables.Family) unit {
	u := unit{add(&knftables.Table{Family: f, Name: nfnl.OwnTable})}
	for i := range setDefs {
		if d := &setDefs[i]; d.family == f {
			u = append(u, add(d.object()))
		}
	}
	return append(u, createRules(f)...)
}

func createRules(f knftables.Family) unit {
	var u unit
	for i := range chainDefs[f] {
		d := &chainDefs[f][i]
		u = append(u, add(d.object(f)))
		for _, r := range d.ruleObjects(f) {
			u = append(u, add(r))
		}
	}
	return u
}

// rewriteRules makes all chains anew and leaves the sets, except sets that are
// bound to rules: a chain whose hook is wrong cannot be changed, only replaced.
func rewriteRules(f knftables.Family, existing []string) unit {
	u := unit{flush(&knftables.Table{Family: f, Name: nfnl.OwnTable})}
	for _, name := range existing {
		u = append(u, remove(&knftables.Chain{Family: f, Table: nfnl.OwnTable, Name: name}))
	}
	for i := range setDefs {
		if d := &setDefs[i]; d.family == f && d.bound() {
			u = append(u, remove(d.object()), add(d.object()))
		}
	}
	return append(u, createRules(f)...)
}

// units are the changes as lines. The changes of one port stay together, since half of
// its slots would lead nowhere. Ports that are only closed come first, then the
// intervals that nothing needs any more, which what comes may overlap; other ports
// come last but for the removal of targets that nothing leads to then.
func units(changes []change) []unit {
	var apart, out, last []unit
	closed, open, opened := portUnits(changes)
	for _, c := range changes {
		d := setByName[c.ID.set]
		_, isPort := portOf(c.ID)
		switch gone := c.Now == nil && (d.part == targeting || d.part == gating); {
		case isPort:
		case gone && d.interval && !(d.part == gating && opened[publishOf(c.ID, book.Held{}).Key()]):
			apart = append(apart, unitOf(c))
		case gone:
			last = append(last, unitOf(c))
		default:
			out = append(out, unitOf(c))
		}
	}
	return slices.Concat(closed, apart, out, open, last)
}

// portUnits are the units of ports: of ports that are only closed, and of other ports,
// whose keys are opened.
func portUnits(changes []change) (closed, open []unit, opened map[netstate.Key]bool) {
	var keys []netstate.Key
	ports := map[netstate.Key]unit{}
	opened = map[netstate.Key]bool{}
	for _, c := range changes {
		k, ok := portOf(c.ID)
		if !ok {
			continue
		}
		if ports[k] == nil {
			keys = append(keys, k)
		}
		ports[k] = append(ports[k], unitOf(c)...)
		opened[k] = opened[k] || c.Now != nil
	}
	for _, k := range keys {
		if opened[k] {
			open = append(open, ports[k])
		} else {
			closed = append(closed, ports[k])
		}
	}
	return closed, open, opened
}

// portOf is the key of the port that the element leads on.
func portOf(i id) (netstate.Key, bool) {
	if setByName[i.set].part != leading {
		return netstate.Key{}, false
	}
	return publishOf(i, book.Held{}).Key(), true
}

// unitOf is the change as lines.
func unitOf(c change) unit {
	var u unit
	if c.Was != nil {
		u = append(u, edit{id: c.ID, remove: true})
	}
	if c.Now != nil {
		u = append(u, edit{id: c.ID, Held: *c.Now})
	}
	return u
}

func (i id) element(h book.Held) *knftables.Element {
	d := setByName[i.set]
	e := &knftables.Element{Family: d.family, Table: nfnl.OwnTable, Key: script(d.key, i.key)}
	if d.value == nil {
		e.Set = i.set
	} else {
		e.Map = i.set
	}
	if h.Value != "" {
		e.Value = script(d.value, h.Value)
	}
	if text := commentOf(h); text != "" {
		e.Comment = &text
	}
	return e
}
