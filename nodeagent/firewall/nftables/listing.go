package nftables

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/patchbay-dev/patchbay/nodeagent/firewall/book"
	"github.com/patchbay-dev/patchbay/nodeagent/firewall/nfnl"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
	"sigs.k8s.io/knftables"
)

// table is what the kernel holds of one table.
type table struct {
	exists bool
	// unread says that nft could not list the table.
	unread bool
	// sets are as they must be; without that the table is made anew.
	sets bool
	// chains and rules are as they must be.
	rules bool
	// chains by name, however they came about.
	chains []string
	// elements by name; comments that are not Patchbay's have no source.
	elements map[id]book.Held
}

// The part of `nft -j list table` that matters here.
type (
	listing struct {
		Objects []listed `json:"nftables"`
	}
	listed struct {
		Table *struct{}    `json:"table"`
		Set   *listedSet   `json:"set"`
		Map   *listedSet   `json:"map"`
		Chain *listedChain `json:"chain"`
		Rule  *listedRule  `json:"rule"`
		// Meta is there so that anything else is Other.
		Meta *struct{} `json:"metainfo"`
	}
	listedSet struct {
		Table string            `json:"table"`
		Name  string            `json:"name"`
		Type  any               `json:"type"`
		Value any               `json:"map"`
		Flags any               `json:"flags"`
		Elem  []json.RawMessage `json:"elem"`
	}
	listedChain struct {
		Name     string `json:"name"`
		Type     string `json:"type"`
		Hook     string `json:"hook"`
		Priority int    `json:"prio"`
		Policy   string `json:"policy"`
	}
	listedRule struct {
		Chain   string `json:"chain"`
		Comment string `json:"comment"`
	}
)

// parseTable reads the JSON listing of one table, or the listings of its family's sets and
// maps.
func parseTable(f knftables.Family, texts ...[]byte) (table, error) {
	var l listing
	for _, text := range texts {
		var part listing
		if err := json.Unmarshal(text, &part); err != nil {
			return table{}, fmt.Errorf("read listing of table %s %s: %w", f, nfnl.OwnTable, err)
		}
		l.Objects = append(l.Objects, part.Objects...)
	}
	t := table{exists: true, sets: true, elements: map[id]book.Held{}}
	chains := map[string]listedChain{}
	marks := map[string][]string{}
	seen := 0
	for _, o := range l.Objects {
		switch {
		case o.Set != nil && o.Set.Table != nfnl.OwnTable, o.Map != nil && o.Map.Table != nfnl.OwnTable:
		case o.Chain != nil:
			chains[o.Chain.Name] = *o.Chain
			t.chains = append(t.chains, o.Chain.Name)
		case o.Rule != nil:
			marks[o.Rule.Chain] = append(marks[o.Rule.Chain], o.Rule.Comment)
		case o.Set != nil:
			seen++
			t.sets = t.addSet(f, *o.Set, false) && t.sets
		case o.Map != nil:
			seen++
			t.sets = t.addSet(f, *o.Map, true) && t.sets
		case o.Table == nil && o.Meta == nil:
			t.sets = false
		}
	}
	for _, d := range setDefs {
		if d.family == f {
			seen--
		}
	}
	t.sets = t.sets && seen == 0
	t.rules = rulesMatch(f, chains, marks)
	return t, nil
}

// addSet takes a set's elements and reports whether it is one of our sets, as it
// must be, with nothing in it that we could not name.
func (t *table) addSet(f knftables.Family, s listedSet, isMap bool) bool {
	d, todays := definition(s.Name, isMap)
	if d == nil || d.family != f || isMap != (d.value != nil) {
		return false
	}
	ok := d.matches(s) && todays
	for _, raw := range s.Elem {
		i, h, err := parseElement(d, raw)
		if err != nil {
			ok = false
			continue
		}
		t.elements[i] = h
	}
	return ok
}

// matches compares a definition with its listing. From nft 1.1.2 on, a typeof
// set lists its expression instead of its types, which the name then stands for.
func (d *setDef) matches(s listedSet) bool {
	typ, ok := typeText(s.Type)
	if d.typeOf == "" && (!ok || typ != join(d.key)) {
		return false
	}
	if value, ok := typeText(s.Value); d.value != nil && (!ok && d.typeOf == "" || ok && value != join(d.value)) {
		return false
	}
	flags, _ := typeText(s.Flags)
	if d.interval {
		return flags == "interval"
	}
	return flags == ""
}

// typeText is a type or a list of them as text.
func typeText(v any) (string, bool) {
	switch v := v.(type) {
	case nil:
		return "", true
	case string:
		return v, true
	case []any:
		s := make([]string, len(v))
		for i := range v {
			s[i], _ = v[i].(string)
		}
		return strings.Join(s, " . "), true
	}
	return "", false
}

// rulesMatch compares the chains of a table, and their rules by their marks.
func rulesMatch(f knftables.Family, chains map[string]listedChain, marks map[string][]string) bool {
	for _, d := range chainDefs[f] {
		want := listedChain{Name: d.name}
		if d.base != nil {
			want = listedChain{d.name, string(d.base.typ), string(d.base.hook), d.base.priority, string(knftables.AcceptPolicy)}
		}
		if got, ok := chains[d.name]; !ok || got != want {
			return false
		}
		if !slices.EqualFunc(d.ruleObjects(f), marks[d.name], func(r *knftables.Rule, mark string) bool { return *r.Comment == mark }) {
			return false
		}
	}
	return len(chains) == len(chainDefs[f])
}

// parseElement reads an element: {"elem": {"val": key, "comment": text}} or a
// bare key; in a map a pair of that and the value.
func parseElement(d *setDef, raw json.RawMessage) (id, book.Held, error) {
	key, h := raw, book.Held{}
	if d.value != nil {
		var pair []json.RawMessage
		if err := json.Unmarshal(raw, &pair); err != nil || len(pair) != 2 {
			return id{}, h, fmt.Errorf("read element of map %s: %s is not a pair", d.name, raw)
		}
		value, err := parseFields(d.value, pair[1], false)
		if err != nil {
			return id{}, h, fmt.Errorf("read value of map %s: %w", d.name, err)
		}
		key, h.Value = pair[0], value
	}
	var wrapped struct {
		Elem *struct {
			Val     json.RawMessage `json:"val"`
			Comment string          `json:"comment"`
		} `json:"elem"`
	}
	if json.Unmarshal(key, &wrapped) == nil && wrapped.Elem != nil {
		key = wrapped.Elem.Val
		h.Source, h.Note = parseComment(wrapped.Elem.Comment)
	}
	text, err := parseFields(d.key, key, d.interval)
	if err != nil {
		return id{}, h, fmt.Errorf("read key of set %s: %w", d.name, err)
	}
	return id{d.name, text}, h, nil
}

// commentOf is what an element bears: the source, and the note where there is one.
func commentOf(h book.Held) string {
	if h.Note == "" {
		return string(h.Source)
	}
	return string(h.Source) + " " + h.Note
}

func parseComment(text string) (netstate.Source, string) {
	s, note, _ := strings.Cut(text, " ")
	source := netstate.Source(s)
	if source != netstate.SourceCluster && source != netstate.SourceLocal || note != "" && book.CheckLink(note) != nil {
		return "", ""
	}
	return source, note
}
