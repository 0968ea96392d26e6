package rtnl

import (
	"encoding/binary"
	"net/netip"

	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Route is a route as a netlink message describes it.
type Route struct {
	Table    uint32
	Protocol uint8
	Kind     uint8
	cloned   bool
	Dst      netip.Prefix
	Via      netip.Addr
	src      netip.Addr
	Index    int32
	// Links are the interfaces of all next hops.
	Links  []int32
	Metric uint32
	// gated says that a next hop is a gateway.
	gated bool
}

// routeDrops are the kinds of routes that lead nowhere.
var routeDrops = map[uint8]string{
	unix.RTN_BLACKHOLE: "blackhole", unix.RTN_UNREACHABLE: "unreachable", unix.RTN_PROHIBIT: "prohibit", unix.RTN_THROW: "throw",
}

// ParseRoute reads RTM_NEWROUTE and RTM_DELROUTE of IPv4 and IPv6; it returns
// false for everything else.
func ParseRoute(b []byte) (Route, bool) {
	if len(b) < unix.SizeofRtMsg || b[0] != unix.AF_INET && b[0] != unix.AF_INET6 {
		return Route{}, false
	}
	r := Route{Table: uint32(b[4]), Protocol: b[5], Kind: b[7], cloned: Uint32(b[8:])&unix.RTM_F_CLONED != 0}
	dst := netip.IPv4Unspecified()
	if b[0] == unix.AF_INET6 {
		dst = netip.IPv6Unspecified()
	}
	for kind, value := range Attributes(b[unix.SizeofRtMsg:]) {
		switch kind {
		case unix.RTA_DST:
			dst, _ = netip.AddrFromSlice(value)
		case unix.RTA_GATEWAY:
			r.Via, _ = netip.AddrFromSlice(value)
			r.gated = true
		case unix.RTA_VIA:
			r.gated = true
		case unix.RTA_PREFSRC:
			r.src, _ = netip.AddrFromSlice(value)
		case unix.RTA_TABLE:
			r.Table = Uint32(value)
		case unix.RTA_PRIORITY:
			r.Metric = Uint32(value)
		case unix.RTA_OIF:
			r.Index = int32(Uint32(value))
			r.Links = append(r.Links, r.Index)
		case unix.RTA_MULTIPATH:
			links, gated := nexthops(value)
			r.Links, r.gated = append(r.Links, links...), r.gated || gated
		}
	}
	if r.Index == 0 && len(r.Links) > 0 {
		r.Index = r.Links[0]
	}
	r.Dst = netip.PrefixFrom(dst, int(b[1]))
	return r, r.Dst.IsValid()
}

// nexthops reads the interfaces of a multipath route, and whether a gateway is among
// its next hops.
func nexthops(b []byte) (links []int32, gated bool) {
	for len(b) >= unix.SizeofRtNexthop {
		length := int(binary.NativeEndian.Uint16(b))
		if length < unix.SizeofRtNexthop || length > len(b) {
			break
		}
		links = append(links, int32(Uint32(b[4:])))
		for kind := range Attributes(b[unix.SizeofRtNexthop:length]) {
			gated = gated || kind == unix.RTA_GATEWAY || kind == unix.RTA_VIA
		}
		b = b[min(align(length), len(b)):]
	}
	return links, gated
}

// LeadsOut reports whether the route leads beyond a link's own network: by unicast through
// a gateway, or to all addresses or half of them, as routes into tunnels do.
func (r Route) LeadsOut() bool {
	return r.Kind == unix.RTN_UNICAST && !r.cloned && (r.gated || r.Dst.Bits() <= 1)
}

// Decides reports whether the route decides about packets: it leads somewhere, or drops.
func (r Route) Decides() bool {
	return (r.Kind == unix.RTN_UNICAST || routeDrops[r.Kind] != "") && !r.cloned
}

// Main reports whether it is a unicast route of the main table.
func (r Route) Main() bool {
	return r.Table == unix.RT_TABLE_MAIN && r.Kind == unix.RTN_UNICAST && !r.cloned
}

// Kernels reports whether it is a route that the kernel has with an address beside
// the connected one.
func (r Route) Kernels() bool {
	return r.Table == unix.RT_TABLE_LOCAL && r.Protocol == unix.RTPROT_KERNEL && (r.Kind == unix.RTN_LOCAL || r.Dst == groups6)
}

func (r Route) Ours() bool { return r.Protocol == netstate.RouteProtocol }

func (r Route) Object(netns, link string) netstate.Route {
	return netstate.Route{Netns: netns, Link: link, Dst: r.Dst, Via: r.Via, Src: r.src}
}

// RouteMessage is the message that adds our route through a link.
func RouteMessage(l *Link, r netstate.Route) (*nl.RtMsg, []*nl.RtAttr) {
	body := nl.NewRtMsg()
	body.Family = uint8(FamilyOf(r.Dst.Addr()))
	body.Dst_len = uint8(r.Dst.Bits())
	body.Protocol = netstate.RouteProtocol
	body.Scope = unix.RT_SCOPE_LINK
	attrs := []*nl.RtAttr{U32(unix.RTA_OIF, uint32(l.Index))}
	if r.Dst.Bits() > 0 {
		attrs = append(attrs, nl.NewRtAttr(unix.RTA_DST, r.Dst.Addr().AsSlice()))
	}
	if r.Via.IsValid() {
		body.Scope = unix.RT_SCOPE_UNIVERSE
		attrs = append(attrs, nl.NewRtAttr(unix.RTA_GATEWAY, r.Via.AsSlice()))
	}
	if r.Src.IsValid() {
		attrs = append(attrs, nl.NewRtAttr(unix.RTA_PREFSRC, r.Src.AsSlice()))
	}
	if r.First && r.Dst.Addr().Is6() {
		attrs = append(attrs, U32(unix.RTA_PRIORITY, 1))
	}
	return body, attrs
}

// RouteRequest is a message about a route.
type RouteRequest struct {
	Body  *nl.RtMsg
	Attrs []*nl.RtAttr
}

// KernelRoute is the message that adds a route as the kernel does for an address.
func KernelRoute(l *Link, dst netip.Prefix, src netip.Addr) RouteRequest {
	body, attrs := RouteMessage(l, netstate.Route{Dst: dst, Src: src})
	body.Protocol = unix.RTPROT_KERNEL
	return RouteRequest{body, attrs}
}

// Foreign is the route unless it bears our mark, or leads through none of the links.
func (r Route) Foreign(links map[int32]*Link) (netstate.ForeignRoute, bool) {
	o := netstate.ForeignRoute{Table: r.Table, Dst: r.Dst, Via: r.Via, Gated: r.gated && !r.Via.IsValid(), Drops: routeDrops[r.Kind], Own: r.Protocol == unix.RTPROT_KERNEL}
	if o.Drops != "" {
		return o, !r.Ours()
	}
	for _, index := range r.Links {
		if l := links[index]; l != nil {
			o.Link, o.Tunnel = l.Name, l.Flags&(unix.IFF_POINTOPOINT|unix.IFF_NOARP) != 0
			return o, true
		}
	}
	return o, false
}
