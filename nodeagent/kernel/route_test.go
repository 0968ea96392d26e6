package kernel

import (
	"testing"

	"github.com/patchbay-dev/patchbay/nodeagent/plan"
	"github.com/patchbay-dev/patchbay/test/sandbox"
)

// TestFirstRoute shows that a route that is to be first goes before a foreign one
// of its destination, which stays and counts again afterwards, in both families.
func TestFirstRoute(t *testing.T) {
	if !sandbox.Enter(t) {
		return
	}
	k := open(t)
	_, _, inside := attachment(t, k)
	sh(t, `ip -n net1 link add first type veth peer name other && ip -n net1 link set first up && ip -n net1 link set other up
		ip -n net1 addr add 10.9.0.2/24 dev first && ip -n net1 addr add fd09::2/64 dev first nodad
		ip -n net1 route add default via 10.9.0.1 dev first && ip -n net1 route add default via fd09::1 dev first
		ip -n net1 addr add fd00::101/64 dev eth0 nodad`)
	before := sh(t, "ip -n net1 route; ip -n net1 -6 route")
	for _, c := range []struct{ family, dst, via, far string }{
		{"-4", "0.0.0.0/0", "10.68.0.1", "192.0.2.1"},
		{"-6", "::/0", "fd00::1", "2001:db8::1"},
	} {
		asks := func(want string) {
			t.Helper()
			if got := sh(t, "ip -n net1 %s route get %s | grep -o 'dev [a-z0-9]*'", c.family, c.far); got != "dev "+want {
				t.Fatalf("%s goes by %s, want %s", c.far, got, want)
			}
		}
		r := routeVia(inside, c.dst, c.via)
		asks("first")
		r.First = true
		apply(t, k, create(r))
		asks(inside.Name)
		wanted := observe(t, k, r.Key())[r.Key()]
		if !plan.Same(r, wanted) {
			t.Fatalf("observed %s, want %s", wanted, r)
		}
		if c.family == "-4" {
			sh(t, "ip -n net1 route prepend default via 10.9.0.7 dev first")
		} else {
			sh(t, "ip -n net1 route del default via fd09::1 dev first && ip -n net1 -6 route del default dev eth0 proto 147 && ip -n net1 route add default via fd00::1 dev eth0 proto 147 metric 2000 && ip -n net1 route add default via fd09::1 dev first")
		}
		asks("first")
		o := observe(t, k, r.Key())[r.Key()]
		if plan.Same(r, o) {
			t.Fatalf("another route is before it, and it is observed as %s", o)
		}
		apply(t, k, []plan.Step{{Op: plan.Update, Key: r.Key(), Old: o, New: r}})
		asks(inside.Name)
		if c.family == "-4" {
			sh(t, "ip -n net1 route del default via 10.9.0.7 dev first")
		}
		apply(t, k, remove(r))
		asks("first")
	}
	if after := sh(t, "ip -n net1 route; ip -n net1 -6 route"); after != before {
		t.Errorf("routes were\n%s\nand are\n%s", before, after)
	}
	plain := routeVia(inside, "0.0.0.0/0", "10.68.0.1")
	wantError(t, k, create(plain), ErrForeign)
}
