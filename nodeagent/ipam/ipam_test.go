package ipam

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
)

func pool(t *testing.T, subnet string, gateways []string, exclude ...string) *Pool {
	t.Helper()
	var ranges []Range
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

// drain allocates until the pool is empty.
func drain(t *testing.T, p *Pool) []string {
	t.Helper()
	var got []string
	for i := 0; ; i++ {
		a, err := p.Allocate(fmt.Sprintf("holder%d", i))
		if errors.Is(err, ErrExhausted) {
			return got
		}
		if err != nil || i > 1000 {
			t.Fatalf("allocate: %v after %d", err, i)
		}
		got = append(got, a.String())
	}
}

func TestAllocateNeverGivesReserved(t *testing.T) {
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
	p := pool(t, "10.0.0.0/29", nil)
	first, _ := p.Allocate("a")
	p.Release("a")
	for range 5 {
		next, err := p.Allocate("b")
		if err != nil || next == first {
			t.Fatalf("got %s, %v: the freed %s is to rest until the others were used", next, err, first)
		}
	}
	if again, err := p.Allocate("b"); err != nil || again != first {
		t.Fatalf("got %s, %v: want %s, the only one left", again, err, first)
	}
}

func TestExhaustedSaysWho(t *testing.T) {
	p := pool(t, "10.0.0.0/30", []string{"10.0.0.1"})
	if !p.Reserve(netip.MustParseAddr("10.0.0.2"), "nsa:lab/net1") {
		t.Fatal("reserve")
	}
	_, err := p.Allocate("nsa:lab/net2")
	if want := "no free address in 10.0.0.0/30: 1 in use by nsa:lab/net1"; err == nil || err.Error() != want {
		t.Fatalf("got %v, want %s", err, want)
	}
}

// TestNoAddressTwice drives random sequences of allocations, reservations,
// releases and restarts against a plain model.
func TestNoAddressTwice(t *testing.T) {
	for seed := range uint64(50) {
		r := rand.New(rand.NewPCG(seed, 0))
		p := pool(t, "10.0.0.0/27", []string{"10.0.0.1"}, "10.0.0.8-10.0.0.11")
		model := map[netip.Addr]string{}
		for range 400 {
			holder := fmt.Sprint("h", r.IntN(40))
			switch r.IntN(4) {
			case 0, 1:
				a, err := p.Allocate(holder)
				if err != nil && len(model) < 25 {
					t.Fatalf("seed %d: exhausted with %d of 25 in use", seed, len(model))
				}
				if err == nil && model[a] != "" {
					t.Fatalf("seed %d: %s given to %s and %s", seed, a, model[a], holder)
				}
				if err == nil {
					model[a] = holder
				}
			case 2:
				p.Release(holder)
				for a, h := range model {
					if h == holder {
						delete(model, a)
					}
				}
			case 3:
				next := pool(t, "10.0.0.0/27", []string{"10.0.0.1"}, "10.0.0.8-10.0.0.11")
				next.Inherit(p)
				p = next
			}
			for a, h := range model {
				if p.Holder(a) != h {
					t.Fatalf("seed %d: %s is lost to %s", seed, a, h)
				}
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
		if err == nil && (!r.Contains(r.First) || !r.Contains(r.Last)) {
			t.Fatalf("%q: %v does not contain its ends", s, r)
		}
	})
}
