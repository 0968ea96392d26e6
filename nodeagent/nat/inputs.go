package nat

import (
	"fmt"
	"slices"
	"strings"

	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
	"github.com/patchbay-dev/patchbay/nodeagent/plan"
)

// Input is what a program reads to change the firewall: nft, iptables-restore and
// ip6tables-restore their standard input; iptables-nft and ip6tables-nft, which
// take no input, the arguments of one run a line.
type Input struct {
	Program string
	Text    string
}

// Inputs are what a backend hands to its programs, in this order, to make all
// objects at once in a firewall that holds nothing of ours. It is the same on
// every machine, and nothing is run. It fails for what the backend would refuse.
func Inputs(kind string, source netstate.Source, objects []netstate.Object) ([]Input, error) {
	objects = slices.SortedFunc(slices.Values(objects), func(a, b netstate.Object) int { return a.Key().Compare(b.Key()) })
	var steps []plan.Step
	for _, o := range objects {
		steps = append(steps, plan.Step{Op: plan.Create, Key: o.Key(), New: o})
	}
	switch kind {
	case KindNFTables:
		return nftablesInputs(source, steps)
	case KindIPTables:
		return iptablesInputs(source, steps)
	}
	return nil, fmt.Errorf("tell what backend %q writes: unknown kind; use %s or %s", kind, KindNFTables, KindIPTables)
}

func nftablesInputs(source netstate.Source, steps []plan.Step) ([]Input, error) {
	if err := checkSteps(steps, validate); err != nil {
		return nil, err
	}
	opened, steps := apartOpenings(steps)
	m := newMemory(source)
	changes, _, err := m.apply(steps)
	if err != nil {
		return nil, err
	}
	var out []Input
	for _, statements := range batches(m.script(changes)) {
		text, err := scriptOf(statements)
		if err != nil {
			return nil, err
		}
		out = append(out, Input{"nft", text})
	}
	return append(out, openingInputs(source, opened)...), nil
}

// openingInputs are the calls for openings of each family where there is no chain
// for them yet, and none of Docker's.
func openingInputs(source netstate.Source, steps []plan.Step) []Input {
	o := openings{source: source}
	var out []Input
	for _, f := range []netstate.Family{netstate.IPv4, netstate.IPv6} {
		calls := [][]string{{"-N", chainOpening}}
		for _, s := range steps {
			if is := opening(s.Key); is.Family == f {
				for _, rule := range o.rulesOf(is) {
					calls = append(calls, append([]string{"-A", chainOpening}, rule...))
				}
			}
		}
		if len(calls) == 1 {
			continue
		}
		calls = append(calls, append([]string{"-I", entrance(false), "1"}, jump...))
		var text strings.Builder
		for _, c := range calls {
			fmt.Fprintf(&text, "-t %s %s\n", filterTable, strings.Join(c, " "))
		}
		out = append(out, Input{variantNFT.program(f == netstate.IPv6, ""), text.String()})
	}
	return out
}

func iptablesInputs(source netstate.Source, steps []plan.Step) ([]Input, error) {
	if err := checkSteps(steps, checkIPTables); err != nil {
		return nil, err
	}
	m := newIPMemory(source)
	changes, _, err := m.apply(steps)
	if err != nil {
		return nil, err
	}
	var out []Input
	for _, r := range m.restores(changes, []bool{false, true}, wholeRestore) {
		out = append(out, Input{variant("").program(r.six, "-restore"), r.text})
	}
	return out, nil
}
