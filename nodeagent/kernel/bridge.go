package kernel

import (
	"cmp"
	"errors"
	"fmt"

	"github.com/patchbay-dev/patchbay/nodeagent/kernel/rtnl"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
	"github.com/patchbay-dev/patchbay/nodeagent/plan"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// changeAttributes gives a link the attributes.
func (ns *namespace) changeAttributes(l *rtnl.Link, s netstate.Attributes) error {
	if l.Loopback() {
		return ns.changeLoopback(l, s)
	}
	if stp, ok := s.Get(netstate.STP); ok {
		// Under a spanning tree the kernel refuses the forward delay that we want
		// (ERANGE), and so the tree ends first.
		if err := ns.setLink(l, unix.RTM_NEWLINK, nl.NewIfInfomsg(unix.AF_UNSPEC), rtnl.BridgeInfo(netstate.Attributes{}.With(netstate.STP, stp))); err != nil {
			return err
		}
	}
	if _, ok := s.Get(netstate.OwnMAC); ok {
		if err := ns.learnItself(l); err != nil {
			return err
		}
	}
	if _, ok := s.Get(netstate.LinkLocal); ok {
		if err := ns.addLinkLocal(l); err != nil {
			return err
		}
	}
	body := rtnl.FlagsOf(s)
	var attrs []*nl.RtAttr
	if info := cmp.Or(rtnl.BridgeInfo(s), rtnl.PortInfo(s)); info != nil {
		attrs = append(attrs, info)
	}
	if attrs == nil && body.Change == 0 {
		return nil
	}
	err := ns.setLink(l, unix.RTM_NEWLINK, body, attrs...)
	if _, arp := s.Get(netstate.ARP); arp && err == nil {
		// IPv6 neighbours that were found without ARP stay as they are (NUD_NOARP)
		// until the MAC address is set, be it to the same.
		err = ns.setLink(l, unix.RTM_SETLINK, nl.NewIfInfomsg(unix.AF_UNSPEC), nl.NewRtAttr(unix.IFLA_ADDRESS, l.MAC[:]))
	}
	// The port lost its carrier meanwhile, and forwards when it has one again.
	if _, state := s.Get(netstate.PortState); state && errors.Is(err, unix.ENETDOWN) {
		return nil
	}
	return err
}

func (s *session) observePort(key netstate.Key) (netstate.Object, error) {
	ns, l, err := s.link(netstate.End{Name: key.Link})
	if err != nil || l.Master == 0 {
		return nil, err
	}
	master, err := ns.linkAt(l.Master)
	if err != nil {
		return nil, err
	}
	return l.Port(master), nil
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
	ns, l, err := s.link(netstate.End{Name: port.Link})
	if err != nil {
		return err
	}
	bridge, err := ns.link(port.Master)
	if err != nil {
		return fmt.Errorf("find bridge %s: %w", port.Master, err)
	}
	body := nl.NewIfInfomsg(unix.AF_UNSPEC)
	if !l.Up() {
		body.Flags, body.Change = unix.IFF_UP, unix.IFF_UP
	}
	var attrs []*nl.RtAttr
	if l.Master != bridge.Index {
		if err := s.free(ns, l); err != nil {
			return err
		}
		attrs = append(attrs, rtnl.U32(unix.IFLA_MASTER, uint32(bridge.Index)))
	}
	if attrs != nil || body.Change != 0 {
		return ns.setLink(l, unix.RTM_SETLINK, body, attrs...)
	}
	if changed := port.Attributes.Unlike(l.Port(bridge).Attributes); changed != (netstate.Attributes{}) {
		return ns.changeAttributes(l, changed)
	}
	return nil
}

// free refuses an interface that is a port of a foreign bridge.
func (s *session) free(ns *namespace, l *rtnl.Link) error {
	if l.Master == 0 {
		return nil
	}
	master, err := ns.linkAt(l.Master)
	if missing(err) {
		return nil
	}
	if err != nil {
		return err
	}
	if !s.k.ours(master) {
		return fmt.Errorf("it is a port of %s: %w", master.Name, ErrForeign)
	}
	return nil
}

// release takes the interface from the bridge that we joined it to, and from
// no other.
func (s *session) release(port netstate.Port) error {
	ns, l, err := s.link(netstate.End{Name: port.Link})
	if missing(err) {
		return nil
	}
	if err != nil || l.Master == 0 {
		return err
	}
	master, err := ns.linkAt(l.Master)
	if err != nil && !missing(err) {
		return err
	}
	if err != nil || master.Name != port.Master {
		return nil
	}
	err = ns.setLink(l, unix.RTM_SETLINK, nl.NewIfInfomsg(unix.AF_UNSPEC), rtnl.U32(unix.IFLA_MASTER, 0))
	if gone(err) {
		return nil
	}
	return err
}

func (s *session) observeHairpin(key netstate.Key) (netstate.Object, error) {
	_, l, err := s.link(netstate.End{Name: key.Link})
	if err != nil || !l.Hairpin {
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
	ns, l, err := s.ourLink(netstate.End{Name: name})
	if err != nil || l.Hairpin == on {
		return err
	}
	return ns.setLink(l, unix.RTM_NEWLINK, nl.NewIfInfomsg(unix.AF_UNSPEC), rtnl.PortFlag(nl.IFLA_BRPORT_MODE, on))
}

// knowsItself reports whether a bridge's table has its own MAC address as one of
// the bridge: without it, frames to the node are flooded to the ports.
func (ns *namespace) knowsItself(l *rtnl.Link) (bool, error) {
	b, err := ns.get(unix.RTM_GETNEIGH, &rtnl.Ndmsg{Family: unix.AF_BRIDGE, Index: l.Index, Flags: unix.NTF_SELF}, nl.NewRtAttr(unix.NDA_LLADDR, l.MAC[:]))
	if errors.Is(err, unix.ENOENT) {
		return false, nil
	}
	n, ok := rtnl.ParseNeighbour(b)
	return ok && n.Permanent(), err
}

// learnItself puts a bridge's own MAC address into its table.
func (ns *namespace) learnItself(l *rtnl.Link) error {
	return ns.change(unix.RTM_NEWNEIGH, unix.NLM_F_CREATE|unix.NLM_F_REPLACE,
		&rtnl.Ndmsg{Family: unix.AF_BRIDGE, Index: l.Index, State: unix.NUD_PERMANENT, Flags: unix.NTF_SELF}, nl.NewRtAttr(unix.NDA_LLADDR, l.MAC[:]))
}
