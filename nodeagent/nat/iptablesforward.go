package nat

import (
	"maps"
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
	return append(out, s.blockersElsewhere()...)
}

// blocker is the FORWARD of a table, if it blocks.
func (s saved) blocker(a area) (netstate.Blocker, bool) {
	c := s.chainAt(spot{a, chainIptables}, s.policies[a])
	w := s.walk(a)
	b, blocks := w.blocker(c.String(), c.Name, c.Policy == "drop")
	b.Names = w.names(c.Name, map[string]bool{})
	return b, blocks
}

// blockersElsewhere are those at other hooks.
func (s saved) blockersElsewhere() []netstate.Blocker {
	var out []netstate.Blocker
	for _, at := range slices.SortedFunc(maps.Keys(s.elsewhere), compareSpots) {
		out = append(out, s.walk(at.area).elsewhere(s.chainAt(at, s.elsewhere[at]))...)
	}
	return out
}

// priorities are those of iptables' tables.
var priorities = map[string]int32{"raw": -300, "mangle": -150, "filter": 0, "security": 50}

// chainAt is a built-in chain as one of nftables.
func (s saved) chainAt(at spot, policy string) otherChain {
	c := otherChain{Family: "ip", Table: at.table, Name: at.chain, Hook: strings.ToLower(at.chain), Policy: strings.ToLower(policy), priority: priorities[at.table]}
	if at.six {
		c.Family = "ip6"
	}
	return c
}

// walk follows packets through the chains of a table.
func (s saved) walk(a area) *walk {
	f := netstate.IPv4
	if a.six {
		f = netstate.IPv6
	}
	read := map[string][]forwardRule{}
	return newWalk(f, func(chain string) []forwardRule {
		if _, known := read[chain]; !known {
			read[chain] = specRules(s.areas[a].others[chain])
		}
		return read[chain]
	})
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
			r.ports = specPorts(w[:i])
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

// specPorts are the ports that a rule is for, if it asks for nothing else.
func specPorts(w []string) (p closedPorts) {
	for i := 0; i+1 < len(w); i += 2 {
		switch w[i] {
		case "-p":
			p.proto = w[i+1]
		case "--dport":
			p.first, p.last = fields{strings.Replace(w[i+1], ":", "-", 1)}.ports(0)
			p.last = max(p.first, p.last)
		case "-m", "--comment":
		default:
			return closedPorts{}
		}
		if w[i] == "-m" && w[i+1] != p.proto && w[i+1] != "comment" {
			return closedPorts{}
		}
	}
	if len(w)%2 != 0 || p.first == 0 {
		return closedPorts{}
	}
	return p
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
	case "NOTRACK":
		r.untracks = true
	case "CT":
		r.untracks = slices.Contains(end, "--notrack")
	case "RETURN":
		r.verdict = returns
	default:
		r.verdict, r.to = jumps, end[1]
		if end[0] == "-g" {
			r.verdict = goes
		}
	}
}
