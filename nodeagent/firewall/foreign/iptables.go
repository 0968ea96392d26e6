package foreign

import (
	"maps"
	"slices"
	"strings"

	"github.com/patchbay-dev/patchbay/nodeagent/firewall/book"
	"github.com/patchbay-dev/patchbay/nodeagent/firewall/iptsave"
	"github.com/patchbay-dev/patchbay/nodeagent/firewall/nfnl"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
)

// Blockers are the tables whose FORWARD drops forwarded packets.
func Blockers(s iptsave.Saved) []netstate.Blocker {
	var out []netstate.Blocker
	for a := range s.Policies {
		if b, blocks := blockerOf(s, a); blocks {
			if b.Openable = a.Table == filterTable; b.Openable {
				b.Accepts = nil
			}
			out = append(out, b)
		}
	}
	slices.SortFunc(out, func(a, b netstate.Blocker) int { return strings.Compare(a.Name, b.Name) })
	return append(out, blockersElsewhere(s)...)
}

// blockerOf is the FORWARD of a table, if it blocks.
func blockerOf(s iptsave.Saved, a iptsave.TableID) (netstate.Blocker, bool) {
	c := chainAt(a.At(iptsave.Forward), s.Policies[a])
	w := walkOf(s, a)
	b, blocks := w.blocker(c.String(), c.Name, c.Policy == "drop")
	b.Names = w.names(c.Name, map[string]bool{})
	return b, blocks
}

// blockersElsewhere are those at other hooks.
func blockersElsewhere(s iptsave.Saved) []netstate.Blocker {
	var out []netstate.Blocker
	for _, at := range slices.SortedFunc(maps.Keys(s.Elsewhere), iptsave.CompareChains) {
		out = append(out, walkOf(s, at.TableID).elsewhere(chainAt(at, s.Elsewhere[at]))...)
	}
	return out
}

// priorities are the priorities of iptables' tables.
var priorities = map[string]int32{"raw": -300, "mangle": -150, "filter": 0, "security": 50}

// chainAt is a built-in chain as one of nftables.
func chainAt(at iptsave.ChainID, policy string) nfnl.Chain {
	c := nfnl.Chain{Family: "ip", Table: at.Table, Name: at.Chain, Hook: strings.ToLower(at.Chain), Policy: strings.ToLower(policy), Priority: priorities[at.Table]}
	if at.Six {
		c.Family = "ip6"
	}
	return c
}

// walkOf follows packets through the chains of a table.
func walkOf(s iptsave.Saved, a iptsave.TableID) *walk {
	f := netstate.IPv4
	if a.Six {
		f = netstate.IPv6
	}
	read := map[string][]forwardRule{}
	return newWalk(f, func(chain string) []forwardRule {
		if _, known := read[chain]; !known {
			read[chain] = specRules(s.Tables[a].Others[chain])
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
	w := iptsave.Words(spec)
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
			p.first, p.last = book.Fields{strings.Replace(w[i+1], ":", "-", 1)}.Ports(0)
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
