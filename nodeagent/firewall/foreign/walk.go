package foreign

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/patchbay-dev/patchbay/nodeagent/firewall/iptsave"
	"github.com/patchbay-dev/patchbay/nodeagent/firewall/nfnl"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
	"sigs.k8s.io/knftables"
)

// forwardRule is the effect of another program's rule on forwarded packets.
type forwardRule struct {
	// conditional rules are for some packets alone. Of rules that ask for an
	// interface, links are the ones they name, as a Blocker has them.
	conditional, byLink bool
	links               []string
	// translated rules ask for nothing but a translated target.
	translated bool
	// family is set where only packets of one family are meant.
	family netstate.Family
	verdict
	// to is where a jump or goto leads; text is what drops, as a person reads it.
	to, text string
	// untracks says that it keeps packets from connection tracking.
	untracks bool
	// ports are where all that it is for is sent to, if it has no other condition.
	ports closedPorts
}

// closedPorts are ports of a protocol; none without one.
type closedPorts struct {
	proto       string
	first, last uint16
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
	// accepted says that all packets are, before anything drops them; translated says so
	// of those alone whose target was translated.
	accepted, translated bool
	// drop is the text of the rule that drops the rest, in chain dropIn.
	drop, dropIn string
	// some says that something is accepted whatever its interface, and perhaps that
	// chains accept it to which some packets go.
	some    bool
	perhaps []string
	// untracked is the chain that keeps all packets from connection tracking.
	untracked string
	// closed are the ports to which all packets are dropped, by chain.
	closed map[closedPorts]string
}

func (o *fate) close(p closedPorts, chain string) {
	if o.closed == nil {
		o.closed = map[closedPorts]string{}
	}
	o.closed[p] = cmp.Or(o.closed[p], chain)
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

// of are the rules of a chain that are for the family. Our chains
// let through what a chain of another program drops, and are left out.
func (w *walk) of(chain string) []forwardRule {
	if chain == AcceptChain || strings.HasPrefix(chain, iptsave.Prefix) {
		return nil
	}
	return slices.DeleteFunc(slices.Clone(w.rules(chain)), func(r forwardRule) bool { return r.family != "" && r.family != w.family })
}

// step takes a rule and reports whether no packet goes on to the next.
func (w *walk) step(o *fate, chain string, r forwardRule) bool {
	if r.to == AcceptChain {
		// Before 1.0.6 nft does not tell that the comment of this jump is no condition.
		w.entered[r.to] = fate{}
		return false
	}
	if r.conditional {
		o.some = o.some || r.verdict == accepts && len(r.links) == 0
		if r.to != "" && len(r.links) == 0 {
			o.perhaps = append(o.perhaps, r.to)
		}
		if r.verdict == drops && r.ports.proto != "" {
			o.close(r.ports, chain)
		}
		o.translated = o.translated || r.translated && r.verdict == accepts
		if r.verdict == accepts || len(r.links) > 0 && r.to != "" && w.lets(r.to) {
			o.accepts = append(o.accepts, r.links...)
		}
		return false
	}
	if r.untracks && o.untracked == "" {
		o.untracked = chain
	}
	switch r.verdict {
	case accepts:
		o.accepted = true
	case drops:
		o.drop, o.dropIn = r.text, chain
	case jumps, goes:
		sub := w.judge(r.to)
		o.accepts, o.translated = append(o.accepts, sub.accepts...), o.translated || sub.translated
		o.accepted, o.drop, o.dropIn = sub.accepted, sub.drop, sub.dropIn
		o.some, o.perhaps = o.some || sub.some, append(o.perhaps, sub.perhaps...)
		o.untracked = cmp.Or(o.untracked, sub.untracked)
		for p, in := range sub.closed {
			o.close(p, in)
		}
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

// names are the interfaces that rules of a chain speak of, and of those it leads to.
func (w *walk) names(chain string, seen map[string]bool) []string {
	if seen[chain] {
		return nil
	}
	seen[chain] = true
	var out []string
	for _, r := range w.of(chain) {
		out = append(out, r.links...)
		if r.to != "" {
			out = append(out, w.names(r.to, seen)...)
		}
	}
	return out
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
	b.Accepts, b.Translated = slices.Compact(o.accepts), o.translated
	return b, true
}

// elsewhere are what a base chain at another hook than forward does to packets of the
// family: all blockers of it. One that lets something through whatever its interface
// is a firewall that an administrator keeps, and may let our packets through.
func (w *walk) elsewhere(c nfnl.Chain) []netstate.Blocker {
	o := w.judge(c.Name)
	from := netstate.Blocker{Name: c.String(), Hook: c.Hook, Bridge: c.Family == string(knftables.BridgeFamily), Families: []netstate.Family{w.family}, Links: c.Devices}
	var out []netstate.Blocker
	if b, blocks := w.blocker(from.Name, c.Name, c.Policy == "drop"); blocks && !o.some && !slices.ContainsFunc(o.perhaps, w.lets) {
		all := from
		all.Cause, all.Accepts = b.Cause, b.Accepts
		out = append(out, all)
	}
	if o.untracked != "" && c.Priority < conntrackPriority {
		un := from
		un.Untracked, un.Cause = true, "by the rule `notrack` of its chain "+o.untracked
		out = append(out, un)
	}
	if c.Hook == "prerouting" && c.Priority < translationPriority {
		for _, p := range slices.SortedFunc(maps.Keys(o.closed), func(a, b closedPorts) int {
			return cmp.Or(cmp.Compare(a.proto, b.proto), cmp.Compare(a.first, b.first), cmp.Compare(a.last, b.last))
		}) {
			some := from
			some.Proto, some.First, some.Last, some.Cause = p.proto, p.first, p.last, fmt.Sprintf("by the rule `%s drop` of its chain %s", p, o.closed[p])
			out = append(out, some)
		}
	}
	return out
}

// The priorities of connection tracking, and of what we publish.
const (
	conntrackPriority   = -200
	translationPriority = -95
)

func (p closedPorts) String() string {
	if p.last > p.first {
		return fmt.Sprintf("%s dport %d-%d", p.proto, p.first, p.last)
	}
	return fmt.Sprintf("%s dport %d", p.proto, p.first)
}
