package nftables

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"github.com/patchbay-dev/patchbay/nodeagent/firewall/firewalltest"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
	"github.com/patchbay-dev/patchbay/test/sandbox"
)

// TestDeal deals to random sets of targets and to the same without one of them.
func TestDeal(t *testing.T) {
	random := rand.New(rand.NewPCG(4, 2))
	moved, least := 0, 0
	for range 300 {
		all := firewalltest.RandomTargets(random, 2+random.IntN(netstate.MaxTargets-1))
		dealt := deal(all)
		fair(t, all, dealt)
		shuffled := slices.Clone(all)
		random.Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
		firewalltest.Same(t, "dealt to the same set", dealt, deal(netstate.NewTargets(shuffled...).All()))

		gone := random.IntN(len(all))
		fewer := slices.Delete(slices.Clone(all), gone, gone+1)
		rest := deal(fewer)
		fair(t, fewer, rest)
		for i := range dealt {
			if dealt[i] == all[gone] {
				least++
			}
			if dealt[i] != rest[i] {
				moved++
			}
		}
	}
	// Dealing by turn alone would move nearly all of them.
	if average := float64(moved-least) / 300; average > netstate.MaxTargets/6 {
		t.Errorf("%.1f slots more than necessary move when one target goes", average)
	}
}

// fair expects every slot to be dealt, and the shares to differ by one at most.
func fair(t *testing.T, targets, dealt []netip.AddrPort) {
	t.Helper()
	shares := map[netip.AddrPort]int{}
	for _, a := range targets {
		shares[a] = 0
	}
	for _, a := range dealt {
		shares[a]++
	}
	low, high := netstate.MaxTargets, 0
	for _, n := range shares {
		low, high = min(low, n), max(high, n)
	}
	if len(dealt) != netstate.MaxTargets || len(shares) != len(targets) || low < 1 || high-low > 1 {
		t.Errorf("%d targets have %d to %d of %d slots, %d have any", len(targets), low, high, len(dealt), len(shares))
	}
}

// TestManySlots has more elements than a transaction bears: no port is torn.
func TestManySlots(t *testing.T) {
	if !sandbox.Enter(t) {
		return
	}
	want, moved := netstate.Set{}, netstate.Set{}
	for i := range 40 {
		port := uint16(20000 + i)
		want.Add(firewalltest.Balance("0.0.0.0", "tcp", port, firewalltest.Many(3)...), firewalltest.Balance("2001:db8::1", "udp", port, "[fd00::1]:80", "[fd00::2]:80"))
		moved.Add(firewalltest.Balance("0.0.0.0", "tcp", port, firewalltest.Many(2)...), firewalltest.Publish("2001:db8::1", "udp", port, "[fd00::1]:80"))
	}
	b := newBackend(t, netstate.SourceLocal)
	var whole int
	b.opts.Committed = func() {
		listed := newLoaded(t, netstate.SourceLocal)
		for o := range listed.memory.Objects() {
			if _, whole := listed.Object(o.Key()); !whole {
				t.Errorf("%s is torn: %s", o.Key(), o)
			}
		}
		whole++
	}
	firewalltest.Apply(t, b, firewalltest.Creates(firewalltest.List(want)...))
	firewalltest.Same(t, "held", want, newLoaded(t, netstate.SourceLocal).Held())
	made := whole
	firewalltest.Apply(t, b, firewalltest.Creates(firewalltest.List(moved)...))
	firewalltest.Same(t, "held after the change", moved, newLoaded(t, netstate.SourceLocal).Held())
	if made < 10 || whole-made < 5 {
		t.Errorf("%d and %d transactions are too few to tear anything", made, whole-made)
	}
	firewalltest.Apply(t, b, firewalltest.Deletes(firewalltest.List(moved)...))
	firewalltest.Same(t, "ruleset", "", firewalltest.Ruleset(t))
}
