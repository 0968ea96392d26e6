// Package iptsave reads what iptables-save prints, as tables, chains and rules with their
// options, and writes what iptables-restore reads.
package iptsave

import (
	"bufio"
	"bytes"
	"cmp"
	"slices"
	"strings"

	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
)

// Saved is what iptables-save prints of our chains, for one family.
type Saved struct {
	Tables map[TableID]*SavedTable
	// Policies are the policies of each table's FORWARD.
	Policies map[TableID]string
	// Elsewhere are the other built-in chains with their policies.
	Elsewhere map[ChainID]string
}

// SavedTable is one table.
type SavedTable struct {
	// Chains are our chains with their rules in order.
	Chains map[string][]string
	// Jumps are the rules of other chains that lead to our chains; First has the
	// jumps before which there are only our jumps.
	Jumps []Rule
	First map[Rule]bool
	// Others has rules of other chains in order, but for the table nat.
	Others map[string][]string
}

// Parse reads the output of iptables-save.
func Parse(six bool, text []byte) Saved {
	s := Saved{Tables: map[TableID]*SavedTable{}, Policies: map[TableID]string{}, Elsewhere: map[ChainID]string{}}
	var at TableID
	foreign := map[string]bool{}
	lines := bufio.NewScanner(bytes.NewReader(text))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		l := lines.Text()
		switch {
		case strings.HasPrefix(l, "*"):
			at, foreign = InTable(six, l[1:]), map[string]bool{}
			s.Tables[at] = &SavedTable{Chains: map[string][]string{}, First: map[Rule]bool{}, Others: map[string][]string{}}
		case at.Table == "":
		case strings.HasPrefix(l, ":"):
			s.chain(at, l[1:])
		case strings.HasPrefix(l, "-A "):
			chain, spec, _ := strings.Cut(l[3:], " ")
			s.Tables[at].rule(at.At(chain), spec, foreign)
			if at.Table != "nat" && !strings.HasPrefix(chain, Prefix) {
				s.Tables[at].Others[chain] = append(s.Tables[at].Others[chain], spec)
			}
		}
	}
	return s
}

// Chain takes a chain with its policy.
func (s *Saved) chain(at TableID, text string) {
	name, rest, _ := strings.Cut(text, " ")
	if strings.HasPrefix(name, Prefix) {
		s.Tables[at].Chains[name] = []string{}
	}
	policy, _, _ := strings.Cut(rest, " ")
	switch {
	case name == Forward:
		s.Policies[at] = policy
	case policy != "-" && at.Table != "nat":
		s.Elsewhere[at.At(name)] = policy
	}
}

func (a *SavedTable) rule(at ChainID, spec string, foreign map[string]bool) {
	l := at.With(spec)
	switch {
	case strings.HasPrefix(at.Chain, Prefix):
		a.Chains[at.Chain] = append(a.Chains[at.Chain], spec)
	case strings.HasPrefix(Target(spec), Prefix):
		a.Jumps = append(a.Jumps, l)
		a.First[l] = !foreign[at.Chain]
	default:
		foreign[at.Chain] = true
	}
}

// Words are the parts of a rule, without quotes.
func Words(spec string) []string {
	var out []string
	for spec = strings.TrimLeft(spec, " "); spec != ""; spec = strings.TrimLeft(spec, " ") {
		var w string
		if rest, ok := strings.CutPrefix(spec, `"`); ok {
			w, spec, _ = strings.Cut(rest, `"`)
		} else {
			w, spec, _ = strings.Cut(spec, " ")
		}
		out = append(out, w)
	}
	return out
}

// clauses are the options of a rule with their values, as in "! --ctstate DNAT".
// What only names a match is left out: its options tell.
func clauses(spec string) []string {
	var out []string
	negated := false
	for _, w := range Words(spec) {
		switch {
		case w == "!":
			negated = true
		case strings.HasPrefix(w, "-") && negated:
			out, negated = append(out, "! "+w), false
		case strings.HasPrefix(w, "-") || len(out) == 0:
			out = append(out, w)
		default:
			out[len(out)-1] += " " + w
		}
	}
	return slices.DeleteFunc(out, func(c string) bool { return strings.HasPrefix(c, "-m ") })
}

// Canon is the same for rules that mean the same, in whatever order and with
// whatever quotes a version of iptables shows them.
func Canon(spec string) string {
	c := clauses(spec)
	slices.Sort(c)
	return strings.Join(c, "\n")
}

// Option is the value of an option, empty where the rule has none.
func Option(spec, name string) string {
	for _, c := range clauses(spec) {
		if value, ok := strings.CutPrefix(c, name+" "); ok {
			return value
		}
	}
	return ""
}

// Target is where a rule leads.
func Target(spec string) string {
	if t := Option(spec, "-j"); t != "" {
		name, _, _ := strings.Cut(t, " ")
		return name
	}
	return Option(spec, "-g")
}

// OwnerOf returns the source and the object that the comment of a rule names. It returns
// false where the comment is not Patchbay's.
func OwnerOf(spec string) (netstate.Source, string, bool) {
	parts := strings.SplitN(Option(spec, "--comment"), ":", 3)
	if len(parts) != 3 || parts[0] != Mark {
		return "", "", false
	}
	s := netstate.Source(parts[1])
	return s, parts[2], s == netstate.SourceCluster || s == netstate.SourceLocal
}

// TableID is a table of one family's iptables.
type TableID struct {
	Six   bool
	Table string
}

func (a TableID) String() string {
	if a.Six {
		return "ip6 " + a.Table
	}
	return "ip " + a.Table
}

// InTable names a table of one family.
func InTable(six bool, table string) TableID { return TableID{Six: six, Table: table} }

// At names a chain of the table.
func (a TableID) At(chain string) ChainID { return ChainID{TableID: a, Chain: chain} }

// With is a rule of the chain.
func (s ChainID) With(spec string) Rule { return Rule{ChainID: s, Spec: spec} }

// ChainID is a chain.
type ChainID struct {
	TableID
	Chain string
}

// Rule is a rule: what iptables-save shows after "-A" and the chain.
type Rule struct {
	ChainID
	Spec string
}

// Prefix begins the name of each of our chains.
const Prefix = "PATCHBAY-"

// Mark is the comment of the rules in every frame.
const Mark = "patchbay"

// Marked is Mark as a match of a rule.
const Marked = "-m comment --comment " + Mark + " "

// Comment names a source and an object in a rule.
func Comment(s netstate.Source, k netstate.Key) string {
	return Mark + ":" + string(s) + ":" + k.String()
}

// CompareChains orders chains by table and name.
func CompareChains(a, b ChainID) int {
	return cmp.Or(CompareTables(a.TableID, b.TableID), cmp.Compare(a.Chain, b.Chain))
}

// CompareRules orders rules by chain and text.
func CompareRules(a, b Rule) int {
	return cmp.Or(CompareChains(a.ChainID, b.ChainID), cmp.Compare(a.Spec, b.Spec))
}

// CompareTables orders tables by family and name.
func CompareTables(a, b TableID) int { return cmp.Compare(a.String(), b.String()) }

// SameSpecs reports whether rules mean the same one by one.
func SameSpecs(a, b []string) bool {
	return slices.EqualFunc(a, b, func(a, b string) bool { return Canon(a) == Canon(b) })
}

// Forward is the chain of iptables for forwarded packets.
const Forward = "FORWARD"
