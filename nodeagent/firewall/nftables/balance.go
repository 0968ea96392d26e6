package nftables

import (
	"hash/fnv"
	"net/netip"

	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
)

// A port with several targets has a fixed number of slots; the rule draws one
// for every new connection, and each slot leads to one target. So the rules are
// constant, and another target is a few elements more.

// deal gives the slots to the targets, whose order does not matter if they are
// sorted. The targets take turns, each taking the free slot that it likes best,
// so that their shares differ by one at most, and another target takes little
// more than its share from other targets. It depends on the targets alone: a
// process without memory must find in the kernel what it would deal.
func deal(targets []netip.AddrPort) []netip.AddrPort {
	if len(targets) == 0 {
		return nil
	}
	dealt := make([]netip.AddrPort, netstate.MaxTargets)
	for turn := range dealt {
		t := targets[turn%len(targets)]
		dealt[favourite(t, dealt)] = t
	}
	return dealt
}

func favourite(t netip.AddrPort, dealt []netip.AddrPort) int {
	h := fnv.New64a()
	h.Write([]byte(t.String()))
	seed, best, most := h.Sum64(), -1, uint64(0)
	for slot, taken := range dealt {
		if l := mix(seed + uint64(slot)); !taken.IsValid() && (best < 0 || l > most) {
			best, most = slot, l
		}
	}
	return best
}

// mix is the finalizer of splitmix64: neighbours come out far apart.
func mix(x uint64) uint64 {
	x = (x + 0x9e3779b97f4a7c15) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>30) * 0x94d049bb133111eb
	return x ^ x>>31
}
