package claims

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"github.com/patchbay-dev/patchbay/nodeagent/compile"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
)

// lab drives a book with random wishes of a few owners.
type lab struct {
	t      *testing.T
	seed   uint64
	r      *rand.Rand
	b      *Book
	owners []netstate.Owner
	lost   map[netstate.Owner][]Loss
}

func newLab(t *testing.T, seed uint64) *lab {
	l := &lab{t: t, seed: seed, r: rand.New(rand.NewPCG(seed, 5)), b: New(), lost: map[netstate.Owner][]Loss{}}
	for i := range 5 {
		l.owners = append(l.owners, netstate.Owner{Kind: netstate.OwnerAttachment, Name: fmt.Sprint("o", i)})
	}
	return l
}

// claim is a random wish: of a name, a shared thing, an address, a subnet, ports.
func (l *lab) claim() compile.Claim {
	key := netstate.Key{}
	n := l.r.IntN(3)
	address := netip.AddrFrom4([4]byte{10, 0, 0, byte(n)})
	if l.r.IntN(2) == 0 {
		key.Name = "object"
	}
	switch l.r.IntN(6) {
	case 0:
		return compile.Claim{Thing: compile.Thing{Kind: compile.Interface, Name: fmt.Sprint("i", n)}, Key: key}
	case 1:
		return compile.Claim{Thing: compile.Thing{Kind: compile.NetnsName, Name: "n"}, Sharers: fmt.Sprint(n), Key: key}
	case 2:
		return []compile.Claim{compile.AddressClaim("red", address), compile.AddressClaim("blue", address), compile.MarkedClaim(address)}[l.r.IntN(3)]
	case 3:
		return compile.Claim{Thing: compile.Thing{Kind: compile.Subnet, Subnet: netip.PrefixFrom(address, 30+n).Masked()}, Key: key}
	case 4:
		return compile.Claim{Thing: compile.PortOf("br"), Key: key}
	}
	p := compile.HostPorts{Host: netip.IPv4Unspecified(), Proto: "tcp", First: uint16(80 + n), Last: uint16(80 + n + l.r.IntN(2)*3)}
	return compile.Claim{Thing: compile.Thing{Kind: compile.HostPort, Ports: p}, Key: key}
}

func (l *lab) wishes() (list []compile.Claim) {
	for range l.r.IntN(4) {
		if c := l.claim(); !has(list, c) {
			list = append(list, c)
		}
	}
	return list
}

// batch has some owners ask for something: all replace before any settles.
func (l *lab) batch() {
	wishes, fails := map[netstate.Owner][]compile.Claim{}, map[netstate.Owner]bool{}
	kept := map[netstate.Owner][]compile.Claim{}
	for _, o := range l.owners {
		if l.r.IntN(2) == 0 {
			continue
		}
		l.b.Begin(o)
		if l.r.IntN(4) == 0 {
			l.b.Reserve(o, l.claim())
		}
		wishes[o], fails[o] = l.wishes(), l.r.IntN(8) == 0
		kept[o] = slices.Clone(l.b.Of(o))
		if l.r.IntN(2) == 0 {
			wishes[o] = append(slices.DeleteFunc(wishes[o], func(c compile.Claim) bool { return has(kept[o], c) }), kept[o]...)
		}
		l.b.Replace(o, wishes[o])
	}
	for _, o := range l.owners {
		if list, ok := wishes[o]; ok {
			l.lost[o] = l.b.Settle(o, list, fails[o])
			l.expectKept(o, list, kept[o])
		}
	}
}

// expectKept holds the book to the promise that an owner keeps what it has and wants.
func (l *lab) expectKept(o netstate.Owner, wishes, kept []compile.Claim) {
	l.t.Helper()
	for _, loss := range l.lost[o] {
		if i := slices.IndexFunc(kept, func(c compile.Claim) bool { return c.Thing == loss.Claim.Thing && c.Sharers == loss.Claim.Sharers }); i >= 0 {
			l.t.Fatalf("seed %d: %s had %s and lost it to %s", l.seed, o, loss.Claim.Thing, loss.Holder)
		}
	}
	for _, c := range l.b.Of(o) {
		if !has(wishes, c) {
			l.t.Fatalf("seed %d: %s has %s and does not want it", l.seed, o, c.Thing)
		}
	}
}

// check holds the book to its other promises.
func (l *lab) check() {
	l.t.Helper()
	for i, o := range l.owners {
		for _, c := range l.b.Of(o) {
			for _, other := range l.owners[i+1:] {
				for _, have := range l.b.Of(other) {
					if c.Thing.Kind != compile.BridgePort && (c.Conflicts(have) || have.Conflicts(c)) {
						l.t.Fatalf("seed %d: %s has %s and %s has %s", l.seed, o, c.Thing, other, have.Thing)
					}
				}
			}
		}
	}
	if n := len(l.b.Holders(compile.PortOf("br"))); n > 2 {
		l.t.Fatalf("seed %d: %d have one of two ports", l.seed, n)
	}
	woken := l.b.Woken(netstate.Owner.Compare)
	for _, o := range l.owners {
		stale := slices.ContainsFunc(l.lost[o], func(loss Loss) bool {
			h, taken := l.b.Holder(o, loss.Claim)
			return !taken || h != loss.Holder
		})
		if stale != slices.Contains(woken, o) {
			l.t.Fatalf("seed %d: %s is woken: %t, want %t (lost %v)", l.seed, o, !stale, stale, l.lost[o])
		}
		// An owner that hears of it asks again.
		if stale {
			l.b.Begin(o)
			delete(l.lost, o)
		}
	}
}

// TestHistories drives random histories of owners that want the same things.
func TestHistories(t *testing.T) {
	for seed := range uint64(3000) {
		l := newLab(t, seed)
		l.b.Limit(compile.PortOf("br"), netstate.Owner{Name: "red"}, 2)
		for range 12 {
			l.batch()
			l.check()
		}
		for _, o := range l.owners {
			l.b.Begin(o)
			l.b.Settle(o, nil, false)
		}
		if n := len(l.b.held) + len(l.b.addresses) + len(l.b.ports) + len(l.b.subnets) + len(l.b.waiting) + len(l.b.accounts) + len(l.b.pools); n > 0 {
			t.Fatalf("seed %d: %d entries are left: %+v", seed, n, l.b)
		}
	}
}

// TestPoolWakesAsManyAsCameFree shows that of many that wait for an address those are
// asked again, in order, for which one came free, and that one which does not take it
// leaves it to the next.
func TestPoolWakesAsManyAsCameFree(t *testing.T) {
	b, pool := New(), Pool{"red", netip.MustParsePrefix("10.0.0.0/24")}
	owner := func(i int) netstate.Owner { return netstate.Owner{Name: fmt.Sprintf("o%03d", i)} }
	first := compile.AddressClaim("red", netip.MustParseAddr("10.0.0.2"))
	b.Settle(owner(0), []compile.Claim{first}, false)
	for i := 1; i < 100; i++ {
		b.awaitPool(owner(i), pool)
	}
	if !b.exhausted(pool) || len(b.Woken(netstate.Owner.Compare)) > 0 {
		t.Fatal("woken although nothing came free")
	}
	b.Settle(owner(0), nil, false)
	expect := func(what string, want ...netstate.Owner) {
		t.Helper()
		if got := b.Woken(netstate.Owner.Compare); !slices.Equal(got, want) {
			t.Errorf("%s: woken are %v, want %v", what, got, want)
		}
	}
	expect("one came free", owner(1))
	b.Begin(owner(1))
	expect("the first wants none", owner(2))
	b.Begin(owner(2))
	b.Settle(owner(2), []compile.Claim{first}, false)
	expect("the second has it, but there may be more", owner(3))
	b.awaitPool(owner(3), pool)
	expect("there are not")
}
