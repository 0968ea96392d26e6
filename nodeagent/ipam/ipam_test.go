package ipam

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"testing"

	"go4.org/netipx"
)

func pool(t *testing.T, subnet string, gateways []string, exclude ...string) *Pool {
	t.Helper()
	var ranges []netipx.IPRange
	for _, e := range exclude {
		r, err := ParseRange(e)
		if err != nil {
			t.Fatal(err)
		}
		ranges = append(ranges, r)
	}
	var gw []netip.Addr
	for _, g := range gateways {
		gw = append(gw, netip.MustParseAddr(g))
	}
	return NewPool(netip.MustParsePrefix(subnet), ranges, gw...)
}

// used are addresses that are taken.
type used map[netip.Addr]bool

func (u used) next(p *Pool) (netip.Addr, error) {
	a, err := p.Next(func(a netip.Addr) bool { return u[a] })
	if err == nil {
		u[a] = true
	}
	return a, err
}

// drain takes addresses until there are none.
func drain(t *testing.T, p *Pool) []string {
	t.Helper()
	var got []string
	for u := (used{}); ; {
		a, err := u.next(p)
		if errors.Is(err, ErrExhausted) {
			return got
		}
		if err != nil || len(got) > 1000 {
			t.Fatalf("next: %v after %d", err, len(got))
		}
		got = append(got, a.String())
	}
}

func TestNeverChoosesReserved(t *testing.T) {
	for _, test := range []struct {
		subnet   string
		gateways []string
		exclude  []string
		want     string
	}{
		{"10.0.0.0/29", []string{"10.0.0.1"}, nil, "[10.0.0.2 10.0.0.3 10.0.0.4 10.0.0.5 10.0.0.6]"},
		{"10.0.0.0/29", []string{"10.0.0.6"}, []string{"10.0.0.0/30"}, "[10.0.0.4 10.0.0.5]"},
		{"10.0.0.0/29", nil, []string{"10.0.0.2-10.0.0.4", "10.0.0.6"}, "[10.0.0.1 10.0.0.5]"},
		{"10.0.0.0/29", nil, []string{"10.0.0.0/16"}, "[]"},
		{"10.0.0.0/30", []string{"10.0.0.1"}, []string{"fd00::/64"}, "[10.0.0.2]"},
		{"fd00::/125", []string{"fd00::1"}, []string{"fd00::2-fd00::4"}, "[fd00::5 fd00::6 fd00::7]"},
		{"255.255.255.248/29", nil, nil, "[255.255.255.249 255.255.255.250 255.255.255.251 255.255.255.252 255.255.255.253 255.255.255.254]"},
	} {
		if got := fmt.Sprint(drain(t, pool(t, test.subnet, test.gateways, test.exclude...))); got != test.want {
			t.Errorf("%s without %v and %v: got %s, want %s", test.subnet, test.gateways, test.exclude, got, test.want)
		}
	}
}

func TestFreedAddressRests(t *testing.T) {
	p, u := pool(t, "10.0.0.0/29", nil), used{}
	first, _ := u.next(p)
	delete(u, first)
	for range 5 {
		next, err := u.next(p)
		if err != nil || next == first {
			t.Fatalf("got %s, %v: the freed %s is to rest until the others were used", next, err, first)
		}
	}
	if again, err := u.next(p); err != nil || again != first {
		t.Fatalf("got %s, %v: want %s, the only one left", again, err, first)
	}
}

// TestContinue shows that a pool that is made anew goes on where the old one was,
// and starts over where that is not its own.
func TestContinue(t *testing.T) {
	old := pool(t, "10.0.0.0/24", nil)
	last, _ := used{}.next(old)
	for subnet, want := range map[string]string{"10.0.0.0/24": last.Next().String(), "10.1.0.0/24": "10.1.0.1"} {
		p := pool(t, subnet, nil)
		p.Continue(old)
		if got, err := (used{}).next(p); err != nil || got.String() != want {
			t.Errorf("%s: got %s, %v, want %s", subnet, got, err, want)
		}
	}
}

// TestAllAreFound drives random sequences of taking and freeing: whatever is
// free is found, and nothing that is taken.
func TestAllAreFound(t *testing.T) {
	for seed := range uint64(50) {
		r := rand.New(rand.NewPCG(seed, 0))
		p, u := pool(t, "10.0.0.0/27", []string{"10.0.0.1"}, "10.0.0.8-10.0.0.11"), used{}
		for range 400 {
			if r.IntN(2) == 0 {
				maps.DeleteFunc(u, func(netip.Addr, bool) bool { return r.IntN(8) == 0 })
			}
			before := len(u)
			a, err := u.next(p)
			switch {
			case err == nil && (len(u) == before || !p.Usable(a)):
				t.Fatalf("seed %d: chose %s, which is taken or not to be had", seed, a)
			case (err != nil) != (before == 25):
				t.Fatalf("seed %d: %d of 25 taken, and %v", seed, before, err)
			}
		}
	}
}

func FuzzParseRange(f *testing.F) {
	for _, s := range []string{"10.0.0.0/8", "10.0.0.1-10.0.0.9", "fd00::1", "10.0.0.9-10.0.0.1", "-", "1.2.3.4-::1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		r, err := ParseRange(s)
		if err == nil && r.IsValid() && (!r.Contains(r.From()) || !r.Contains(r.To())) {
			t.Fatalf("%q: %v does not contain its ends", s, r)
		}
	})
}
