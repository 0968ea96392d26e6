package rtnl

import (
	"net/netip"
	"slices"

	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
	"github.com/vishvananda/netlink/nl"
	"go4.org/netipx"
	"golang.org/x/sys/unix"
)

// Address is an interface's address as a netlink message describes it.
type Address struct {
	Index    int32
	Prefix   netip.Prefix
	Flags    uint32
	Protocol uint8
}

// ParseAddress reads RTM_NEWADDR and RTM_DELADDR; it returns false for any other message.
func ParseAddress(b []byte) (Address, bool) {
	if len(b) < unix.SizeofIfAddrmsg {
		return Address{}, false
	}
	a := Address{Flags: uint32(b[2]), Index: int32(Uint32(b[4:]))}
	var local, other netip.Addr
	for kind, value := range Attributes(b[unix.SizeofIfAddrmsg:]) {
		switch kind {
		case unix.IFA_LOCAL:
			local, _ = netip.AddrFromSlice(value)
		case unix.IFA_ADDRESS:
			other, _ = netip.AddrFromSlice(value)
		case unix.IFA_FLAGS:
			a.Flags = Uint32(value)
		case ifaProto:
			if len(value) > 0 {
				a.Protocol = value[0]
			}
		}
	}
	if !local.IsValid() {
		local = other
	}
	a.Prefix = netip.PrefixFrom(local, int(b[1]))
	return a, a.Prefix.IsValid()
}

func (a Address) Object(netns, link string) netstate.Address {
	o := netstate.Address{Netns: netns, Link: link, Prefix: a.Prefix, NoPrefixRoute: a.Flags&unix.IFA_F_NOPREFIXROUTE != 0}
	switch {
	case a.Flags&unix.IFA_F_DADFAILED != 0:
		o.Astray = "dadfailed"
	case a.Mortal():
		o.Astray = "with a lifetime"
	}
	return o
}

// Mortal reports whether the address ends by itself, or is no longer used for new
// connections (deprecated).
func (a Address) Mortal() bool {
	return a.Flags&unix.IFA_F_PERMANENT == 0 || a.Flags&unix.IFA_F_DEPRECATED != 0
}

// MissingRoute looks for the routes that an address has: the local one, the
// connected one, also on a link without carrier (linkdown), and with IPv6 that of
// groups, without which no neighbour is found; the kernel makes it when the link
// begins to run.
func MissingRoute(l *Link, a Address, routes []Route) string {
	ip := a.Prefix.Addr()
	has := func(kind uint8, dst netip.Prefix) bool {
		return slices.ContainsFunc(routes, func(r Route) bool { return r.Kind == kind && r.Dst == dst })
	}
	switch {
	case !has(unix.RTN_LOCAL, Single(ip)):
		return "without its local route"
	case a.Flags&unix.IFA_F_NOPREFIXROUTE == 0 && !a.Prefix.IsSingleIP() && !has(unix.RTN_UNICAST, a.Prefix.Masked()):
		return "without its connected route"
	case ip.Is6() && l.Running() && !has(unix.RTN_MULTICAST, groups6):
		return "without the route of groups"
	}
	return ""
}

// groups6 are the IPv6 multicast addresses.
var groups6 = netip.MustParsePrefix("ff00::/8")

// AddressBody is the header of a message about an address.
func AddressBody(l *Link, prefix netip.Prefix) *nl.IfAddrmsg {
	body := nl.NewIfAddrmsg(FamilyOf(prefix.Addr()))
	body.Prefixlen = uint8(prefix.Bits())
	body.Index = uint32(l.Index)
	return body
}

// AddressAttributes are the attributes that add an address, with our mark.
func AddressAttributes(a netstate.Address) []*nl.RtAttr {
	ip := a.Prefix.Addr()
	attrs := []*nl.RtAttr{
		nl.NewRtAttr(unix.IFA_LOCAL, ip.AsSlice()),
		nl.NewRtAttr(unix.IFA_ADDRESS, ip.AsSlice()),
		nl.NewRtAttr(ifaProto, nl.Uint8Attr(netstate.RouteProtocol)),
	}
	var flags uint32
	if a.NoPrefixRoute {
		flags |= unix.IFA_F_NOPREFIXROUTE
	}
	if ip.Is6() {
		// Duplicate address detection takes seconds, and no other host has the address.
		flags |= unix.IFA_F_NODAD
	} else if a.Prefix.Bits() < 31 {
		attrs = append(attrs, nl.NewRtAttr(unix.IFA_BROADCAST, netipx.PrefixLastIP(a.Prefix).AsSlice()))
	}
	return append(attrs, U32(unix.IFA_FLAGS, flags))
}

// Single is the prefix of one address alone.
func Single(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }

// FamilyOf is the AF_INET or AF_INET6 of an address.
func FamilyOf(a netip.Addr) int {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}
