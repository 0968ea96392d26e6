package nat

import (
	"bufio"
	"bytes"
	"slices"
	"strings"

	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
)

// saved is what iptables-save tells of ours, for one family.
type saved struct {
	areas map[area]*savedArea
	// policies are those of each table's FORWARD.
	policies map[area]string
	// elsewhere are the other built-in chains with their policies.
	elsewhere map[spot]string
}

type savedArea struct {
	// chains are ours with their rules in order.
	chains map[string][]string
	// jumps are the rules of others' chains that lead to ours; first are those
	// before which there are only jumps of ours.
	jumps []ipRule
	first map[ipRule]bool
	// others are the rules of other chains in order, but for the table nat.
	others map[string][]string
}

// parseSave reads the output of iptables-save.
func parseSave(six bool, text []byte) saved {
	s := saved{areas: map[area]*savedArea{}, policies: map[area]string{}, elsewhere: map[spot]string{}}
	var at area
	foreign := map[string]bool{}
	lines := bufio.NewScanner(bytes.NewReader(text))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		l := lines.Text()
		switch {
		case strings.HasPrefix(l, "*"):
			at, foreign = area{six, l[1:]}, map[string]bool{}
			s.areas[at] = &savedArea{chains: map[string][]string{}, first: map[ipRule]bool{}, others: map[string][]string{}}
		case at.table == "":
		case strings.HasPrefix(l, ":"):
			s.chain(at, l[1:])
		case strings.HasPrefix(l, "-A "):
			chain, spec, _ := strings.Cut(l[3:], " ")
			s.areas[at].rule(spot{at, chain}, spec, foreign)
			if at.table != "nat" && !strings.HasPrefix(chain, chainPrefix) {
				s.areas[at].others[chain] = append(s.areas[at].others[chain], spec)
			}
		}
	}
	return s
}

// chain takes a chain with its policy.
func (s *saved) chain(at area, text string) {
	name, rest, _ := strings.Cut(text, " ")
	if strings.HasPrefix(name, chainPrefix) {
		s.areas[at].chains[name] = []string{}
	}
	policy, _, _ := strings.Cut(rest, " ")
	switch {
	case name == chainIptables:
		s.policies[at] = policy
	case policy != "-" && at.table != "nat":
		s.elsewhere[spot{at, name}] = policy
	}
}

func (a *savedArea) rule(at spot, spec string, foreign map[string]bool) {
	l := ipRule{at, spec}
	switch {
	case strings.HasPrefix(at.chain, chainPrefix):
		a.chains[at.chain] = append(a.chains[at.chain], spec)
	case strings.HasPrefix(target(spec), chainPrefix):
		a.jumps = append(a.jumps, l)
		a.first[l] = !foreign[at.chain]
	default:
		foreign[at.chain] = true
	}
}

// words are the parts of a rule, without quotes.
func words(spec string) []string {
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
	for _, w := range words(spec) {
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

// canon is the same for rules that mean the same, in whatever order and with
// whatever quotes a version of iptables shows them.
func canon(spec string) string {
	c := clauses(spec)
	slices.Sort(c)
	return strings.Join(c, "\n")
}

// option is the value of an option, empty where the rule has none.
func option(spec, name string) string {
	for _, c := range clauses(spec) {
		if value, ok := strings.CutPrefix(c, name+" "); ok {
			return value
		}
	}
	return ""
}

// target is where a rule leads.
func target(spec string) string {
	if t := option(spec, "-j"); t != "" {
		name, _, _ := strings.Cut(t, " ")
		return name
	}
	return option(spec, "-g")
}

// ownerOf reads the comment of a rule: whose it is and of which object. It
// returns false where the comment is none of ours.
func ownerOf(spec string) (netstate.Source, string, bool) {
	parts := strings.SplitN(option(spec, "--comment"), ":", 3)
	if len(parts) != 3 || parts[0] != frameMark {
		return "", "", false
	}
	s := netstate.Source(parts[1])
	return s, parts[2], s == netstate.SourceCluster || s == netstate.SourceLocal
}
