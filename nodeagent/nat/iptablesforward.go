package nat

import (
	"slices"
	"strings"

	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
)

// blockers are the tables whose FORWARD drops forwarded packets.
func (s saved) blockers() []netstate.Blocker {
	var out []netstate.Blocker
	for a := range s.policies {
		if b, blocks := s.blocker(a); blocks {
			if b.Openable = a.table == filterTable; b.Openable {
				b.Accepts = nil
			}
			out = append(out, b)
		}
	}
	slices.SortFunc(out, func(a, b netstate.Blocker) int { return strings.Compare(a.Name, b.Name) })
	return out
}

// blocker is the FORWARD of a table, if it blocks.
func (s saved) blocker(a area) (netstate.Blocker, bool) {
	c := otherChain{Family: "ip", Table: a.table, Name: chainIptables}
	if a.six {
		c.Family = "ip6"
	}
	read := map[string][]forwardRule{}
	w := newWalk(forwardFamilies[c.Family][0], func(chain string) []forwardRule {
		if _, known := read[chain]; !known {
			read[chain] = specRules(s.areas[a].others[chain])
		}
		return read[chain]
	})
	b, blocks := w.blocker(c.String(), c.Name, s.policies[a] == "DROP")
	b.Names = w.names(c.Name, map[string]bool{})
	return b, blocks
}

func specRules(specs []string) []forwardRule {
	var out []forwardRule
	for _, spec := range specs {
		out = append(out, specRule(spec))
	}
	return out
}

// specRule is what a rule of iptables means for forwarded packets.
func specRule(spec string) forwardRule {
	var r forwardRule
	w := words(spec)
	for i := 0; i < len(w); i++ {
		switch w[i] {
		case "-j", "-g":
			r.target(w[i:])
			return r
		case "-m", "--comment":
			i++
			r.conditional = r.conditional || w[i-1] == "-m" && i < len(w) && w[i] != "comment"
		case "-i", "-o":
			r.conditional, r.byLink = true, true
			if i+1 < len(w) && (i == 0 || w[i-1] != "!") {
				r.links = append(r.links, linkOf(w[i+1]))
			}
		default:
			r.conditional = true
			r.byLink = r.byLink || strings.HasPrefix(w[i], "--physdev-")
		}
	}
	return r
}

// linkOf is an interface of a rule as a Blocker has it.
func linkOf(name string) string {
	if prefix, wild := strings.CutSuffix(name, "+"); wild {
		return prefix + "*"
	}
	return name
}

// target takes the end of a rule, which says what it does.
func (r *forwardRule) target(end []string) {
	if len(end) < 2 {
		return
	}
	switch end[1] {
	case "ACCEPT":
		r.verdict = accepts
	case "DROP", "REJECT":
		r.verdict, r.text = drops, strings.Join(end, " ")
	case "RETURN":
		r.verdict = returns
	default:
		r.verdict, r.to = jumps, end[1]
		if end[0] == "-g" {
			r.verdict = goes
		}
	}
}
