package compile

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/patchbay-dev/patchbay/api/v1alpha1"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
)

// AttachmentView is what a publish needs to know of its attachment.
type AttachmentView struct {
	// Addresses inside the target.
	Addresses []netip.Prefix
	// Target and Host are the ends of the link; Host is the zero End between
	// two namespaces and without a link.
	Target, Host netstate.End
	MAC          netstate.MAC
	// Way is the interface by which the node reaches the target: the bridge, or
	// the host's end.
	Way string
	// Gateways the target's default routes point to.
	Gateways []netip.Addr
	// Reachable says that the node has an address on the way, and Reached are the
	// target's addresses to which the way leads.
	Reachable bool
	Reached   []netip.Prefix
	// External says that the network's gateway is not Patchbay's: a router, or an
	// address that the node has on the bridge.
	External bool
	// Bridged targets are ports of a bridge.
	Bridged, Isolated bool
}

// Place is where an attachment goes and what it was given: the namespace of its
// target, which for a pod only the container runtime knows, the name of its
// interface there, and addresses.
type Place struct {
	Target    netstate.End
	Addresses []netip.Prefix
	// NoIPv6 are External namespaces in which IPv6 is off, and stays so.
	NoIPv6 []string
	// Routing has the target's rules and routes that Patchbay did not make, PeerRouting
	// the same of the namespace of the other end.
	Routing, PeerRouting netstate.Routing
}

// Attachment compiles an attachment at its place. The network is nil for one that
// names none.
func Attachment(a *v1alpha1.NamespaceAttachment, network *NetworkView, at Place, c Context) (Result, AttachmentView, *Problem) {
	b := &attachment{a: a, net: network, c: c, r: Result{Objects: netstate.Set{}},
		mark: netstate.Mark(c.Source, netstate.Owner{Kind: netstate.OwnerAttachment, Namespace: a.Namespace, Name: a.Name})}
	b.noIPv6 = at.NoIPv6
	b.view.Addresses = b.usable(at.Target.Netns, at.Addresses)
	b.netns(at.Target, lifecycleOf(a.Spec.Target))
	if network == nil && a.Spec.PointToPoint == nil {
		return b.r, b.view, nil
	}
	for _, p := range at.Addresses {
		if nodeHas(c.Node, p.Addr()) {
			return b.r, b.view, problem(v1alpha1.ReasonAddressConflict, "spec.addresses: %s is an address of node %s itself: choose another", p.Addr(), c.Node.Name)
		}
	}
	b.targetEnd(at.Target)
	switch p2p := a.Spec.PointToPoint; {
	case network != nil:
		b.bridged()
		for _, p := range at.Addresses {
			b.r.claim(AddressClaim(network.Name, p.Addr()))
		}
	case p2p.Host != nil:
		b.toHost(Prefixes(p2p.Host.Addresses))
	default:
		b.toNetns(p2p.Netns)
	}
	b.limit()
	if len(at.Addresses) == 0 {
		b.r.note(problem(v1alpha1.ReasonProgrammed, "built, no address: the interface carries frames, and IP once something else gives it an address"))
	}
	p := b.routes()
	b.foreign(at)
	b.r.withoutIPv6(c.Node)
	return b.r, b.view, p
}

type attachment struct {
	a    *v1alpha1.NamespaceAttachment
	net  *NetworkView
	c    Context
	mark string
	r    Result
	view AttachmentView
	// noIPv6 are as of Place.
	noIPv6 []string
}

// usable returns the addresses that an interface in a namespace can have.
func (b *attachment) usable(netns string, addresses []netip.Prefix) []netip.Prefix {
	if !slices.Contains(b.noIPv6, netns) {
		return addresses
	}
	var kept, left []netip.Prefix
	for _, p := range addresses {
		if p.Addr().Is6() {
			left = append(left, p)
		} else {
			kept = append(kept, p)
		}
	}
	why := fmt.Sprintf("IPv6 is off in network namespace %s, which is not Patchbay's: set net.ipv6.conf.all.disable_ipv6 to 0 there to have %s", netns, list(left))
	switch {
	case len(left) == 0:
	case len(kept) == 0:
		b.r.lack(problem(v1alpha1.ReasonIPv6Disabled, "no address: %s", why))
	default:
		b.r.note(problem(v1alpha1.ReasonIPv6Disabled, "IPv4 alone: %s", why))
	}
	return kept
}

func list(prefixes []netip.Prefix) string {
	var texts []string
	for _, p := range prefixes {
		texts = append(texts, p.String())
	}
	return strings.Join(texts, ", ")
}

// netns wants the namespace and, where Patchbay makes it, its loopback up. A
// namespace is shared only within one Kubernetes namespace.
func (b *attachment) netns(at netstate.End, lifecycle v1alpha1.Lifecycle) {
	name := at.Netns
	managed := lifecycle != v1alpha1.External
	b.r.add(netstate.Netns{Name: name, Managed: managed})
	if managed {
		b.r.add(netstate.Link{Netns: name, Name: "lo", Type: netstate.Loopback, Mark: netstate.NetnsMark(b.c.Source, name), Attributes: netstate.LoopbackAttributes, Up: true})
	}
	b.r.claim(Claim{
		Thing: Thing{Kind: NetnsName, Name: name}, Sharers: b.a.Namespace + " " + string(lifecycle),
		Reason: v1alpha1.ReasonInterfaceConflict, Field: "spec.target.netns", Proof: linkKey(at),
	})
}

// lifecycleOf returns the lifecycle of a target's namespace. The container runtime makes the
// namespaces of pods.
func lifecycleOf(t v1alpha1.AttachmentTarget) v1alpha1.Lifecycle {
	if t.Netns == nil {
		return v1alpha1.External
	}
	return t.Netns.Lifecycle
}

func (b *attachment) targetEnd(end netstate.End) {
	b.view.Target = end
	b.view.MAC = deriveMAC("nsa", b.c.Node.Name, b.a.Namespace, b.a.Name)
	if mac, err := netstate.ParseMAC(b.a.Spec.MACAddress); err == nil {
		b.view.MAC = mac
	}
	b.claimInterface(b.view.Target, "spec.interface")
}

func (b *attachment) claimInterface(e netstate.End, field string) {
	b.r.claim(InterfaceClaim(e, field))
}

func (b *attachment) mtu(fallback int) int {
	if b.a.Spec.MTU != nil {
		return int(*b.a.Spec.MTU)
	}
	return fallback
}

// bridged joins the target to the network's bridge.
func (b *attachment) bridged() {
	v := b.net
	b.view.Way = v.Bridge
	host := netstate.Link{Master: v.Bridge, Isolated: v.Isolated}
	b.pair(host, b.mtu(v.MTU))
	b.inside(b.view.Target, b.view.Addresses)
	b.deaf(b.view.Host.Name)
	b.r.claim(b.portClaim())
	b.r.claim(Claim{Thing: Thing{Kind: NetworkMAC, Name: v.Name, MAC: b.view.MAC}, Reason: v1alpha1.ReasonMACConflict, Field: "spec.macAddress", Proof: linkKey(b.view.Target)})
	filtered := v.AntiSpoof && !b.c.NoAntiSpoof
	for _, p := range b.view.Addresses {
		if filtered {
			b.r.add(netstate.PortAddress{Link: b.view.Host.Name, MAC: b.view.MAC, Addr: p.Addr()})
		}
	}
	if filtered {
		b.r.add(netstate.PortFilter{Link: b.view.Host.Name, MAC: b.view.MAC})
		b.allow(b.view.Host.Name)
	}
	b.r.Claims = append(b.r.Claims, AllowedClaims(b.a)...)
	b.view.Bridged, b.view.Isolated = true, v.Isolated
	b.reach()
}

// allow lets a filtered port also send as what the attachment is allowed, from each of
// its MAC addresses: a VRRP router sends its advertisements from its own address with
// the virtual MAC (RFC 9568, section 7.2). One that has no IPv4 address, and is
// given none, may ask for one.
func (b *attachment) allow(port string) {
	list := b.a.Spec.AllowedPrefixes()
	for _, m := range b.a.Spec.AllowedMACAddresses {
		mac, err := netstate.ParseMAC(string(m))
		if err != nil || mac == b.view.MAC {
			continue
		}
		b.r.add(netstate.AllowedMAC{Link: port, MAC: mac})
		list = append(list, host(mac.LinkLocal()))
	}
	if len(b.a.Spec.AllowedMACAddresses) > 0 {
		list = append(list, host(b.view.MAC.LinkLocal()))
		for _, p := range b.view.Addresses {
			list = append(list, host(p.Addr()))
		}
	}
	for _, family := range []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()} {
		for _, p := range merged(list, family) {
			b.r.add(netstate.AllowedPrefix{Link: port, Prefix: p})
		}
	}
	if _, has := ofFamily(b.view.Addresses, netip.Prefix.Addr, netip.IPv4Unspecified()); !has && !hasSubnet(b.net.Subnets, netstate.IPv4) {
		b.r.add(netstate.DHCPClient{Link: port})
	}
}

// AllowedClaims returns claims of the single addresses that an attachment may also
// send as. Several attachments may send as one, but none is assigned it. A range is
// not kept free.
func AllowedClaims(a *v1alpha1.NamespaceAttachment) []Claim {
	var out []Claim
	for _, p := range a.Spec.AllowedPrefixes() {
		if own := slices.ContainsFunc(Prefixes(a.Spec.Addresses), func(o netip.Prefix) bool { return o.Addr() == p.Addr() }); p.IsSingleIP() && !own {
			c := AddressClaim(a.Spec.Network, p.Addr())
			c.Sharers, c.Field = "allowedAddresses", "spec.allowedAddresses"
			out = append(out, c)
		}
	}
	return out
}

// deaf keeps the node itself off a bridge port: frames to link-local groups reach
// it there and not by the bridge. It answers no ARP (8 is "for no address") and
// takes no IPv4, since no route leads back by the port, nor IPv6, nor an address
// from a router advertisement.
func (b *attachment) deaf(port string) {
	b.r.add(linkSysctl("", port, "ipv6", "disable_ipv6", "1"), linkSysctl("", port, "ipv4", "rp_filter", "1"), linkSysctl("", port, "ipv4", "arp_ignore", "8"))
}

// reach finds the target's addresses to which the node has a way over the bridge. With an
// External gateway the node has one if the bridge has an address of the subnet.
func (b *attachment) reach() {
	b.view.External = b.net.Mode == v1alpha1.GatewayExternal
	switch b.net.Mode {
	case v1alpha1.GatewayBridge:
		b.view.Reachable, b.view.Reached = true, b.view.Addresses
	case v1alpha1.GatewayExternal:
		for _, p := range b.view.Addresses {
			if nodeIsBeside(b.c.Node, b.net.Bridge, p.Addr()) {
				b.view.Reachable, b.view.Reached = true, append(b.view.Reached, p)
			}
		}
	}
}

// nodeIsBeside reports whether the node has an address on a link whose subnet contains
// another address.
func nodeIsBeside(node netstate.Node, link string, a netip.Addr) bool {
	return slices.ContainsFunc(node.Addresses, func(n netstate.NodeAddress) bool { return n.Link == link && n.Prefix.Contains(a) })
}

// Siblings adds the objects that an attachment needs where its target has further
// attachments to the same network, as several interfaces in one LAN. The target has
// one routing table, by which it answers for the address of one interface through
// another. So the port lets the addresses of these interfaces through, each interface
// answers ARP for its own address alone, and takes packets whose way back leads by
// another interface (Documentation/networking/ip-sysctl: arp_ignore, rp_filter).
func (r *Result) Siblings(v AttachmentView, theirs []netip.Prefix, antiSpoof bool) {
	r.add(linkSysctl(v.Target.Netns, v.Target.Name, "ipv4", "arp_ignore", "1"), linkSysctl(v.Target.Netns, v.Target.Name, "ipv4", "rp_filter", "2"))
	for _, p := range theirs {
		if antiSpoof {
			r.add(netstate.PortAddress{Link: v.Host.Name, MAC: v.MAC, Addr: p.Addr()})
		}
	}
}

// toHost joins the target to the host itself. The node reaches the target by a
// route to its address alone, so that two links may use one subnet.
func (b *attachment) toHost(hostAddresses []netip.Prefix) {
	b.pair(netstate.Link{}, b.mtu(mtuOf(b.c.Node, b.c.Node.DefaultLink)))
	b.inside(b.view.Target, b.view.Addresses)
	link := b.view.Host.Name
	b.view.Way = link
	disable6 := "1"
	for _, p := range append(hostAddresses, b.view.Addresses...) {
		if p.Addr().Is6() {
			disable6 = "0"
		}
	}
	b.r.add(linkSysctl("", link, "ipv6", "disable_ipv6", disable6), linkSysctl("", link, "ipv4", "rp_filter", "1"),
		netstate.LinkPolicy{Link: link, Guarded: true})
	if disable6 == "0" {
		b.r.add(linkSysctl("", link, "ipv6", "accept_dad", "0"), linkSysctl("", link, "ipv6", "accept_ra", "0"))
	}
	for _, p := range hostAddresses {
		b.r.add(netstate.Address{Link: link, Prefix: p, NoPrefixRoute: true})
	}
	egress := b.defaultRoute()
	for _, p := range b.view.Addresses {
		b.r.passed(b.c, link, netstate.FamilyOf(p.Addr()))
		src, _ := ofFamily(hostAddresses, netip.Prefix.Addr, p.Addr())
		route := netstate.Route{Link: link, Dst: host(p.Addr()), Src: src}
		b.r.add(route,
			netstate.Masquerade{Link: link, Subnet: host(p.Addr()), Egress: egress})
		b.r.claim(Claim{Thing: Thing{Kind: LinkAddress, Subnet: host(p.Addr())}, Reason: v1alpha1.ReasonAddressConflict, Field: "spec.addresses", Proof: route.Key()})
		if egress {
			b.r.forwarded(b.c, link, netstate.FamilyOf(p.Addr()), openings(b.c.Node, link, netstate.FamilyOf(p.Addr()))...)
			b.r.add(linkSysctl("", link, "ipv4", "forwarding", "1"))
			b.r.add(forwarding(b.c, netstate.FamilyOf(p.Addr()))...)
		}
	}
	b.view.Reachable, b.view.Reached = true, b.view.Addresses
	for _, p := range hostAddresses {
		b.gateway(p.Addr())
	}
}

// pair wants a veth pair with one end on the host.
func (b *attachment) pair(host netstate.Link, mtu int) {
	b.view.Host = netstate.End{Name: HostInterfaceName(b.a)}
	b.claimInterface(b.view.Host, "spec.hostInterface")
	b.r.attached(b.c, b.view.Host.Name)
	host.Name, host.Primary = b.view.Host.Name, true
	host.MAC = deriveMAC("host", b.c.Node.Name, b.a.Namespace, b.a.Name)
	b.veth(host, netstate.Link{Netns: b.view.Target.Netns, Name: b.view.Target.Name, MAC: b.view.MAC}, mtu)
}

// veth adds both ends of a pair, each naming the other.
func (b *attachment) veth(one, other netstate.Link, mtu int) {
	one.Peer, other.Peer = netstate.End{Netns: other.Netns, Name: other.Name}, netstate.End{Netns: one.Netns, Name: one.Name}
	for _, l := range []*netstate.Link{&one, &other} {
		l.Type, l.MTU, l.Mark, l.Attributes, l.Up = netstate.Veth, mtu, b.mark, netstate.LinkAttributes, true
		if l.Master != "" {
			l.Attributes = l.Attributes.And(netstate.PortAttributes).With(netstate.MulticastGroups, portGroups)
		}
		b.r.add(*l)
	}
}

// toNetns joins the target to a second namespace; nothing is on the host.
func (b *attachment) toNetns(far *v1alpha1.NetnsEnd) {
	end := farEnd(far)
	if end.Netns != b.view.Target.Netns {
		b.netns(end, far.Lifecycle)
	}
	b.claimInterface(end, "spec.pointToPoint.netns.interface")
	b.veth(netstate.Link{Netns: b.view.Target.Netns, Name: b.view.Target.Name, MAC: b.view.MAC, Primary: true},
		netstate.Link{Netns: end.Netns, Name: end.Name, MAC: deriveMAC("peer", b.c.Node.Name, b.a.Namespace, b.a.Name)},
		b.mtu(mtuOf(b.c.Node, b.c.Node.DefaultLink)))
	b.inside(b.view.Target, b.view.Addresses)
	addresses := b.usable(end.Netns, Prefixes(far.Addresses))
	b.inside(end, addresses)
	for _, p := range addresses {
		b.gateway(p.Addr())
	}
}

// farEnd returns the other end of a link between two namespaces.
func farEnd(far *v1alpha1.NetnsEnd) netstate.End {
	end := netstate.End{Netns: string(far.Name), Name: string(far.Interface)}
	if end.Name == "" {
		end.Name = "eth0"
	}
	return end
}

// inside gives an end in a namespace its addresses. They are usable at once:
// no other host can have them, so there is nothing to detect.
func (b *attachment) inside(e netstate.End, addresses []netip.Prefix) {
	b.r.add(linkSysctl(e.Netns, e.Name, "ipv6", "accept_dad", "0"), linkSysctl(e.Netns, e.Name, "ipv6", "accept_ra", "0"))
	for _, p := range addresses {
		b.r.add(netstate.Address{Netns: e.Netns, Link: e.Name, Prefix: p})
		if p.Addr().Is6() {
			b.r.add(linkSysctl(e.Netns, e.Name, "ipv6", "disable_ipv6", "0"))
		}
	}
}

// defaultRoute says whether the target's default route is wanted here. A pod has
// one already.
func (b *attachment) defaultRoute() bool {
	if b.a.Spec.DefaultRoute != nil {
		return *b.a.Spec.DefaultRoute
	}
	return b.net != nil && b.net.Mode != v1alpha1.GatewayNone && b.a.Spec.Target.Netns != nil
}

// gateway makes an address the way out, if a default route is wanted and the
// target has an address of that family.
func (b *attachment) gateway(via netip.Addr) {
	_, usable := ofFamily(b.view.Addresses, netip.Prefix.Addr, via)
	_, taken := ofFamily(b.view.Gateways, ident, via)
	if b.defaultRoute() && usable && !taken {
		b.view.Gateways = append(b.view.Gateways, via)
	}
}

// routes adds the target's default routes and the further ones.
func (b *attachment) routes() *Problem {
	if b.net != nil {
		for _, gw := range b.net.Gateways {
			b.gateway(gw)
		}
	}
	if b.a.Spec.DefaultRoute != nil && *b.a.Spec.DefaultRoute && len(b.view.Gateways) == 0 {
		return problem(v1alpha1.ReasonUnsupported, "spec.defaultRoute: there is no gateway of the target's address family to route by: give the network a gateway, the peer an address, or set defaultRoute false")
	}
	for _, gw := range b.view.Gateways {
		any := netip.PrefixFrom(netip.IPv6Unspecified(), 0)
		if gw.Is4() {
			any = netip.PrefixFrom(netip.IPv4Unspecified(), 0)
		}
		route := b.route(netstate.Route{Dst: any, Via: gw, First: b.first()})
		b.r.claim(Claim{
			Thing:  Thing{Kind: DefaultRoute, Netns: b.view.Target.Netns, Family: netstate.FamilyOf(gw)},
			Reason: v1alpha1.ReasonInterfaceConflict, Field: "spec.defaultRoute",
			Key: route, Soft: b.a.Spec.DefaultRoute == nil, Proof: route,
		})
	}
	for _, r := range b.a.Spec.Routes {
		to, _ := netip.ParsePrefix(string(r.To))
		if to.Addr().Is6() && slices.Contains(b.noIPv6, b.view.Target.Netns) {
			continue
		}
		via, _ := netip.ParseAddr(string(r.Via))
		b.route(netstate.Route{Dst: to, Via: via})
	}
	return nil
}

// first reports whether the default route goes before the existing one of an External
// target: only where spec.defaultRoute asks for it.
func (b *attachment) first() bool {
	return b.a.Spec.DefaultRoute != nil && lifecycleOf(b.a.Spec.Target) == v1alpha1.External
}

func (b *attachment) route(r netstate.Route) netstate.Key {
	r.Netns, r.Link = b.view.Target.Netns, b.view.Target.Name
	b.r.add(r)
	return r.Key()
}
