package claims

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"github.com/patchbay-dev/patchbay/nodeagent/compile"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
)

func portsOf(host, proto string, first, last uint16) compile.Claim {
	p := compile.HostPorts{Host: netip.MustParseAddr(host), Proto: proto, First: first, Last: last}
	return compile.Claim{Thing: compile.Thing{Kind: compile.HostPort, Ports: p}, Key: netstate.Key{Name: fmt.Sprint(p)}}
}

func publisher(i int) netstate.Owner {
	return netstate.Owner{Kind: netstate.OwnerPublish, Name: fmt.Sprint("p", i)}
}

// TestPortsOverlap: ranges and single ports of one address and protocol keep each
// other out, as a whole; other addresses and protocols are beside them.
func TestPortsOverlap(t *testing.T) {
	c := New()
	c.Settle(publisher(1), []compile.Claim{portsOf("0.0.0.0", "tcp", 8000, 8010)}, false)
	c.Settle(publisher(2), []compile.Claim{portsOf("0.0.0.0", "tcp", 80, 80)}, false)
	for _, want := range []struct {
		claim  compile.Claim
		holder int
	}{
		{portsOf("0.0.0.0", "tcp", 8000, 8000), 1}, {portsOf("0.0.0.0", "tcp", 8010, 8010), 1}, {portsOf("0.0.0.0", "tcp", 8011, 8011), 0},
		{portsOf("0.0.0.0", "tcp", 7990, 8000), 1}, {portsOf("0.0.0.0", "tcp", 8010, 9000), 1}, {portsOf("0.0.0.0", "tcp", 8001, 8002), 1},
		{portsOf("0.0.0.0", "tcp", 1, 65535), 2}, {portsOf("0.0.0.0", "tcp", 81, 65535), 1}, {portsOf("0.0.0.0", "tcp", 81, 7999), 0},
		{portsOf("0.0.0.0", "udp", 8000, 8000), 0}, {portsOf("192.0.2.1", "tcp", 8000, 8010), 0}, {portsOf("::", "tcp", 8000, 8000), 0},
	} {
		holder, taken := c.Holder(publisher(9), want.claim)
		if taken != (want.holder > 0) || taken && holder != publisher(want.holder) {
			t.Errorf("%s is %s's (%t), want %d", want.claim.Thing, holder, taken, want.holder)
		}
		if holder, taken := c.Holder(publisher(want.holder), want.claim); taken && holder == publisher(want.holder) {
			t.Errorf("%s is taken by whom it is for", want.claim.Thing)
		}
	}
	c.Settle(publisher(1), nil, false)
	if holder, taken := c.Holder(publisher(9), portsOf("0.0.0.0", "tcp", 8000, 8010)); taken {
		t.Errorf("released, but %s has it", holder)
	}
	c.Settle(publisher(2), nil, false)
	if len(c.ports) > 0 || len(c.held) > 0 {
		t.Errorf("left: %v %v", c.ports, c.held)
	}
}

// TestPortsAtRandom holds the book to what comparing everything with everything
// says.
func TestPortsAtRandom(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		c, all := New(), map[netstate.Owner]compile.Claim{}
		for i := range 40 {
			first := uint16(1 + random.IntN(100))
			claim := portsOf([]string{"0.0.0.0", "192.0.2.1"}[random.IntN(2)], "tcp", first, first+uint16(random.IntN(3)*random.IntN(10)))
			o := publisher(random.IntN(i + 1))
			holder, taken := c.Holder(o, claim)
			conflict := false
			for other, have := range all {
				conflict = conflict || other != o && claim.Conflicts(have)
			}
			if taken != conflict || taken && !claim.Conflicts(all[holder]) {
				t.Fatalf("%s for %s: %s has it (%t), want %t", claim.Thing, o, holder, taken, conflict)
			}
			if !taken {
				c.Settle(o, []compile.Claim{claim}, false)
				all[o] = claim
			}
		}
	}
}

// TestManyPorts: thousands of single ports are claimed without looking at each
// other.
func TestManyPorts(t *testing.T) {
	c, begin := New(), time.Now()
	for i := range 20000 {
		claim := portsOf("0.0.0.0", "tcp", uint16(20000+i), uint16(20000+i))
		if holder, taken := c.Holder(publisher(i), claim); taken {
			t.Fatalf("%s is taken by %s", claim.Thing, holder)
		}
		c.Settle(publisher(i), []compile.Claim{claim}, false)
	}
	if d := time.Since(begin); d > 2*time.Second {
		t.Errorf("20,000 claims took %s", d)
	}
}
