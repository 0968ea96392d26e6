package rtnl

import (
	"encoding/binary"
	"time"

	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Qdisc is a queueing discipline as a netlink message describes it.
type Qdisc struct {
	Index   int32
	Handle  uint32
	Parent  uint32
	Kind    string
	options []byte
}

// ParseQdisc reads RTM_NEWQDISC and RTM_DELQDISC; it returns false for any other message.
func ParseQdisc(b []byte) (Qdisc, bool) {
	if len(b) < nl.SizeofTcMsg {
		return Qdisc{}, false
	}
	q := Qdisc{Index: int32(Uint32(b[4:])), Handle: Uint32(b[8:]), Parent: Uint32(b[12:])}
	for kind, value := range Attributes(b[nl.SizeofTcMsg:]) {
		switch kind {
		case nl.TCA_KIND:
			q.Kind = stringOf(value)
		case nl.TCA_OPTIONS:
			q.options = value
		}
	}
	return q, q.Index > 0
}

// Shaper is the qdisc as netstate describes it. It returns false for one that
// is foreign: a qdisc has no other mark than its handle.
func (q Qdisc) Shaper(netns, link string) (netstate.Shaper, bool) {
	s := netstate.Shaper{Netns: netns, Link: link}
	if q.Parent != RootQdisc || q.Handle != ShaperHandle || q.Kind != "tbf" {
		return s, false
	}
	var bytes uint64
	for kind, value := range Attributes(q.options) {
		switch {
		case kind == nl.TCA_TBF_PARMS && len(value) >= nl.SizeofTcTbfQopt:
			o := nl.DeserializeTcTbfQopt(value)
			ours := nl.TcRateSpec{Linklayer: nl.LINKLAYER_ETHERNET, Rate: o.Rate.Rate}
			if o.Rate != ours || o.Peakrate.Rate != 0 {
				// Another program has changed the size that a byte counts for: no rate compares to that.
				return s, true
			}
			bytes = max(bytes, uint64(o.Rate.Rate))
			s.Queue, s.Burst = uint64(o.Limit), uint64(o.Buffer)
		case kind == nl.TCA_TBF_RATE64 && len(value) >= 8:
			bytes = binary.NativeEndian.Uint64(value)
		}
	}
	s.Rate = bytes * 8
	s.Burst = netstate.RoundBurst(s.Rate, bytesIn(s.Burst, bytes))
	return s, true
}

// bytesIn is the number of bytes that a rate, in bytes, carries in ticks of the packet
// scheduler.
func bytesIn(ticks, rate uint64) uint64 {
	return uint64((time.Duration(ticks) * schedulerTick).Seconds() * float64(rate))
}

// ShaperOptions are the TCA_OPTIONS of a shaper.
func ShaperOptions(o netstate.Shaper) *nl.RtAttr {
	bytes := o.Rate / 8
	parameters := &nl.TcTbfQopt{
		Rate:  nl.TcRateSpec{Linklayer: nl.LINKLAYER_ETHERNET, Rate: uint32(min(bytes, 1<<32-1))},
		Limit: uint32(o.Queue),
	}
	options := nl.NewRtAttr(nl.TCA_OPTIONS, nil)
	options.AddRtAttr(nl.TCA_TBF_PARMS, parameters.Serialize())
	if bytes >= 1<<32 {
		options.AddRtAttr(nl.TCA_TBF_RATE64, nl.Uint64Attr(bytes))
	}
	// In bytes: the kernel drops packets larger than the burst, and would compute the burst
	// from at most 4 s of time.
	options.AddRtAttr(nl.TCA_TBF_BURST, nl.Uint32Attr(uint32(o.Burst)))
	return options
}

// GetQdisc asks for the qdisc at one parent of a link, or nil.
func (c *Conn) GetQdisc(index int32, parent uint32) (*Qdisc, error) {
	// Without an echo some kernels answer to the group of listeners alone, and
	// without an acknowledgement none answers for a link that was never up.
	body := &nl.TcMsg{Ifindex: index, Parent: parent}
	answers, err := c.ask(unix.RTM_GETQDISC, unix.NLM_F_ACK|unix.NLM_F_ECHO, body)
	for _, b := range answers {
		if q, ok := ParseQdisc(b); ok && err == nil {
			return &q, nil
		}
	}
	return nil, err
}
