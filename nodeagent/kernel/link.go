package kernel

import (
	"errors"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
)

// ownNetns is the nsid of a link whose other end is in the same namespace.
const ownNetns = -1

// link is an interface as a netlink message describes it.
type link struct {
	family    uint8
	flags     uint32
	index     int32
	name      string
	others    []string // alternative names
	kind      string
	alias     string
	mac       netstate.MAC
	mtu       int
	group     uint32
	master    int32
	peer      int32 // index in the namespace that peerNetns numbers
	peerNetns int32
	isolated  bool
	hairpin   bool
	// xdp is whether a program sees what arrives before the kernel does.
	xdp bool
	// state is a port's; attributes are those in which it is left out, a bridge's or
	// a port's, and the flags.
	state      uint32
	attributes netstate.Attributes
}

// parseLink reads RTM_NEWLINK and RTM_DELLINK; it returns false for what is
// too short to be one.
func parseLink(b []byte) (link, bool) {
	if len(b) < unix.SizeofIfInfomsg {
		return link{}, false
	}
	l := link{family: b[0], index: int32(uint32At(b[4:])), flags: uint32At(b[8:]), peerNetns: ownNetns}
	l.attributes = l.flagAttributes()
	for kind, value := range attributes(b[unix.SizeofIfInfomsg:]) {
		switch kind {
		case unix.IFLA_IFNAME:
			l.name = stringAt(value)
		case unix.IFLA_IFALIAS:
			l.alias = stringAt(value)
		case unix.IFLA_ADDRESS:
			copy(l.mac[:], value)
		case unix.IFLA_MTU:
			l.mtu = int(uint32At(value))
		case unix.IFLA_GROUP:
			l.group = uint32At(value)
		case unix.IFLA_MASTER:
			l.master = int32(uint32At(value))
		case unix.IFLA_LINK:
			l.peer = int32(uint32At(value))
		case unix.IFLA_LINK_NETNSID:
			l.peerNetns = int32(uint32At(value))
		case unix.IFLA_PROP_LIST:
			for kind, value := range attributes(value) {
				if kind == unix.IFLA_ALT_IFNAME {
					l.others = append(l.others, stringAt(value))
				}
			}
		case unix.IFLA_LINKINFO:
			l.parseInfo(value)
		case unix.IFLA_XDP:
			l.parseXDP(value)
		case unix.IFLA_PROTINFO:
			if l.family == unix.AF_BRIDGE {
				l.parsePort(value)
			}
		}
	}
	return l, true
}

func (l *link) parseInfo(b []byte) {
	var slave string
	for kind, value := range attributes(b) {
		switch kind {
		case nl.IFLA_INFO_KIND:
			l.kind = stringAt(value)
		case nl.IFLA_INFO_SLAVE_KIND:
			slave = stringAt(value)
		case nl.IFLA_INFO_DATA:
			if l.kind == "bridge" {
				l.attributes = l.attributes.And(bridgeAttributes(value))
			}
		case nl.IFLA_INFO_SLAVE_DATA:
			if slave == "bridge" {
				l.parsePort(value)
			}
		}
	}
}

func (l *link) parseXDP(b []byte) {
	for kind, value := range attributes(b) {
		l.xdp = l.xdp || kind == nl.IFLA_XDP_ATTACHED && byteAt(value) != nl.XDP_ATTACHED_NONE
	}
}

func (l *link) parsePort(b []byte) {
	for kind, value := range attributes(b) {
		if n, known := portNumbers[kind]; known {
			v, _ := n.read(value)
			if n.attribute == netstate.PortState {
				l.state = v
			} else {
				l.attributes = l.attributes.With(n.attribute, v)
			}
		}
		on := len(value) > 0 && value[0] != 0
		switch kind {
		case nl.IFLA_BRPORT_ISOLATED:
			l.isolated = on
		case nl.IFLA_BRPORT_MODE:
			l.hairpin = on
		}
	}
}

func (l *link) up() bool       { return l.flags&unix.IFF_UP != 0 }
func (l *link) running() bool  { return l.flags&unix.IFF_RUNNING != 0 }
func (l *link) loopback() bool { return l.flags&unix.IFF_LOOPBACK != 0 }
func (l *link) grouped() bool {
	return l.group == netstate.LinkGroup || l.group == netstate.DoomedGroup
}

func (l *link) typ() netstate.LinkType {
	switch {
	case l.loopback():
		return netstate.Loopback
	case l.kind == "bridge":
		return netstate.Bridge
	case l.kind == "veth":
		return netstate.Veth
	case l.kind == "ifb":
		return netstate.IFB
	}
	return netstate.OtherLink
}

// mark is what netstate.Link.Mark holds for the link. One whose alias or group
// somebody has changed is to be finished like one that never had both.
func (l *link) mark() string {
	_, _, named := netstate.ParseMark(l.alias)
	if named && (l.grouped() || l.loopback()) {
		return l.alias
	}
	if named || l.grouped() {
		return netstate.HalfMade
	}
	return ""
}

// marked reports whether the link is Patchbay's, by whatever source.
func (l *link) marked() bool { return l.mark() != "" }

// ours reports whether the link is Patchbay's and not another source's. The
// group alone says nothing of the source: a half-made link is everybody's.
func (k *Kernel) ours(l *link) bool {
	source, _, ok := netstate.ParseMark(l.alias)
	if ok {
		return source == k.opts.Source
	}
	return l.grouped()
}

// owner is the resource that the link's mark names, if any.
func (l *link) owner() netstate.Owner {
	if _, owner, ok := netstate.ParseMark(l.alias); ok && !l.loopback() {
		return owner
	}
	return netstate.Owner{}
}

// link asks for an interface by name, once in a session.
func (p *place) link(name string) (*link, error) {
	if l, known := p.byName[name]; known {
		return found(l)
	}
	if name == "" || len(name) > maxName {
		return nil, ErrLinkNotFound
	}
	l, err := p.queryLink(0, text(unix.IFLA_IFNAME, name))
	if err != nil {
		return nil, err
	}
	// The kernel answers to alternative names too.
	if l != nil && l.name != name {
		p.holders[name], l = l, nil
	}
	p.byName[name] = l
	return found(l)
}

// linkAt asks for an interface by index, once in a session.
func (p *place) linkAt(index int32) (*link, error) {
	if l := p.byIndex[index]; l != nil {
		return l, nil
	}
	l, err := p.queryLink(index)
	if err != nil {
		return nil, err
	}
	return found(l)
}

func found(l *link) (*link, error) {
	if l == nil {
		return nil, ErrLinkNotFound
	}
	return l, nil
}

// queryLink returns nil for a link that does not exist.
func (p *place) queryLink(index int32, attrs ...*nl.RtAttr) (*link, error) {
	c, err := p.conn()
	if err != nil {
		return nil, err
	}
	body := nl.NewIfInfomsg(unix.AF_UNSPEC)
	body.Index = index
	b, err := c.get(unix.RTM_GETLINK, body, append(attrs, u32Attr(unix.IFLA_EXT_MASK, skipStats))...)
	if errors.Is(err, unix.ENODEV) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	l, ok := parseLink(b)
	if !ok {
		return nil, unix.EBADMSG
	}
	p.remember(&l)
	return &l, nil
}

func (p *place) remember(l *link) {
	p.byName[l.name] = l
	p.byIndex[l.index] = l
}

// forget drops what the session knows of a link that it has changed.
func (p *place) forget(name string) {
	if l := p.byName[name]; l != nil {
		delete(p.byIndex, l.index)
		delete(p.peers, l.index)
	}
	delete(p.byName, name)
}

// allLinks lists the namespace's interfaces.
func (p *place) allLinks() ([]*link, error) {
	c, err := p.conn()
	if err != nil {
		return nil, err
	}
	answers, err := c.dump(unix.RTM_GETLINK, nl.NewIfInfomsg(unix.AF_UNSPEC), u32Attr(unix.IFLA_EXT_MASK, skipStats))
	if err != nil {
		return nil, err
	}
	links := make([]*link, 0, len(answers))
	for _, b := range answers {
		if l, ok := parseLink(b); ok {
			p.remember(&l)
			links = append(links, &l)
		}
	}
	return links, nil
}

func (s *session) observeLink(key netstate.Key) (netstate.Object, error) {
	p, l, err := s.link(netstate.End{Netns: key.Netns, Name: key.Link})
	if errors.Is(err, ErrLinkNotFound) {
		return s.observeHolder(key), nil
	}
	if err != nil {
		return nil, err
	}
	return s.whole(p, l), nil
}

// observeHolder describes the interface that has a name as an alternative one, which
// is taken then as much as a first name; nil where none does.
func (s *session) observeHolder(key netstate.Key) netstate.Object {
	p := s.places[key.Netns]
	if p == nil || p.holders[key.Link] == nil {
		return nil
	}
	l := p.holders[key.Link]
	return netstate.Link{Netns: key.Netns, Name: key.Link, Type: l.typ(), Holder: l.name}
}

// object is the link as netstate describes it, but for its master and peer.
func (l *link) object(netns string) netstate.Link {
	o := netstate.Link{Netns: netns, Name: l.name, Type: l.typ(), Mark: l.mark(), Up: l.up(), XDP: l.xdp}
	if o.Type != netstate.Loopback {
		o.MAC, o.MTU, o.Isolated, o.Attributes = l.mac, l.mtu, l.isolated, l.attributes
	}
	return o
}

// object is the link as netstate describes it.
func (s *session) object(p *place, l *link) netstate.Link {
	o := l.object(p.netns)
	if l.master != 0 {
		o.Master = unknown
		if master, err := p.linkAt(l.master); err == nil {
			o.Master = master.name
			o.Attributes, o.Waits = l.forwards(master, o.Attributes)
		}
	}
	if o.Type == netstate.Veth {
		o.Peer = s.peer(p, l)
	}
	return o
}

// whole is the link with what other requests tell of it.
func (s *session) whole(p *place, l *link) netstate.Link {
	o := s.object(p, l)
	switch {
	case !s.k.ours(l):
		return o
	case o.Type == netstate.Loopback:
		if p.netns != "" && l.up() {
			o.Attributes = p.loopbackAttributes(l)
		}
		return o
	case o.Type == netstate.Bridge:
		if knows, err := p.knowsItself(l); err == nil {
			o.Attributes = o.Attributes.With(netstate.OwnMAC, number01(knows))
		}
		if has, err := p.hasLinkLocal(l); err == nil && l.running() && !noIPv6() {
			o.Attributes = o.Attributes.With(netstate.LinkLocal, number01(has))
		}
	case p.netns != "":
		o.Planted = p.planted(l)
	}
	o.Taken = p.taken(l)
	return o
}

// number01 is 1 for true.
func number01(is bool) uint32 {
	if is {
		return 1
	}
	return 0
}

// forwards adds a port's state to its attributes, or returns it where another's
// bridge decides on it. A port without carrier, or of a bridge that is down, has none.
func (l *link) forwards(master *link, s netstate.Attributes) (with netstate.Attributes, waits string) {
	stp, _ := master.attributes.Get(netstate.STP)
	switch foreign := !master.marked(); {
	case !l.stuck():
		return s, ""
	case !master.up() && foreign:
		return s, netstate.BridgeDown
	case !master.up():
		return s, ""
	case stp != 0 && foreign:
		return s, portStates[l.state]
	}
	return s.With(netstate.PortState, l.state), ""
}

// stuck reports whether a port could forward and does not.
func (l *link) stuck() bool { return l.up() && l.running() && l.state != netstate.Forwarding }

// portStates are the names of BR_STATE_*.
var portStates = map[uint32]string{0: "disabled", 1: "listening", 2: "learning", 4: "blocking"}

// unknown stands for a name that cannot be found out; no interface and no
// namespace of ours has it, so it differs from every desired one.
const unknown = "?"
