package netstate

import (
	"fmt"
	"net/netip"
	"strings"
)

// Netns is a named network namespace with its loopback up.
type Netns struct {
	Name string
	// Managed namespaces are made and removed by Patchbay and bear its mark; all other
	// namespaces must exist and stay.
	Managed bool
	// HalfMade is observed where Patchbay's marked file is there and the
	// namespace is not: its maker died between the two.
	HalfMade bool
	// Instead is observed where another file is found under the name: a phrase that names
	// the file and the remedy.
	Instead string
	// Apart is observed where that is a namespace which the host does not have under
	// the name, or not there, because mounts do not reach it.
	Apart bool
}

func (n Netns) Key() Key { return Key{Kind: KindNetns, Netns: n.Name} }

func (n Netns) String() string {
	switch {
	case n.Instead != "":
		return n.Instead
	case n.HalfMade:
		return "half-made"
	case n.Managed:
		return "managed"
	}
	return "external"
}

// LinkType is the type of an interface.
type LinkType string

// The types that Patchbay tells apart.
const (
	Bridge   LinkType = "bridge"
	Veth     LinkType = "veth"
	Loopback LinkType = "loopback"
	// IFB sends redirected packets on as if they came from the interface they came by.
	IFB LinkType = "ifb"
	// OtherLink is any interface that Patchbay would not make.
	OtherLink LinkType = "other"
)

// End is one end of a veth pair: an interface in a namespace.
type End struct{ Netns, Name string }

// BridgeDown is the reason to wait of a port whose bridge is down.
const BridgeDown = "bridge down"

// Link is an interface. A veth pair is two Links that name each other as Peer;
// the one with Primary set is created and brings the other along.
type Link struct {
	Netns string
	Name  string
	Type  LinkType
	// MAC is zero where it does not matter (loopback).
	MAC MAC
	// MTU in bytes; zero where it does not matter.
	MTU int
	// Mark is the alias that names the owner; empty on foreign interfaces.
	Mark string
	// Peer is the other end of a veth.
	Peer    End
	Primary bool
	// Master is the bridge that the link is a port of; always in the link's
	// own namespace.
	Master string
	// Isolated ports of a bridge do not reach each other.
	Isolated   bool
	Attributes Attributes
	Up         bool
	// Waits is observed of a port of another's bridge that does not forward: the state
	// that the spanning tree gives it, or BridgeDown.
	Waits string
	// Taken is observed where a foreign filter takes all packets of a link: the side of the
	// filter, ingress or egress.
	Taken string
	// Planted is observed of an interface in a namespace: its permanent
	// neighbour entries, as "address=mac" by spaces.
	Planted string
	// Holder is observed where Name is the alternative name of the interface Holder.
	Holder string
	// XDP is observed of a link where a foreign XDP program sees packets before the
	// kernel does.
	XDP bool
}

func (l Link) Key() Key { return Key{Kind: KindLink, Netns: l.Netns, Link: l.Name} }

func (l Link) String() string {
	if l.Holder != "" {
		ip := "ip"
		if l.Netns != "" {
			ip = "ip -n " + l.Netns
		}
		return fmt.Sprintf("an alternative name of %s: %s link property del dev %s altname %s", l.Holder, ip, l.Holder, l.Name)
	}
	s := []string{string(l.Type)}
	if l.MAC != (MAC{}) {
		s = append(s, "mac="+l.MAC.String())
	}
	if l.MTU != 0 {
		s = append(s, fmt.Sprintf("mtu=%d", l.MTU))
	}
	if l.Peer != (End{}) {
		s = append(s, "peer="+l.Peer.String())
	}
	if l.Master != "" {
		s = append(s, "master="+l.Master)
	}
	if l.Isolated {
		s = append(s, "isolated")
	}
	if l.Attributes != (Attributes{}) {
		s = append(s, l.Attributes.String())
	}
	if l.Up {
		s = append(s, "up")
	} else {
		s = append(s, "down")
	}
	if l.Waits != "" {
		s = append(s, l.Waits)
	}
	return strings.Join(s, " ")
}

// String is netns/name, or the name alone on the host.
func (e End) String() string {
	if e.Netns == "" {
		return e.Name
	}
	return e.Netns + "/" + e.Name
}

// Sysctl is one value under /proc/sys as the namespace sees it.
type Sysctl struct {
	Netns string
	// Link is the interface it belongs to; empty for one of the whole node or
	// namespace.
	Link string
	// Path below /proc/sys, such as net/ipv6/conf/br-red/accept_ra.
	Path  string
	Value string
	// Restore sysctls outlive the links that Patchbay makes: the previous value
	// is recorded before the first write and restored when no owner needs the sysctl.
	Restore bool
}

func (s Sysctl) Key() Key {
	kind := KindSysctl
	if s.Restore {
		kind = KindSysctlNode
	}
	return Key{Kind: kind, Netns: s.Netns, Link: s.Link, Name: s.Path}
}

func (s Sysctl) String() string { return s.Value }

// Address is an address of an interface.
type Address struct {
	Netns  string
	Link   string
	Prefix netip.Prefix
	// NoPrefixRoute keeps the kernel from adding the connected route.
	NoPrefixRoute bool
	// Astray is observed of an address that cannot be used: it names the missing route, or
	// the reason.
	Astray string
}

func (a Address) Key() Key {
	return Key{Kind: KindAddress, Netns: a.Netns, Link: a.Link, Name: a.Prefix.String()}
}

func (a Address) String() string {
	var s []string
	if a.NoPrefixRoute {
		s = append(s, "noprefixroute")
	}
	if a.Astray != "" {
		s = append(s, a.Astray)
	}
	return strings.Join(s, " ")
}

// Route is a route of the main table with protocol 147.
type Route struct {
	Netns string
	Link  string
	// Dst is 0.0.0.0/0 or ::/0 for a default route.
	Dst netip.Prefix
	// Via is the next hop; the zero Addr for a destination on the link.
	Via netip.Addr
	// Src is the preferred source address; the zero Addr leaves it to the kernel.
	Src netip.Addr
	// First is wanted of a route that is to go before the existing routes to the same
	// destination, which stay and count again when it goes.
	First bool
	// Behind is observed of a route with another route to its destination before it.
	Behind bool
}

func (r Route) Key() Key {
	return Key{Kind: KindRoute, Netns: r.Netns, Link: r.Link, Name: r.Dst.String()}
}

func (r Route) String() string {
	var s []string
	if r.Via.IsValid() {
		s = append(s, "via "+r.Via.String())
	}
	if r.Src.IsValid() {
		s = append(s, "src "+r.Src.String())
	}
	if r.First {
		s = append(s, "first")
	}
	if r.Behind {
		s = append(s, "behind another")
	}
	return strings.Join(s, " ")
}

// Port is an interface of the node, not made by Patchbay, as port of a bridge.
type Port struct {
	Link       string
	Master     string
	Up         bool
	Attributes Attributes
}

func (p Port) Key() Key { return Key{Kind: KindPort, Link: p.Link} }

func (p Port) String() string {
	s := "master=" + p.Master
	if p.Attributes != (Attributes{}) {
		s += " " + p.Attributes.String()
	}
	if !p.Up {
		s += " down"
	}
	return s
}

// Hairpin lets a bridge port send frames back to where they came from. It is
// needed where br_netfilter bridges a published connection of a target to
// itself.
type Hairpin struct{ Link string }

func (h Hairpin) Key() Key       { return Key{Kind: KindHairpin, Link: h.Link} }
func (h Hairpin) String() string { return "on" }

// HairpinOf returns the key of the hairpin mode of a bridge port on the host; false for
// other objects. A port that no publish has it on must not have it: the port would hear
// its own frames, and IPv6 would take them for a second holder of its addresses.
func HairpinOf(o Object) (Key, bool) {
	l, ok := o.(Link)
	return Hairpin{Link: l.Name}.Key(), ok && l.Netns == "" && l.Master != ""
}

// LinkPolicy is the firewall's policy for one bridge or point-to-point interface.
type LinkPolicy struct {
	Link string
	// Guarded links let in only packets to published ports.
	Guarded bool
	// Isolated links do not forward between their own members.
	Isolated bool
}

func (l LinkPolicy) Key() Key { return Key{Kind: KindLinkPolicy, Link: l.Link} }

func (l LinkPolicy) String() string {
	s := "ingress=Open"
	if l.Guarded {
		s = "ingress=PublishedOnly"
	}
	if l.Isolated {
		s += " isolated"
	}
	return s
}

// Family is an address family.
type Family string

// The families.
const (
	IPv4 Family = "ipv4"
	IPv6 Family = "ipv6"
)

// FamilyOf returns the family of an address.
func FamilyOf(a netip.Addr) Family {
	if a.Is4() {
		return IPv4
	}
	return IPv6
}

// ForwardGuard drops packets between two interfaces that are not Patchbay's, on a node
// where Patchbay switched forwarding on.
type ForwardGuard struct{ Family Family }

func (f ForwardGuard) Key() Key       { return Key{Kind: KindForwardGuard, Name: string(f.Family)} }
func (f ForwardGuard) String() string { return "drop between foreign interfaces" }

// Ruleset is the chains and rules of the firewall that its objects need. It is observed
// only if all of them are as they must be.
type Ruleset struct{}

func (Ruleset) Key() Key       { return Key{Kind: KindRuleset} }
func (Ruleset) String() string { return "as it must be" }

// Partial is an object that the firewall holds in part, or with a contradiction beside it.
type Partial struct{ Object }

// ForeignBridge keeps a bridge that is not Patchbay's working under
// ForwardGuards: where br_netfilter is on, the firewall sees frames between such a
// bridge's own ports as forwarded from the bridge to itself.
type ForeignBridge struct{ Link string }

func (f ForeignBridge) Key() Key       { return Key{Kind: KindForeignBridge, Link: f.Link} }
func (f ForeignBridge) String() string { return "left alone" }

// LoopbackGuard keeps the node's loopback addresses from the hosts behind a link with
// route_localnet on (CVE-2020-8558), and hides the node's own
// connections from 127.0.0.0/8 that leave by it behind an address of the link.
type LoopbackGuard struct{ Link string }

func (l LoopbackGuard) Key() Key       { return Key{Kind: KindLoopbackGuard, Link: l.Link} }
func (l LoopbackGuard) String() string { return "no loopback addresses to or from it" }

// PortFilter restricts the senders of frames on a bridge port to one MAC address and to
// the port's PortAddresses. A port with a PortFilter and no PortAddress sends nothing but
// ARP probes.
type PortFilter struct {
	Link string
	MAC  MAC
}

func (p PortFilter) Key() Key       { return Key{Kind: KindPortFilter, Link: p.Link} }
func (p PortFilter) String() string { return "mac=" + p.MAC.String() }

// PortAddress is an address that a filtered port may send from.
type PortAddress struct {
	Link string
	MAC  MAC
	Addr netip.Addr
}

func (p PortAddress) Key() Key {
	return Key{Kind: KindPortAddress, Link: p.Link, Name: p.Addr.String()}
}
func (p PortAddress) String() string { return "mac=" + p.MAC.String() }

// AllowedMAC is a MAC address that a filtered port may send from beside its own.
type AllowedMAC struct {
	Link string
	MAC  MAC
}

func (a AllowedMAC) Key() Key {
	return Key{Kind: KindAllowedMAC, Link: a.Link, Name: a.MAC.String()}
}
func (a AllowedMAC) String() string { return "" }

// AllowedPrefix is a range of addresses that a filtered port may send from, by any of its
// MAC addresses. No prefix of a port contains another.
type AllowedPrefix struct {
	Link   string
	Prefix netip.Prefix
}

func (a AllowedPrefix) Key() Key {
	return Key{Kind: KindAllowedPrefix, Link: a.Link, Name: a.Prefix.String()}
}
func (a AllowedPrefix) String() string { return "" }

// DHCPClient lets a filtered port ask for an IPv4 address by broadcast (RFC 2131).
type DHCPClient struct{ Link string }

func (d DHCPClient) Key() Key       { return Key{Kind: KindDHCPClient, Link: d.Link} }
func (d DHCPClient) String() string { return "may ask" }

// Masquerade hides a subnet behind the node where its traffic leaves through
// an interface that is not Patchbay's. Hairpin connections of the subnet are
// hidden too, always.
type Masquerade struct {
	// Link is the bridge or point-to-point interface of the subnet.
	Link   string
	Subnet netip.Prefix
	// Egress false hides hairpin connections only.
	Egress bool
	// Source is the node address to use; the zero Addr leaves it to routing.
	Source netip.Addr
}

func (m Masquerade) Key() Key {
	return Key{Kind: KindMasquerade, Link: m.Link, Name: m.Subnet.String()}
}

func (m Masquerade) String() string {
	switch {
	case !m.Egress:
		return "hairpin"
	case m.Source.IsValid():
		return "hairpin egress source=" + m.Source.String()
	}
	return "hairpin egress"
}

// NoMasquerade lets a destination see a subnet's own addresses.
type NoMasquerade struct {
	Link   string
	Subnet netip.Prefix
	Dst    netip.Prefix
}

func (n NoMasquerade) Key() Key {
	return Key{Kind: KindNoMasquerade, Link: n.Link, Name: n.Subnet.String() + " to " + n.Dst.String()}
}
func (n NoMasquerade) String() string { return "" }
