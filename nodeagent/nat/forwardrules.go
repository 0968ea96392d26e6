package nat

import (
	"slices"
	"strings"

	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
)

// forwardRule is what a rule of somebody else's means for forwarded packets.
type forwardRule struct {
	// conditional rules are for some packets alone. Of those that ask for an
	// interface, links are the ones they name, as a Blocker has them.
	conditional, byLink bool
	links               []string
	// family is set where only packets of one family are meant.
	family netstate.Family
	verdict
	// to is where a jump or goto leads; text is what drops, as a person reads it.
	to, text string
}

type verdict int

const (
	passes verdict = iota
	accepts
	drops
	returns
	jumps
	goes
)

// fate is what becomes of forwarded packets in a chain and those it leads to.
type fate struct {
	// accepts are the interfaces let through before anything drops all packets.
	accepts []string
	// accepted says that all packets are, before anything drops them.
	accepted bool
	// drop is the text of the rule that drops the rest, in chain dropIn.
	drop, dropIn string
}

func (o fate) ended() bool { return o.accepted || o.drop != "" }

// walk follows packets of one family through the chains of a table.
type walk struct {
	family netstate.Family
	rules  func(chain string) []forwardRule
	// entered are the chains that all packets come to, and what becomes of them
	// there.
	entered map[string]fate
	asked   map[string]bool
}

func newWalk(f netstate.Family, rules func(string) []forwardRule) *walk {
	return &walk{family: f, rules: rules, entered: map[string]fate{}, asked: map[string]bool{}}
}

// judge follows all packets into a chain.
func (w *walk) judge(chain string) fate {
	if o, known := w.entered[chain]; known {
		return o
	}
	w.entered[chain] = fate{}
	var o fate
	for _, r := range w.of(chain) {
		if w.step(&o, chain, r) {
			break
		}
	}
	w.entered[chain] = o
	return o
}

// of are the rules of a chain that are for the family. What is ours lets through
// what somebody else's drops, and is no concern of that.
func (w *walk) of(chain string) []forwardRule {
	if chain == chainOpening || strings.HasPrefix(chain, chainPrefix) {
		return nil
	}
	return slices.DeleteFunc(slices.Clone(w.rules(chain)), func(r forwardRule) bool { return r.family != "" && r.family != w.family })
}

// step takes a rule and reports whether no packet goes on to the next.
func (w *walk) step(o *fate, chain string, r forwardRule) bool {
	if r.to == chainOpening {
		// Before 1.0.6 nft does not tell that the comment of this jump is no condition.
		w.entered[r.to] = fate{}
		return false
	}
	if r.conditional {
		if r.verdict == accepts || len(r.links) > 0 && r.to != "" && w.lets(r.to) {
			o.accepts = append(o.accepts, r.links...)
		}
		return false
	}
	switch r.verdict {
	case accepts:
		o.accepted = true
	case drops:
		o.drop, o.dropIn = r.text, chain
	case jumps, goes:
		sub := w.judge(r.to)
		o.accepts = append(o.accepts, sub.accepts...)
		o.accepted, o.drop, o.dropIn = sub.accepted, sub.drop, sub.dropIn
	}
	return o.ended() || r.verdict == goes || r.verdict == returns
}

// lets reports whether something is accepted in a chain whatever its interfaces.
func (w *walk) lets(chain string) bool {
	if yes, known := w.asked[chain]; known {
		return yes
	}
	w.asked[chain] = false
	for _, r := range w.of(chain) {
		if !r.byLink && (r.verdict == accepts || r.to != "" && w.lets(r.to)) {
			w.asked[chain] = true
			break
		}
		if !r.conditional && r.verdict != passes && r.verdict != jumps {
			break
		}
	}
	return w.asked[chain]
}

// blocker is the base chain as what it does to packets of the family, if it drops
// some that no rule of it lets through.
func (w *walk) blocker(name, base string, policyDrops bool) (netstate.Blocker, bool) {
	o := w.judge(base)
	b := netstate.Blocker{Name: name, Cause: "by policy", Families: []netstate.Family{w.family}}
	switch {
	case o.dropIn == base:
		b.Cause = "by its rule `" + o.drop + "`"
	case o.drop != "":
		b.Cause = "by the rule `" + o.drop + "` of its chain " + o.dropIn
	case o.accepted || !policyDrops:
		return b, false
	}
	slices.Sort(o.accepts)
	b.Accepts = slices.Compact(o.accepts)
	return b, true
}
