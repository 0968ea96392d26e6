package kernel

import (
	"fmt"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
	"github.com/patchbay-dev/patchbay/nodeagent/plan"
)

func (s *session) observePort(key netstate.Key) (netstate.Object, error) {
	p, l, err := s.link(netstate.End{Name: key.Link})
	if err != nil || l.master == 0 {
		return nil, err
	}
	master, err := p.linkAt(l.master)
	if err != nil {
		return nil, err
	}
	return l.port(master), nil
}

// port is the link as a port of a bridge of ours.
func (l *link) port(master *link) netstate.Port {
	attributes, _ := l.forwards(master, l.attributes)
	return netstate.Port{Link: l.name, Master: master.name, Up: l.up(), Attributes: attributes}
}

func (s *session) applyPort(op plan.Op, port netstate.Port) error {
	err := putOrRemove(op, func() error { return s.join(port) }, func() error { return s.release(port) })
	if err != nil {
		return fmt.Errorf("%s port %s of %s: %w", op, port.Link, port.Master, err)
	}
	return nil
}

// join makes a foreign interface a port. Its addresses and routes stay as they
// are, which going down would not let them.
func (s *session) join(port netstate.Port) error {
	p, l, err := s.link(netstate.End{Name: port.Link})
	if err != nil {
		return err
	}
	bridge, err := p.link(port.Master)
	if err != nil {
		return fmt.Errorf("find bridge %s: %w", port.Master, err)
	}
	body := nl.NewIfInfomsg(unix.AF_UNSPEC)
	if !l.up() {
		body.Flags, body.Change = unix.IFF_UP, unix.IFF_UP
	}
	var attrs []*nl.RtAttr
	if l.master != bridge.index {
		if err := s.free(p, l); err != nil {
			return err
		}
		attrs = append(attrs, u32Attr(unix.IFLA_MASTER, uint32(bridge.index)))
	}
	if attrs != nil || body.Change != 0 {
		return p.setLink(l, unix.RTM_SETLINK, body, attrs...)
	}
	if changed := port.Attributes.Unlike(l.port(bridge).Attributes); changed != (netstate.Attributes{}) {
		return p.changeAttributes(l, changed)
	}
	return nil
}

// free refuses an interface that is a port of somebody else's.
func (s *session) free(p *place, l *link) error {
	if l.master == 0 {
		return nil
	}
	master, err := p.linkAt(l.master)
	if missing(err) {
		return nil
	}
	if err != nil {
		return err
	}
	if !s.k.ours(master) {
		return fmt.Errorf("it is a port of %s: %w", master.name, ErrForeign)
	}
	return nil
}

// release takes the interface from the bridge that we joined it to, and from
// no other.
func (s *session) release(port netstate.Port) error {
	p, l, err := s.link(netstate.End{Name: port.Link})
	if missing(err) {
		return nil
	}
	if err != nil || l.master == 0 {
		return err
	}
	master, err := p.linkAt(l.master)
	if err != nil && !missing(err) {
		return err
	}
	if err != nil || master.name != port.Master {
		return nil
	}
	err = p.setLink(l, unix.RTM_SETLINK, nl.NewIfInfomsg(unix.AF_UNSPEC), u32Attr(unix.IFLA_MASTER, 0))
	if gone(err) {
		return nil
	}
	return err
}

func (s *session) observeHairpin(key netstate.Key) (netstate.Object, error) {
	_, l, err := s.link(netstate.End{Name: key.Link})
	if err != nil || !l.hairpin {
		return nil, err
	}
	return netstate.Hairpin{Link: key.Link}, nil
}

func (s *session) applyHairpin(op plan.Op, h netstate.Hairpin) error {
	err := s.setHairpin(h.Link, op != plan.Delete)
	if op == plan.Delete && missing(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("%s hairpin mode of %s: %w", op, h.Link, err)
	}
	return nil
}

func (s *session) setHairpin(name string, on bool) error {
	p, l, err := s.ourLink(netstate.End{Name: name})
	if err != nil || l.hairpin == on {
		return err
	}
	return p.setLink(l, unix.RTM_NEWLINK, nl.NewIfInfomsg(unix.AF_UNSPEC), portFlag(nl.IFLA_BRPORT_MODE, on))
}
