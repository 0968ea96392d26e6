package firewall

import (
	"testing"

	"github.com/patchbay-dev/patchbay/nodeagent/firewall/firewalltest"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
	"github.com/patchbay-dev/patchbay/test/netlab"
	"github.com/patchbay-dev/patchbay/test/sandbox"
)

// TestFormerNames has tables with all of Rich as agents built them before the sets had
// today's names: every object is held, and the first Apply replaces both tables in one
// transaction, without a step.
func TestFormerNames(t *testing.T) {
	if !sandbox.Enter(t) {
		return
	}
	want := firewalltest.Rich()
	fresh := backend(t, netstate.SourceLocal)
	firewalltest.Apply(t, fresh, firewalltest.Creates(firewalltest.List(want)...))
	todays := firewalltest.Ruleset(t)
	netlab.Shell(t, "nft flush ruleset; nft -f testdata/former.nft")
	gen := firewalltest.Generation(t)
	b := loaded(t, netstate.SourceLocal)
	firewalltest.Same(t, "held under former names", want, b.Held())
	firewalltest.Same(t, "observed under former names", want, b.Observe(want.Keys()))
	firewalltest.Same(t, "intact", false, b.Intact())
	firewalltest.Apply(t, b)
	firewalltest.Same(t, "transactions", gen+1, firewalltest.Generation(t))
	firewalltest.Same(t, "ruleset", todays, firewalltest.Ruleset(t))
	firewalltest.Same(t, "held", want, loaded(t, netstate.SourceLocal).Held())

	netlab.Shell(t, "nft flush ruleset; nft -f testdata/former.nft")
	if err := b.Clean(); err != nil {
		t.Fatal(err)
	}
	firewalltest.Same(t, "ruleset after Clean", "", firewalltest.Ruleset(t))
}
