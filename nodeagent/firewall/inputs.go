package firewall

import (
	"fmt"
	"slices"

	"github.com/patchbay-dev/patchbay/nodeagent/firewall/iptables"
	"github.com/patchbay-dev/patchbay/nodeagent/firewall/nftables"
	"github.com/patchbay-dev/patchbay/nodeagent/firewall/program"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
	"github.com/patchbay-dev/patchbay/nodeagent/plan"
)

// Inputs are what a backend hands to its programs, in this order, to make all
// objects at once in a firewall without our objects. It is the same on
// every machine, and nothing is run. It fails for what the backend would refuse.
func Inputs(kind string, source netstate.Source, objects []netstate.Object) ([]program.Input, error) {
	objects = slices.SortedFunc(slices.Values(objects), func(a, b netstate.Object) int { return a.Key().Compare(b.Key()) })
	var steps []plan.Step
	for _, o := range objects {
		steps = append(steps, plan.Step{Op: plan.Create, Key: o.Key(), New: o})
	}
	switch kind {
	case KindNFTables:
		return nftables.Inputs(source, steps)
	case KindIPTables:
		return iptables.Inputs(source, steps)
	}
	return nil, fmt.Errorf("tell what backend %q writes: unknown kind; use %s or %s", kind, KindNFTables, KindIPTables)
}
