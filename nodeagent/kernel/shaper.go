package kernel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
	"github.com/patchbay-dev/patchbay/nodeagent/plan"
)

// qdisc is a queueing discipline as a netlink message describes it.
type qdisc struct {
	index   int32
	handle  uint32
	parent  uint32
	kind    string
	options []byte
}

// parseQdisc reads RTM_NEWQDISC and RTM_DELQDISC; it returns false for what is
// none.
func parseQdisc(b []byte) (qdisc, bool) {
	if len(b) < nl.SizeofTcMsg {
		return qdisc{}, false
	}
	q := qdisc{index: int32(uint32At(b[4:])), handle: uint32At(b[8:]), parent: uint32At(b[12:])}
	for kind, value := range attributes(b[nl.SizeofTcMsg:]) {
		switch kind {
		case nl.TCA_KIND:
			q.kind = stringAt(value)
		case nl.TCA_OPTIONS:
			q.options = value
		}
	}
	return q, q.index > 0
}

// shaper is the qdisc as netstate describes it. It returns false for one that
// is not ours: a qdisc has no other mark than its handle.
func (q qdisc) shaper(netns, link string) (netstate.Shaper, bool) {
	s := netstate.Shaper{Netns: netns, Link: link}
	if q.parent != rootQdisc || q.handle != shaperHandle || q.kind != "tbf" {
		return s, false
	}
	var bytes uint64
	for kind, value := range attributes(q.options) {
		switch {
		case kind == nl.TCA_TBF_PARMS && len(value) >= nl.SizeofTcTbfQopt:
			o := nl.DeserializeTcTbfQopt(value)
			ours := nl.TcRateSpec{Linklayer: nl.LINKLAYER_ETHERNET, Rate: o.Rate.Rate}
			if o.Rate != ours || o.Peakrate.Rate != 0 {
				// Somebody has changed what a byte counts; no rate compares to that.
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

// bytesIn is what a rate in bytes carries in ticks of the packet scheduler.
func bytesIn(ticks, rate uint64) uint64 {
	return uint64((time.Duration(ticks) * schedulerTick).Seconds() * float64(rate))
}

func (s *session) observeShaper(key netstate.Key) (netstate.Object, error) {
	p, l, err := s.link(netstate.End{Netns: key.Netns, Name: key.Link})
	if err != nil {
		return nil, err
	}
	q, err := p.qdiscAt(l.index, rootQdisc)
	if err != nil || q == nil {
		return nil, err
	}
	if o, ours := q.shaper(key.Netns, key.Link); ours {
		return o, nil
	}
	return nil, nil
}

// qdiscAt asks for the qdisc at one place of a link; nil where there is none.
func (p *place) qdiscAt(index int32, parent uint32) (*qdisc, error) {
	c, err := p.conn()
	if err != nil {
		return nil, err
	}
	// Without an echo some kernels answer to the group of listeners alone, and
	// without an acknowledgement none answers for a link that was never up.
	body := &nl.TcMsg{Ifindex: index, Parent: parent}
	answers, err := c.request(unix.RTM_GETQDISC, unix.NLM_F_ACK|unix.NLM_F_ECHO, body, nil).Execute(unix.NETLINK_ROUTE, 0)
	switch {
	case errors.Is(err, unix.ENODEV):
		return nil, ErrLinkNotFound
	case errors.Is(err, unix.ENOENT):
		return nil, nil
	case err != nil:
		return nil, err
	}
	for _, b := range answers {
		if q, ok := parseQdisc(b); ok {
			return &q, nil
		}
	}
	return nil, nil
}

// qdiscs lists those of all links, at each place of ours.
func (p *place) qdiscs() ([]qdisc, error) {
	c, err := p.conn()
	if err != nil {
		return nil, err
	}
	answers, err := c.dump(unix.RTM_GETQDISC, &nl.TcMsg{})
	if err != nil {
		return nil, err
	}
	var list []qdisc
	for _, b := range answers {
		if q, ok := parseQdisc(b); ok && (q.parent == rootQdisc || q.parent == ingressQdisc) {
			list = append(list, q)
		}
	}
	return list, nil
}

func (s *session) applyShaper(op plan.Op, o netstate.Shaper) error {
	end := netstate.End{Netns: o.Netns, Name: o.Link}
	err := putOrRemove(op, func() error { return s.shape(end, o) }, func() error { return s.unshape(end) })
	if err != nil {
		return fmt.Errorf("%s bandwidth limit of %s: %w", op, end, err)
	}
	return nil
}

// shape replaces whatever is at the root of a link of ours. One that is ours is
// changed in place, and what is queued in it stays.
func (s *session) shape(end netstate.End, o netstate.Shaper) error {
	p, l, err := s.ourLink(end)
	if err != nil {
		return err
	}
	c, err := p.conn()
	if err != nil {
		return err
	}
	body := &nl.TcMsg{Ifindex: l.index, Handle: shaperHandle, Parent: rootQdisc}
	return c.change(unix.RTM_NEWQDISC, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, body, text(nl.TCA_KIND, "tbf"), shaperOptions(o))
}

func shaperOptions(o netstate.Shaper) *nl.RtAttr {
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
	// In bytes, since what is larger than the burst is dropped, and the kernel
	// would compute that from at most 4 s of time.
	options.AddRtAttr(nl.TCA_TBF_BURST, nl.Uint32Attr(uint32(o.Burst)))
	return options
}

// unshape leaves a foreign qdisc alone.
func (s *session) unshape(end netstate.End) error {
	p, l, err := s.ourLink(end)
	if missing(err) {
		return nil
	}
	if err != nil {
		return err
	}
	c, err := p.conn()
	if err != nil {
		return err
	}
	body := &nl.TcMsg{Ifindex: l.index, Handle: shaperHandle, Parent: rootQdisc}
	err = c.change(unix.RTM_DELQDISC, 0, body)
	// EINVAL: the one that is there has another handle.
	if gone(err) || errors.Is(err, unix.EINVAL) {
		return nil
	}
	return err
}
