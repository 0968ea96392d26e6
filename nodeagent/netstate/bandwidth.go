package netstate

import "fmt"

// Shaper limits the packets that leave an interface: a token bucket (tbf) as its root
// qdisc. Make it with NewShaper, which gives it the form that is read back.
type Shaper struct {
	Netns string
	Link  string
	// Rate in bits per second, whole bytes.
	Rate uint64
	// Burst is how many bytes may leave at once, a multiple of BurstUnit.
	Burst uint64
	// Queue is how many bytes may wait, the bytes of the burst included; further packets
	// are dropped.
	Queue uint64
}

// The parameters of a shaper beside the rate; times are in milliseconds.
const (
	// frameOverhead is the size of a frame's headers beside its MTU: Ethernet with two
	// VLAN tags. tbf drops every frame that is larger than its burst.
	frameOverhead = 14 + 2*4
	// tick is the timer's at CONFIG_HZ=250, as distributions have it. Without
	// high-resolution timers a bucket is filled once a tick, and must hold the bytes
	// of a whole tick, or the rate is never reached.
	tick = 4
	// longestBurst: the kernel tells of a burst by the time it takes, in units of
	// 64 ns and 32 bits of them, which are 274 s.
	longestBurst = 240_000
	// queued is how long a packet waits in a full queue, beside the burst: as long as
	// TCP needs to fill the rate over a round trip of as much, and so short that a call
	// is not disturbed.
	queued = 50
	// queuedFrames is the least number of frames that may wait: with five segments in
	// either direction TCP does not recover from a loss without a timeout.
	queuedFrames = 10
	// maxBytes is the largest number in the kernel's 32 bits.
	maxBytes = 1<<32 - 1024
)

// NewShaper is the shaper of a link with this MTU for a rate in bits and a burst
// in bytes. The burst is at least one frame with the bytes of the rate in a tick of the
// timer, at most the bytes in 240 s, and rounded up to BurstUnit. The queue is the burst
// with the bytes in 50 ms, or with ten frames if those are more.
func NewShaper(on End, mtu int, rate, burst uint64) Shaper {
	rate -= rate % 8
	frame := uint64(mtu + frameOverhead)
	burst = max(min(burst, carried(rate, longestBurst)), frame+carried(rate, tick))
	burst = min(RoundBurst(rate, burst), maxBytes/BurstUnit(rate)*BurstUnit(rate))
	queue := roundUp(burst+max(carried(rate, queued), queuedFrames*frame), 1024)
	return Shaper{Netns: on.Netns, Link: on.Name, Rate: rate, Burst: burst, Queue: min(queue, maxBytes)}
}

// carried is how many bytes a rate in bits per second carries.
func carried(rate, milliseconds uint64) uint64 { return rate / 8 * milliseconds / 1000 }

// BurstUnit is the size in which bursts are counted at a rate. The kernel keeps
// the time that a burst takes, in units of 64 ns, so that a burst in bytes comes
// back a little smaller; this is twice that at least, and 1 KiB.
func BurstUnit(rate uint64) uint64 {
	const nanoseconds = 1_000_000_000
	unit := uint64(1024)
	for unit*8*nanoseconds < rate*2*64 {
		unit *= 2
	}
	return unit
}

// RoundBurst rounds up to BurstUnit: a wanted burst and the observed one become the same.
func RoundBurst(rate, burst uint64) uint64 { return roundUp(burst, BurstUnit(rate)) }

func roundUp(n, unit uint64) uint64 { return (n + unit - 1) / unit * unit }

func (s Shaper) Key() Key { return Key{Kind: KindShaper, Netns: s.Netns, Link: s.Link} }

func (s Shaper) String() string {
	return fmt.Sprintf("rate=%s burst=%s queue=%s", inUnits(s.Rate, 1000, "", "k", "M", "G", "T")+"bit/s",
		inUnits(s.Burst, 1024, "B", "KiB", "MiB", "GiB"), inUnits(s.Queue, 1024, "B", "KiB", "MiB", "GiB"))
}

// inUnits is a number in the largest unit that leaves no fraction.
func inUnits(n, step uint64, units ...string) string {
	i := 0
	for ; n > 0 && n%step == 0 && i+1 < len(units); i++ {
		n /= step
	}
	return fmt.Sprint(n) + units[i]
}

// Redirect leads all that arrives on an interface of the host through another,
// an IFB, before anything else sees it.
type Redirect struct {
	Link string
	// To is the IFB; observed as "?" where the way leads elsewhere or nowhere.
	To string
}

func (r Redirect) Key() Key       { return Key{Kind: KindRedirect, Link: r.Link} }
func (r Redirect) String() string { return "through " + r.To }
