package nat

import (
	"fmt"
	"slices"

	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
	"github.com/patchbay-dev/patchbay/nodeagent/plan"
)

// Input is what a program reads to change the firewall on its standard input: nft,
// iptables-restore, iptables-nft-restore and those of ip6tables, all with --noflush.
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

// openingInputs are what makes the openings of each family where there is no chain
// for them yet, and none of Docker's.
func openingInputs(source netstate.Source, steps []plan.Step) []Input {
	o := newOpenings(source)
	var out []Input
	for _, f := range []netstate.Family{netstate.IPv4, netstate.IPv6} {
		if of := ofOpenings(steps, f); len(of) > 0 {
			out = append(out, Input{variantNFT.program(f == netstate.IPv6, "-restore"), restoreOf(filterTable, o.commands(f, of, nil))})
		}
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
