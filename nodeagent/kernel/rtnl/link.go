package rtnl

import (
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
)

// OwnNetns is the nsid of a link whose other end is in the same namespace.
const OwnNetns = -1

// Link is an interface as a netlink message describes it.
type Link struct {
	Family    uint8
	Flags     uint32
	Index     int32
	Name      string
	Others    []string // alternative names
	Kind      string
	Alias     string
	MAC       netstate.MAC
	MTU       int
	Group     uint32
	Master    int32
	Peer      int32 // index in the namespace that the nsid peerNetns stands for
	PeerNetns int32
	Isolated  bool
	Hairpin   bool
	// XDP says that a program sees arriving packets before the kernel does.
	XDP bool
	// state is a port's; attributes are those in which it is left out, a bridge's or
	// a port's, and the flags.
	state      uint32
	Attributes netstate.Attributes
	// inet and inet6 are the settings of IPv4 and IPv6.
	inet, inet6 []byte
}

// ParseLink reads RTM_NEWLINK and RTM_DELLINK; it returns false for a message that is too
// short.
func ParseLink(b []byte) (Link, bool) {
	if len(b) < unix.SizeofIfInfomsg {
		return Link{}, false
	}
	l := Link{Family: b[0], Index: int32(Uint32(b[4:])), Flags: Uint32(b[8:]), PeerNetns: OwnNetns}
	l.Attributes = l.flagAttributes()
	for kind, value := range Attributes(b[unix.SizeofIfInfomsg:]) {
		switch kind {
		case unix.IFLA_IFNAME:
			l.Name = stringOf(value)
		case unix.IFLA_IFALIAS:
			l.Alias = stringOf(value)
		case unix.IFLA_ADDRESS:
			copy(l.MAC[:], value)
		case unix.IFLA_MTU:
			l.MTU = int(Uint32(value))
		case unix.IFLA_GROUP:
			l.Group = Uint32(value)
		case unix.IFLA_MASTER:
			l.Master = int32(Uint32(value))
		case unix.IFLA_LINK:
			l.Peer = int32(Uint32(value))
		case unix.IFLA_LINK_NETNSID:
			l.PeerNetns = int32(Uint32(value))
		case unix.IFLA_PROP_LIST:
			for kind, value := range Attributes(value) {
				if kind == unix.IFLA_ALT_IFNAME {
					l.Others = append(l.Others, stringOf(value))
				}
			}
		case unix.IFLA_LINKINFO:
			l.parseInfo(value)
		case unix.IFLA_XDP:
			l.parseXDP(value)
		case unix.IFLA_AF_SPEC:
			if l.Family == unix.AF_UNSPEC {
				l.parseFamilies(value)
			}
		case unix.IFLA_PROTINFO:
			if l.Family == unix.AF_BRIDGE {
				l.parsePort(value)
			}
		}
	}
	return l, true
}

func (l *Link) parseInfo(b []byte) {
	var slave string
	for kind, value := range Attributes(b) {
		switch kind {
		case nl.IFLA_INFO_KIND:
			l.Kind = stringOf(value)
		case nl.IFLA_INFO_SLAVE_KIND:
			slave = stringOf(value)
		case nl.IFLA_INFO_DATA:
			if l.Kind == "bridge" {
				l.Attributes = l.Attributes.And(bridgeAttributes(value))
			}
		case nl.IFLA_INFO_SLAVE_DATA:
			if slave == "bridge" {
				l.parsePort(value)
			}
		}
	}
}

func (l *Link) parseXDP(b []byte) {
	for kind, value := range Attributes(b) {
		l.XDP = l.XDP || kind == nl.IFLA_XDP_ATTACHED && byteOf(value) != nl.XDP_ATTACHED_NONE
	}
}

func (l *Link) parsePort(b []byte) {
	for kind, value := range Attributes(b) {
		if n, known := portSizes[kind]; known {
			v, _ := n.read(value)
			if n.attribute == netstate.PortState {
				l.state = v
			} else {
				l.Attributes = l.Attributes.With(n.attribute, v)
			}
		}
		on := len(value) > 0 && value[0] != 0
		switch kind {
		case nl.IFLA_BRPORT_ISOLATED:
			l.Isolated = on
		case nl.IFLA_BRPORT_MODE:
			l.Hairpin = on
		}
	}
}

func (l *Link) Up() bool { return l.Flags&unix.IFF_UP != 0 }

// Running reports whether the link has a carrier.
func (l *Link) Running() bool { return l.Flags&unix.IFF_RUNNING != 0 }

func (l *Link) Loopback() bool { return l.Flags&unix.IFF_LOOPBACK != 0 }
func (l *Link) Grouped() bool {
	return l.Group == netstate.LinkGroup || l.Group == netstate.DoomedGroup
}

func (l *Link) Typ() netstate.LinkType {
	switch {
	case l.Loopback():
		return netstate.Loopback
	case l.Kind == "bridge":
		return netstate.Bridge
	case l.Kind == "veth":
		return netstate.Veth
	case l.Kind == "ifb":
		return netstate.IFB
	}
	return netstate.OtherLink
}

// mark is the netstate.Link.Mark of the link. A link whose alias or group was changed by
// another program is to be finished like a link that never had both.
func (l *Link) mark() string {
	_, _, named := netstate.ParseMark(l.Alias)
	if named && (l.Grouped() || l.Loopback()) {
		return l.Alias
	}
	if named || l.Grouped() {
		return netstate.HalfMade
	}
	return ""
}

// Marked reports whether the link is Patchbay's, of any source.
func (l *Link) Marked() bool { return l.mark() != "" }

// Owner is the resource that the link's mark names, if any.
func (l *Link) Owner() netstate.Owner {
	if _, owner, ok := netstate.ParseMark(l.Alias); ok && !l.Loopback() {
		return owner
	}
	return netstate.Owner{}
}

// Object is the link as netstate describes it, but for its master and peer.
func (l *Link) Object(netns string) netstate.Link {
	o := netstate.Link{Netns: netns, Name: l.Name, Type: l.Typ(), Mark: l.mark(), Up: l.Up(), XDP: l.XDP}
	if o.Type != netstate.Loopback {
		o.MAC, o.MTU, o.Isolated, o.Attributes = l.MAC, l.MTU, l.Isolated, l.Attributes
	}
	return o
}

// Bit is 1 for true.
func Bit(is bool) uint32 {
	if is {
		return 1
	}
	return 0
}

// Forwards adds a port's state to its attributes, or returns it where another's
// bridge decides on it. A port without carrier, or of a bridge that is down, has none.
func (l *Link) Forwards(master *Link, s netstate.Attributes) (with netstate.Attributes, waits string) {
	stp, _ := master.Attributes.Get(netstate.STP)
	switch foreign := !master.Marked(); {
	case !l.Stuck():
		return s, ""
	case !master.Up() && foreign:
		return s, netstate.BridgeDown
	case !master.Up():
		return s, ""
	case stp != 0 && foreign:
		return s, portStates[l.state]
	}
	return s.With(netstate.PortState, l.state), ""
}

// Stuck reports whether a port could forward and does not.
func (l *Link) Stuck() bool { return l.Up() && l.Running() && l.state != netstate.Forwarding }

// Blocked reports whether the link is a port that is up and takes no frames.
func (l *Link) Blocked() bool { return l.Up() && l.Master != 0 && l.state != netstate.Forwarding }

// portStates are the names of BR_STATE_*.
var portStates = map[uint32]string{0: "disabled", 1: "listening", 2: "learning", 4: "blocking"}

// LinkInfo is the IFLA_LINKINFO of a kind of link.
func LinkInfo(kind string) *nl.RtAttr {
	info := nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
	info.AddRtAttr(nl.IFLA_INFO_KIND, nl.NonZeroTerminated(kind))
	return info
}

// Properties are the attributes in the message that creates a bridge or an end of a veth.
// The kernel ignores an alias there (IFLA_IFALIAS); the group is the mark instead.
func Properties(l netstate.Link) []*nl.RtAttr {
	attrs := []*nl.RtAttr{Text(unix.IFLA_IFNAME, l.Name), U32(unix.IFLA_GROUP, netstate.LinkGroup)}
	if l.MAC != (netstate.MAC{}) {
		attrs = append(attrs, nl.NewRtAttr(unix.IFLA_ADDRESS, l.MAC[:]))
	}
	if l.MTU > 0 {
		attrs = append(attrs, U32(unix.IFLA_MTU, uint32(l.MTU)))
	}
	return attrs
}

// Differences are the attributes that make our link as wanted: mark, MAC and MTU.
func Differences(have *Link, want netstate.Link) []*nl.RtAttr {
	var attrs []*nl.RtAttr
	if have.Alias != want.Mark {
		attrs = append(attrs, nl.NewRtAttr(unix.IFLA_IFALIAS, []byte(want.Mark)))
	}
	if have.Loopback() {
		return attrs
	}
	if have.Group != netstate.LinkGroup {
		attrs = append(attrs, U32(unix.IFLA_GROUP, netstate.LinkGroup))
	}
	if want.MAC != (netstate.MAC{}) && have.MAC != want.MAC {
		attrs = append(attrs, nl.NewRtAttr(unix.IFLA_ADDRESS, want.MAC[:]))
	}
	if want.MTU > 0 && have.MTU != want.MTU {
		attrs = append(attrs, U32(unix.IFLA_MTU, uint32(want.MTU)))
	}
	return attrs
}

// PortFlag is the IFLA_LINKINFO that switches one flag of a bridge port.
func PortFlag(flag int, on bool) *nl.RtAttr {
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

// FlagsOf is a message that changes the attributes that are flags.
func FlagsOf(s netstate.Attributes) *nl.IfInfomsg {
	body := nl.NewIfInfomsg(unix.AF_UNSPEC)
	for _, f := range linkFlags {
		if value, ok := s.Get(f.attribute); ok {
			body.Change |= f.flag
			if (value == 0) == f.inverse {
				body.Flags |= f.flag
			}
		}
	}
	return body
}

// linkFlags are attributes that are flags of a link, or the opposite of a flag.
var linkFlags = []struct {
	attribute netstate.Attribute
	flag      uint32
	inverse   bool
}{{netstate.ARP, unix.IFF_NOARP, true}, {netstate.Multicast, unix.IFF_MULTICAST, false}}

// flagAttributes reads the attributes that are flags.
func (l *Link) flagAttributes() netstate.Attributes {
	var out netstate.Attributes
	for _, f := range linkFlags {
		out = out.With(f.attribute, Bit((l.Flags&f.flag != 0) != f.inverse))
	}
	return out
}

// Port is the link as a port of our bridge.
func (l *Link) Port(master *Link) netstate.Port {
	attributes, _ := l.Forwards(master, l.Attributes)
	return netstate.Port{Link: l.Name, Master: master.Name, Up: l.Up(), Attributes: attributes}
}
