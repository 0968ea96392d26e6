package netstate

import "testing"

func TestShaperText(t *testing.T) {
	for want, s := range map[string]Shaper{
		"rate=100Mbit/s burst=245KiB queue=856KiB":       NewShaper(End{Name: "veth1"}, 1500, 100_000_000, 250_000),
		"rate=1500kbit/s burst=63KiB queue=78KiB":        NewShaper(End{Name: "veth1"}, 1500, 1_500_000, 64_000),
		"rate=8008bit/s burst=63KiB queue=78KiB":         NewShaper(End{Name: "veth1"}, 1500, 8_009, 64_000),
		"rate=8kbit/s burst=65KiB queue=706KiB":          NewShaper(End{Name: "veth1"}, 65535, 8_000, 4_000),
		"rate=1Gbit/s burst=490KiB queue=6594KiB":        NewShaper(End{Name: "veth1"}, 1500, 1_000_000_000, 4_000),
		"rate=8kbit/s burst=235KiB queue=250KiB":         NewShaper(End{Name: "veth1"}, 1500, 8_000, 2_000_000_000),
		"rate=1Tbit/s burst=2441408KiB queue=4194303KiB": NewShaper(End{Name: "veth1"}, 1500, 1_000_000_000_000, 2_500_000_000),
	} {
		if got := s.String(); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

// FuzzNewShaper holds every shaper to what tbf can do: a burst that a frame
// fits into, a queue that the burst fits into, both in 32 bits, and a burst
// that is the same when it is read back a little smaller.
func FuzzNewShaper(f *testing.F) {
	f.Add(uint64(8_000), uint64(4_000), 1500)
	f.Add(uint64(1_000_000_000_000), uint64(2_000_000_000), 65535)
	f.Fuzz(func(t *testing.T, rate, burst uint64, mtu int) {
		if rate < 8_000 || rate > 1_000_000_000_000 || burst < 4_000 || burst > 2_500_000_000 || mtu < 68 || mtu > 65535 {
			return
		}
		s := NewShaper(End{Name: "veth1"}, mtu, rate, burst)
		if s.Burst < uint64(mtu)+14 || s.Burst > s.Queue || s.Queue >= 1<<32 || s.Rate%8 != 0 || rate-s.Rate >= 8 {
			t.Errorf("rate %d burst %d mtu %d: %+v", rate, burst, mtu, s)
		}
		// 65 ns: the tick, and what the kernel's division leaves.
		if lost := s.Rate/8*65/1_000_000_000 + 1; RoundBurst(s.Rate, s.Burst-lost) != s.Burst {
			t.Errorf("%s does not come back", s)
		}
	})
}
