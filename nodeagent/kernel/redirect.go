package kernel

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
	"github.com/patchbay-dev/patchbay/nodeagent/plan"
)

// filter is a classifier's filter as a netlink message describes it.
type filter struct {
	index    int32
	parent   uint32
	priority uint16
	protocol uint16 // in network byte order
	kind     string
	action   *mirred // the first and only one; nil where it is another
	all      bool    // it matches every packet and ends there
}

// mirred is an action that sends packets elsewhere, or another, of which the verdict
// alone is read.
type mirred struct {
	kind     string
	cookie   string
	verdict  uint32
	redirect bool
	to       int32
}

// parseFilter reads RTM_NEWTFILTER and RTM_DELTFILTER; it returns false for
// what is none.
func parseFilter(b []byte) (filter, bool) {
	if len(b) < nl.SizeofTcMsg {
		return filter{}, false
	}
	info := uint32At(b[16:])
	f := filter{index: int32(uint32At(b[4:])), parent: uint32At(b[12:]), priority: uint16(info >> 16), protocol: uint16(info)}
	for kind, value := range attributes(b[nl.SizeofTcMsg:]) {
		switch kind {
		case nl.TCA_KIND:
			f.kind = stringAt(value)
		case nl.TCA_OPTIONS:
			f.parseOptions(value)
		}
	}
	return f, f.index > 0
}

func (f *filter) parseOptions(b []byte) {
	if f.kind == "matchall" {
		f.all = true
		for kind, value := range attributes(b) {
			if kind == matchallAction {
				f.parseActions(value)
			}
		}
	}
	if f.kind != "u32" {
		return
	}
	for kind, value := range attributes(b) {
		switch kind {
		case nl.TCA_U32_SEL:
			f.all = bytes.Equal(value, everything().Serialize())
		case nl.TCA_U32_ACT:
			f.parseActions(value)
		}
	}
}

func (f *filter) parseActions(b []byte) {
	for _, value := range attributes(b) {
		if f.action != nil {
			f.action = nil
			return
		}
		f.action = parseAction(value)
	}
}

func parseAction(b []byte) *mirred {
	m := &mirred{}
	for kind, value := range attributes(b) {
		switch kind {
		case nl.TCA_ACT_KIND:
			m.kind = stringAt(value)
		case nl.TCA_ACT_COOKIE:
			m.cookie = string(value)
		case nl.TCA_ACT_OPTIONS:
			m.parseOptions(value)
		}
	}
	return m
}

func (m *mirred) parseOptions(b []byte) {
	for kind, value := range attributes(b) {
		// TCA_GACT_PARMS has the same number, and a verdict in the same place.
		if kind == nl.TCA_MIRRED_PARMS && len(value) >= 12 {
			m.verdict = uint32At(value[8:])
		}
		if kind == nl.TCA_MIRRED_PARMS && m.kind == "mirred" && len(value) >= mirredSize {
			m.redirect = uint32At(value[8:]) == actionStolen && uint32At(value[20:]) == egressRedirect
			m.to = int32(uint32At(value[24:]))
		}
	}
}

// ours reports whether the filter bears our mark, the cookie of its action.
func (f filter) ours() bool {
	return f.action != nil && f.action.kind == "mirred" && f.action.cookie == redirectCookie
}

// takesAll reports whether the filter lets no packet go on: it drops each, or sends
// it elsewhere.
func (f filter) takesAll() bool {
	return f.all && f.action != nil && (f.action.verdict == actionShot || f.action.verdict == actionStolen)
}

// works reports whether it is as we make it.
func (f filter) works() bool {
	return f.ours() && f.all && f.action.redirect && f.protocol == everyProtocol && f.priority == redirectPriority
}

func (s *session) observeRedirect(key netstate.Key) (netstate.Object, error) {
	p, l, err := s.link(netstate.End{Name: key.Link})
	if err != nil {
		return nil, err
	}
	return p.redirectOf(l)
}

// redirectOf is nil for a link that has no redirect of ours. A qdisc without any
// filter is what a process leaves that dies between the two.
func (p *place) redirectOf(l *link) (netstate.Object, error) {
	filters, err := p.filtersOn(l, ingressFilters)
	if err != nil {
		return nil, err
	}
	for _, f := range filters {
		if !f.ours() {
			continue
		}
		r := netstate.Redirect{Link: l.name, To: unknown}
		if to, err := p.linkAt(f.action.to); f.works() && err == nil {
			r.To = to.name
		}
		return r, nil
	}
	if empty, err := p.emptyIngress(l); err != nil || !empty {
		return nil, err
	}
	return netstate.Redirect{Link: l.name, To: unknown}, nil
}

func (p *place) emptyIngress(l *link) (bool, error) {
	q, err := p.qdiscAt(l.index, ingressQdisc)
	if err != nil || q == nil || q.kind != "clsact" {
		return false, err
	}
	for _, parent := range []uint32{ingressFilters, egressFilters} {
		if filters, err := p.filters(l.index, parent); err != nil || len(filters) > 0 {
			return false, err
		}
	}
	return true, nil
}

// filters lists those of one link in one direction.
func (p *place) filters(index int32, parent uint32) ([]filter, error) {
	c, err := p.conn()
	if err != nil {
		return nil, err
	}
	answers, err := c.dump(unix.RTM_GETTFILTER, &nl.TcMsg{Ifindex: index, Parent: parent})
	switch {
	case errors.Is(err, unix.ENODEV):
		return nil, ErrLinkNotFound
	case gone(err), errors.Is(err, unix.EINVAL):
		// Some kernels refuse to list what is on no qdisc.
		return nil, nil
	case err != nil:
		return nil, err
	}
	var list []filter
	for _, b := range answers {
		if f, ok := parseFilter(b); ok && f.index == index && f.parent == parent {
			list = append(list, f)
		}
	}
	return list, nil
}

func (s *session) applyRedirect(op plan.Op, r netstate.Redirect) error {
	err := putOrRemove(op, func() error { return s.redirect(r) }, func() error { return s.straighten(r) })
	if err != nil {
		return fmt.Errorf("%s redirect of %s through %s: %w", op, r.Link, r.To, err)
	}
	return nil
}

// redirect makes the filter that comes first, in the place of whatever had it.
func (s *session) redirect(r netstate.Redirect) error {
	p, l, err := s.ourLink(netstate.End{Name: r.Link})
	if err != nil {
		return err
	}
	_, to, err := s.ourLink(netstate.End{Name: r.To})
	if err != nil {
		return fmt.Errorf("find %s: %w", r.To, err)
	}
	c, err := p.conn()
	if err != nil {
		return err
	}
	err = c.change(unix.RTM_NEWQDISC, unix.NLM_F_CREATE|unix.NLM_F_EXCL,
		&nl.TcMsg{Ifindex: l.index, Handle: ingressQdisc & 0xffff0000, Parent: ingressQdisc}, text(nl.TCA_KIND, "clsact"))
	if errors.Is(err, unix.EEXIST) {
		// Somebody else's, or of a process that died here, or drift.
		err = p.removeFilter(l)
	}
	if err != nil {
		return err
	}
	body := &nl.TcMsg{Ifindex: l.index, Parent: ingressFilters, Info: uint32(redirectPriority)<<16 | uint32(everyProtocol)}
	return c.change(unix.RTM_NEWTFILTER, unix.NLM_F_CREATE|unix.NLM_F_EXCL, body, text(nl.TCA_KIND, "u32"), redirectOptions(to.index))
}

// redirectOptions match every packet and send it to the link.
func redirectOptions(to int32) *nl.RtAttr {
	options := nl.NewRtAttr(nl.TCA_OPTIONS, nil)
	options.AddRtAttr(nl.TCA_U32_SEL, everything().Serialize())
	action := options.AddRtAttr(nl.TCA_U32_ACT, nil).AddRtAttr(1, nil)
	action.AddRtAttr(nl.TCA_ACT_KIND, nl.ZeroTerminated("mirred"))
	parameters := make([]byte, mirredSize)
	binary.NativeEndian.PutUint32(parameters[8:], actionStolen)
	binary.NativeEndian.PutUint32(parameters[20:], egressRedirect)
	binary.NativeEndian.PutUint32(parameters[24:], uint32(to))
	action.AddRtAttr(nl.TCA_ACT_OPTIONS, nil).AddRtAttr(nl.TCA_MIRRED_PARMS, parameters)
	action.AddRtAttr(nl.TCA_ACT_COOKIE, []byte(redirectCookie))
	return options
}

// everything selects all packets: matchall, without its kernel module.
func everything() *nl.TcU32Sel {
	return &nl.TcU32Sel{Flags: nl.TC_U32_TERMINAL, Nkeys: 1, Keys: []nl.TcU32Key{{}}}
}

// straighten removes our filter, and the qdisc unless others have filters there.
func (s *session) straighten(r netstate.Redirect) error {
	p, l, err := s.ourLink(netstate.End{Name: r.Link})
	if missing(err) {
		return nil
	}
	if err != nil {
		return err
	}
	shared, err := p.sharedFilters(l)
	if err != nil || shared {
		return errors.Join(err, p.removeFilter(l))
	}
	c, err := p.conn()
	if err != nil {
		return err
	}
	err = c.change(unix.RTM_DELQDISC, 0, &nl.TcMsg{Ifindex: l.index, Parent: ingressQdisc})
	if gone(err) || errors.Is(err, unix.EINVAL) {
		return nil
	}
	return err
}

// sharedFilters reports whether others have filters on the link.
func (p *place) sharedFilters(l *link) (bool, error) {
	for _, parent := range []uint32{ingressFilters, egressFilters} {
		filters, err := p.filters(l.index, parent)
		if err != nil {
			return false, err
		}
		for _, f := range filters {
			if parent == egressFilters || f.priority != redirectPriority {
				return true, nil
			}
		}
	}
	return false, nil
}

// removeFilter removes what has our filter's priority.
func (p *place) removeFilter(l *link) error {
	c, err := p.conn()
	if err != nil {
		return err
	}
	err = c.change(unix.RTM_DELTFILTER, 0, &nl.TcMsg{Ifindex: l.index, Parent: ingressFilters, Info: uint32(redirectPriority) << 16})
	// EINVAL: there is no such qdisc, or no filter of that priority.
	if gone(err) || errors.Is(err, unix.EINVAL) {
		return nil
	}
	return err
}
