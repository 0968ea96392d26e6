package kernel

import (
	"errors"
	"fmt"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
	"github.com/patchbay-dev/patchbay/nodeagent/plan"
)

func (s *session) applyLink(step plan.Step, l netstate.Link) error {
	end := netstate.End{Netns: l.Netns, Name: l.Name}
	var err error
	switch step.Op {
	case plan.Create:
		err = s.createLink(l, step.Peer)
	case plan.Mark, plan.Update:
		err = s.updateLink(end, l)
	case plan.Activate:
		err = s.activateLink(end, l)
	default:
		return unsupported(step.Op, step.Key)
	}
	if err != nil {
		return fmt.Errorf("%s link %s: %w", step.Op, end, err)
	}
	return nil
}

func (s *session) createLink(l netstate.Link, peer netstate.Object) error {
	if err := sysctlsWritable(); err != nil {
		return err
	}
	p, err := s.place(l.Netns)
	if err != nil {
		return err
	}
	p.forget(l.Name)
	switch l.Type {
	case netstate.Bridge:
		err = p.createBridge(l)
	case netstate.Veth:
		other, ok := peer.(netstate.Link)
		if !ok {
			return errors.New("a veth needs its peer")
		}
		err = s.createVeth(p, l, other)
	case netstate.IFB:
		err = p.createIFB(l)
	case netstate.Loopback:
		// It comes and goes with its namespace.
		_, err = p.link(l.Name)
	default:
		return fmt.Errorf("type %q: %w", l.Type, errors.ErrUnsupported)
	}
	if errors.Is(err, unix.EEXIST) {
		return ErrExists
	}
	return err
}

func (p *place) createIFB(l netstate.Link) error {
	c, err := p.conn()
	if err != nil {
		return err
	}
	return c.change(unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL, nl.NewIfInfomsg(unix.AF_UNSPEC), append(properties(l), linkInfo("ifb"))...)
}

// linkInfo is the IFLA_LINKINFO of a kind of link.
func linkInfo(kind string) *nl.RtAttr {
	info := nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
	info.AddRtAttr(nl.IFLA_INFO_KIND, nl.NonZeroTerminated(kind))
	return info
}

func (p *place) createBridge(l netstate.Link) error {
	c, err := p.conn()
	if err != nil {
		return err
	}
	// A kernel without VLAN filtering refuses to have it off (EOPNOTSUPP).
	info := bridgeInfo(l.Attributes.Without(netstate.VLANFiltering))
	if info == nil {
		info = linkInfo("bridge")
	}
	asCreated := l
	asCreated.MTU ^= 1
	if l.MTU == 0 {
		asCreated.MTU = 0
	}
	err = c.change(unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL, nl.NewIfInfomsg(unix.AF_UNSPEC), append(properties(asCreated), info)...)
	if err != nil || l.MTU == 0 {
		return err
	}
	// A bridge takes the smallest MTU of its ports unless its own was changed by
	// hand; one given at creation does not count (BROPT_MTU_SET_BY_USER is set
	// by ndo_change_mtu, which is not called where nothing changes).
	return c.change(unix.RTM_SETLINK, 0, nl.NewIfInfomsg(unix.AF_UNSPEC), text(unix.IFLA_IFNAME, l.Name), u32Attr(unix.IFLA_MTU, uint32(l.MTU)))
}

// createVeth makes both ends where they belong: moving one there later costs a
// grace period of about 16 ms.
func (s *session) createVeth(p *place, l, peer netstate.Link) error {
	c, err := p.conn()
	if err != nil {
		return err
	}
	info := linkInfo("veth")
	other := info.AddRtAttr(nl.IFLA_INFO_DATA, nil).AddRtAttr(nl.VETH_INFO_PEER, nil)
	nl.NewIfInfomsgChild(other, unix.AF_UNSPEC)
	for _, a := range properties(peer) {
		other.AddChild(a)
	}
	if peer.Netns != l.Netns {
		q, err := s.place(peer.Netns)
		if err != nil {
			return err
		}
		q.forget(peer.Name)
		if err := s.assignNSIDs(p, q); err != nil {
			return err
		}
		other.AddRtAttr(unix.IFLA_NET_NS_FD, nl.Uint32Attr(uint32(q.fd)))
	}
	attrs := append(properties(l), info)
	if l.Master != "" {
		master, err := p.link(l.Master)
		if err != nil {
			return fmt.Errorf("find its master %s: %w", l.Master, err)
		}
		attrs = append(attrs, u32Attr(unix.IFLA_MASTER, uint32(master.index)))
	}
	return c.change(unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL, nl.NewIfInfomsg(unix.AF_UNSPEC), attrs...)
}

// assignNSIDs assigns an nsid on the host to both namespaces before the veth exists:
// without one, NETLINK_LISTEN_ALL_NSID delivers nothing from them. The hint that it leaves
// spares the monitor a search through all names.
func (s *session) assignNSIDs(ends ...*place) error {
	for _, p := range ends {
		if p.netns == "" {
			continue
		}
		if err := s.assignNSID(p); err != nil {
			return err
		}
	}
	return nil
}

// properties are what both ends of a veth, and a bridge, are created with. The
// kernel ignores an alias here (IFLA_IFALIAS); the group is the mark instead.
func properties(l netstate.Link) []*nl.RtAttr {
	attrs := []*nl.RtAttr{text(unix.IFLA_IFNAME, l.Name), u32Attr(unix.IFLA_GROUP, netstate.LinkGroup)}
	if l.MAC != (netstate.MAC{}) {
		attrs = append(attrs, nl.NewRtAttr(unix.IFLA_ADDRESS, l.MAC[:]))
	}
	if l.MTU > 0 {
		attrs = append(attrs, u32Attr(unix.IFLA_MTU, uint32(l.MTU)))
	}
	return attrs
}

// updateLink gives one end its mark, MAC and MTU by a single message, and its attributes.
func (s *session) updateLink(end netstate.End, want netstate.Link) error {
	p, have, err := s.ourLink(end)
	if err != nil {
		return err
	}
	if attrs := differences(have, want); len(attrs) > 0 {
		if err := p.setLink(have, unix.RTM_SETLINK, nl.NewIfInfomsg(unix.AF_UNSPEC), attrs...); err != nil {
			return err
		}
	}
	if changed := want.Attributes.Unlike(s.whole(p, have).Attributes); changed != (netstate.Attributes{}) {
		return p.changeAttributes(have, changed)
	}
	return nil
}

func differences(have *link, want netstate.Link) []*nl.RtAttr {
	var attrs []*nl.RtAttr
	if have.alias != want.Mark {
		attrs = append(attrs, nl.NewRtAttr(unix.IFLA_IFALIAS, []byte(want.Mark)))
	}
	if have.loopback() {
		return attrs
	}
	if have.group != netstate.LinkGroup {
		attrs = append(attrs, u32Attr(unix.IFLA_GROUP, netstate.LinkGroup))
	}
	if want.MAC != (netstate.MAC{}) && have.mac != want.MAC {
		attrs = append(attrs, nl.NewRtAttr(unix.IFLA_ADDRESS, want.MAC[:]))
	}
	if want.MTU > 0 && have.mtu != want.MTU {
		attrs = append(attrs, u32Attr(unix.IFLA_MTU, uint32(want.MTU)))
	}
	return attrs
}

// activateLink sets master, isolation and state, in this order, so that no port
// is up before it is isolated.
func (s *session) activateLink(end netstate.End, want netstate.Link) error {
	p, have, err := s.ourLink(end)
	if err != nil {
		return err
	}
	if err := p.setMaster(have, want.Master); err != nil {
		return err
	}
	body, kind := nl.NewIfInfomsg(unix.AF_UNSPEC), unix.RTM_SETLINK
	if want.Up != have.up() {
		body.Change = unix.IFF_UP
		if want.Up {
			body.Flags = unix.IFF_UP
		}
	}
	var attrs []*nl.RtAttr
	if want.Master != "" && want.Isolated != have.isolated {
		// The kernel changes the port before it changes the flags.
		kind, attrs = unix.RTM_NEWLINK, []*nl.RtAttr{portFlag(nl.IFLA_BRPORT_ISOLATED, want.Isolated)}
	}
	if body.Change == 0 && attrs == nil {
		return nil
	}
	return p.setLink(have, kind, body, attrs...)
}

// setMaster makes a link a port of the named bridge, or of none. It goes alone:
// the flags of a port exist only once the link is one.
func (p *place) setMaster(l *link, name string) error {
	var index int32
	if name != "" {
		master, err := p.link(name)
		if err != nil {
			return fmt.Errorf("find its master %s: %w", name, err)
		}
		index = master.index
	}
	if l.master == index {
		return nil
	}
	if err := p.setLink(l, unix.RTM_SETLINK, nl.NewIfInfomsg(unix.AF_UNSPEC), u32Attr(unix.IFLA_MASTER, uint32(index))); err != nil {
		return err
	}
	l.master, l.isolated, l.hairpin = index, false, false
	return nil
}

func portFlag(flag int, on bool) *nl.RtAttr {
	value := nl.Uint8Attr(0)
	if on {
		value = nl.Uint8Attr(1)
	}
	info, data := slaveInfo()
	data.AddRtAttr(flag, value)
	return info
}

// slaveInfo is the IFLA_LINKINFO of a bridge port.
func slaveInfo() (info, data *nl.RtAttr) {
	info = nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
	info.AddRtAttr(nl.IFLA_INFO_SLAVE_KIND, nl.NonZeroTerminated("bridge"))
	return info, info.AddRtAttr(nl.IFLA_INFO_SLAVE_DATA, nil)
}

// ourLink finds a link and refuses one that is not ours.
func (s *session) ourLink(end netstate.End) (*place, *link, error) {
	p, l, err := s.link(end)
	if err != nil {
		return nil, nil, err
	}
	if !s.k.ours(l) {
		return nil, nil, ErrForeign
	}
	return p, l, nil
}

// setLink changes a link by index, so that a renamed or replaced one is never
// hit by mistake.
func (p *place) setLink(l *link, kind int, body *nl.IfInfomsg, attrs ...*nl.RtAttr) error {
	c, err := p.conn()
	if err != nil {
		return err
	}
	body.Index = l.index
	p.forget(l.name)
	return c.change(kind, 0, body, attrs...)
}
