package firewall

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/patchbay-dev/patchbay/nodeagent/firewall/firewalltest"
	"github.com/patchbay-dev/patchbay/nodeagent/firewall/nftables"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
	"github.com/patchbay-dev/patchbay/test/netlab"
	"github.com/patchbay-dev/patchbay/test/sandbox"
)

// backend lets nothing that netlink is refused fall to nft unnoticed.
func backend(t testing.TB, source netstate.Source) Backend {
	return openNFT(t, Options{Source: source})
}

func openNFT(t testing.TB, o Options) Backend {
	t.Helper()
	b, err := open(o, nftables.New)
	if err != nil {
		t.Fatal(err)
	}
	b.dialect.(*nftables.Driver).Refused = func(err error) { t.Errorf("refused: %v", err) }
	return Backend{b}
}

// loaded is a backend that has just read the kernel.
func loaded(t testing.TB, source netstate.Source) Backend {
	t.Helper()
	b := backend(t, source)
	if err := b.Load(); err != nil {
		t.Fatal(err)
	}
	return b
}

func TestRuleset(t *testing.T) {
	if !sandbox.Enter(t) {
		return
	}
	b := backend(t, netstate.SourceLocal)
	firewalltest.Apply(t, b, firewalltest.Creates(firewalltest.List(firewalltest.Rich())...))
	// nft 1.1 names what 1.0 shows as numbers.
	old := strings.NewReplacer("hook output priority dstnat + 5;", "hook output priority -95;", "icmpv6 taddr", "@th,64,128")
	firewalltest.Golden(t, "ruleset.nft", old.Replace(firewalltest.Ruleset(t)))
	firewalltest.Same(t, "transactions", uint64(1), b.Transactions())
}

func TestRoundTrip(t *testing.T) {
	if !sandbox.Enter(t) {
		return
	}
	eachKind(t, roundTrip)
}

func roundTrip(t *testing.T, k kind) {
	b := k.open(t, netstate.SourceLocal)
	want := netstate.Set{}.Add(able(b, firewalltest.Rich())...)
	firewalltest.Apply(t, b, firewalltest.Creates(firewalltest.List(want)...))
	firewalltest.Same(t, "what it observes after Apply", want, b.Observe(want.Keys()))
	gen := firewalltest.Generation(t)
	again := k.loaded(t, netstate.SourceLocal)
	firewalltest.Same(t, "what another observes after Load", want, again.Observe(want.Keys()))
	firewalltest.Same(t, "what it holds", want, again.Held())
	firewalltest.Same(t, "intact", true, again.Intact())
	firewalltest.Apply(t, b, firewalltest.Creates(firewalltest.List(want)...))
	firewalltest.Apply(t, again, firewalltest.Creates(firewalltest.List(want)...))
	firewalltest.Apply(t, again)
	firewalltest.Same(t, "transactions of the second", uint64(0), again.Transactions())
	firewalltest.Same(t, "generation", gen, firewalltest.Generation(t))
	firewalltest.Apply(t, again, firewalltest.Deletes(firewalltest.List(want)...))
	firewalltest.Same(t, "what is left", "", firewall(t))
	firewalltest.Same(t, "what it holds at the end", netstate.Set{}, again.Held())
}

func TestThousands(t *testing.T) {
	if !sandbox.Enter(t) {
		return
	}
	want := netstate.Set{}
	for i := range 2000 {
		want.Add(firewalltest.Publish("0.0.0.0", "tcp", uint16(20000+i), fmt.Sprintf("10.68.%d.%d:80", i/250, 1+i%250)))
	}
	b := backend(t, netstate.SourceLocal)
	firewalltest.Apply(t, b, firewalltest.Creates(firewalltest.List(want)...))
	firewalltest.Same(t, "transactions", uint64(5), b.Transactions())
	// While the kernel's worker enlarges the table of a set, a dump lacks some of it.
	var again Backend
	netlab.Until(t, 10*time.Second, "all is observed", func() bool {
		again = loaded(t, netstate.SourceLocal)
		return len(again.Observe(want.Keys())) == len(want)
	})

	whole := firewalltest.Ruleset(t)
	netlab.Shell(t, "nft add set inet patchbay mine '{ type mark; }'")
	repair(t, b, want)
	firewalltest.Same(t, "transactions of making it anew", uint64(10), b.Transactions())
	firewalltest.Same(t, "ruleset made anew", whole, firewalltest.Ruleset(t))
	last := want.Keys()[1999]
	firewalltest.Apply(t, again, firewalltest.Deletes(firewalltest.List(want)[:1999]...))
	firewalltest.Same(t, "what is left", netstate.Set{}.Add(want[last]), loaded(t, netstate.SourceLocal).Held())
	firewalltest.Apply(t, again, firewalltest.Deletes(want[last]))
	firewalltest.Same(t, "ruleset", "", firewalltest.Ruleset(t))
}
