package compile

import (
	"net/netip"
	"slices"
	"strings"

	"go4.org/netipx"

	"github.com/patchbay-dev/patchbay/api/v1alpha1"
	"github.com/patchbay-dev/patchbay/nodeagent/ipam"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
)

// NetworkView is what attachments need to know of their network: its spec with
// every default filled in.
type NetworkView struct {
	Name     string
	Bridge   string
	Managed  bool
	MTU      int
	Subnets  []netip.Prefix
	Mode     v1alpha1.GatewayMode
	Gateways []netip.Addr
	Exclude  []netipx.IPRange
	AntiSpoof, Isolated, Guarded,
	Masquerade bool
	Uplink string
	// Source is the address that egress hides behind, if one was named.
	Source netip.Addr
}

// View fills in a network's defaults for one node.
func View(n *v1alpha1.BridgeNetwork, node netstate.Node) NetworkView {
	s := &n.Spec
	v := NetworkView{
		Name:     n.Name,
		Bridge:   BridgeName(n),
		Managed:  s.Bridge.Lifecycle != v1alpha1.External,
		Subnets:  Prefixes(s.Subnets),
		Mode:     s.Gateway.Mode,
		Gateways: s.Gateways(),
		Isolated: s.Isolation.Ports,
		Guarded:  s.Isolation.Ingress != v1alpha1.IngressOpen,
	}
	if v.Mode == "" {
		v.Mode = v1alpha1.GatewayBridge
	}
	if len(v.Subnets) == 0 && v.Mode == v1alpha1.GatewayBridge {
		v.Mode = v1alpha1.GatewayNone
	}
	v.Source, _ = netip.ParseAddr(s.Egress.SourceAddress)
	if s.Uplink != nil {
		v.Uplink = s.Uplink.Interface
	}
	v.AntiSpoof = s.Isolation.AntiSpoof == nil && v.Managed || s.Isolation.AntiSpoof != nil && *s.Isolation.AntiSpoof
	v.Masquerade = s.Egress.Masquerade == nil && v.Mode == v1alpha1.GatewayBridge || s.Egress.Masquerade != nil && *s.Egress.Masquerade
	v.MTU = bridgeMTU(n, v, node)
	v.Exclude = excluded(s.IPAM)
	return v
}

func excluded(s *v1alpha1.NetworkIPAM) []netipx.IPRange {
	if s == nil {
		return nil
	}
	var out []netipx.IPRange
	for _, e := range s.Exclude {
		if r, err := ipam.ParseRange(string(e)); err == nil && r.IsValid() {
			out = append(out, r)
		}
	}
	return out
}

func bridgeMTU(n *v1alpha1.BridgeNetwork, v NetworkView, node netstate.Node) int {
	switch {
	case n.Spec.Bridge.MTU != nil:
		return int(*n.Spec.Bridge.MTU)
	case !v.Managed:
		return mtuOf(node, v.Bridge)
	case v.Uplink != "":
		return mtuOf(node, v.Uplink)
	}
	return mtuOf(node, node.DefaultLink)
}

// Network compiles a network: its bridge, uplink, gateway addresses and what
// the firewall holds of it. With a problem it returns what may stay of a network
// that is there already; one that is not must not be built.
func Network(n *v1alpha1.BridgeNetwork, c Context) (Result, *Problem) {
	v := View(n, c.Node)
	r := Result{Objects: netstate.Set{}}
	p := checkNetwork(v, c.Node)
	if v.Managed {
		addBridge(&r, n, v, c)
	}
	if v.Uplink != "" && p == nil {
		port := netstate.Port{Link: v.Uplink, Master: v.Bridge, Up: true, Attributes: netstate.PortAttributes}
		r.claim(Claim{Thing: Thing{Kind: Uplink, Name: v.Uplink}, Reason: v1alpha1.ReasonUplinkInUse, Field: "spec.uplink.interface", Proof: port.Key()})
		r.add(port)
	}
	r.claim(InterfaceClaim(netstate.End{Name: v.Bridge}, "spec.bridge.name"))
	if v.Guarded && !v.Managed {
		// Guarded is a whole bridge, and Patchbay must not close the foreign ports
		// of this one.
		v.Guarded = false
		r.note(problem(v1alpha1.ReasonUnsupported, "built, but spec.isolation.ingress PublishedOnly is not enforced on bridge %s, which Patchbay did not make: set Open to say so, or use lifecycle Managed", v.Bridge))
	}
	// Behind an uplink the bridge is no gateway that could be the way around isolated
	// ports, and br_netfilter shows the LAN's frames as forwarded.
	r.add(netstate.LinkPolicy{Link: v.Bridge, Guarded: v.Guarded, Isolated: v.Isolated && v.Uplink == ""})
	if v.Mode == v1alpha1.GatewayBridge {
		addGateway(&r, v, c)
	}
	r.framed(c, v.Bridge)
	r.note(c.unfiltered(v))
	v.foreign(&r, c.Node)
	addEgress(&r, n, v)
	r.withoutIPv6(c.Node)
	return r, p
}

func checkNetwork(v NetworkView, node netstate.Node) *Problem {
	if l, ok := node.Links[v.Bridge]; !v.Managed && !ok {
		return problem(v1alpha1.ReasonInterfaceConflict, "spec.bridge.name: there is no bridge %s on node %s: %s", v.Bridge, node.Name, nameInstead(v.Bridge, node, "create it, or use lifecycle Managed"))
	} else if !v.Managed && l.Type != netstate.Bridge {
		return problem(v1alpha1.ReasonInterfaceConflict, "spec.bridge.name: interface %s of node %s is not a bridge: name a bridge", v.Bridge, node.Name)
	}
	if v.Mode == v1alpha1.GatewayBridge {
		for _, s := range v.Subnets {
			if p := checkOverlap(s, v.Bridge, node); p != nil {
				return p
			}
		}
	}
	if v.Source.IsValid() && !nodeHas(node, v.Source) {
		return problem(v1alpha1.ReasonAddressConflict, "spec.egress.sourceAddress: %s is not an address of node %s: replies would not find back; name one that is, or leave it out", v.Source, node.Name)
	}
	if v.Uplink == "" {
		return nil
	}
	return checkUplink(v, node)
}

// nameInstead returns the advice for an interface name that the node does not have: to
// name the interface that has it as its alternative name, or else the given advice.
func nameInstead(missing string, node netstate.Node, advice string) string {
	for name, l := range node.Links {
		if slices.Contains(strings.Fields(l.AltNames), missing) {
			return "name " + name + ", of which that is an alternative name"
		}
	}
	return advice
}

// checkUplink refuses an interface whose loss would cut off the node: joined to
// a bridge, an interface no longer carries the host's own traffic.
func checkUplink(v NetworkView, node netstate.Node) *Problem {
	l, ok := node.Links[v.Uplink]
	switch {
	case !ok:
		return problem(v1alpha1.ReasonUplinkNotFound, "spec.uplink.interface: node %s has no interface %s: %s", node.Name, v.Uplink, nameInstead(v.Uplink, node, "name one it has"))
	case l.Master == v.Bridge:
		return nil
	case v.Uplink == node.DefaultLink || slices.Contains(node.DefaultLinks, v.Uplink):
		return problem(v1alpha1.ReasonUplinkInUse, "spec.uplink.interface: %s carries the default route of node %s, which would lose its network: use another interface", v.Uplink, node.Name)
	case l.Master != "":
		return problem(v1alpha1.ReasonUplinkInUse, "spec.uplink.interface: %s of node %s is already a port of %s: remove it from there, or use another interface", v.Uplink, node.Name, l.Master)
	case l.Ours || l.Type == netstate.Loopback || l.Type == netstate.Bridge:
		return problem(v1alpha1.ReasonUplinkInUse, "spec.uplink.interface: %s of node %s cannot join a bridge: use a network interface that Patchbay did not make", v.Uplink, node.Name)
	}
	return nil
}

func addBridge(r *Result, n *v1alpha1.BridgeNetwork, v NetworkView, c Context) {
	mark := netstate.Mark(c.Source, netstate.Owner{Kind: netstate.OwnerNetwork, Name: n.Name})
	r.add(netstate.Link{Name: v.Bridge, Type: netstate.Bridge, MAC: deriveMAC("bnet", c.Node.Name, n.Name), MTU: v.MTU, Mark: mark, Attributes: bridgeAttributes(v, c.Attached), Up: true})
	routed := v.Mode == v1alpha1.GatewayBridge
	v6 := routed && hasFamily(v.Gateways, netstate.IPv6)
	// ARP probes pass rp_filter, and a node without a gateway there would answer for
	// its other addresses.
	rpFilter, arpIgnore, disable6 := "1", "1", "1"
	if routed {
		r.add(linkSysctl("", v.Bridge, "ipv4", "forwarding", "1"))
		// Strict filtering breaks publishing for a target with two networks.
		rpFilter, arpIgnore = "2", "0"
	}
	if v6 {
		disable6 = "0"
		r.add(
			linkSysctl("", v.Bridge, "ipv6", "accept_dad", "0"),
			linkSysctl("", v.Bridge, "ipv6", "accept_ra", "0"),
			linkSysctl("", v.Bridge, "ipv6", "keep_addr_on_down", "1"),
		)
	}
	r.add(
		linkSysctl("", v.Bridge, "ipv6", "disable_ipv6", disable6),
		linkSysctl("", v.Bridge, "ipv4", "rp_filter", rpFilter),
		linkSysctl("", v.Bridge, "ipv4", "arp_ignore", arpIgnore),
	)
}

// The number of MAC addresses that a bridge learns at most where more hosts than its
// attachments are behind its ports: guests of attachments that are not held to their
// addresses, or a LAN.
const (
	learnedOfGuests   = 4 << 10
	learnedWithUplink = 32 << 10
)

// Room returns how many MAC addresses a bridge learns at most: eight for each attachment,
// their number rounded up to a power of two, so that an attachment that comes or goes
// rarely changes the bridge.
func Room(attachments int) uint32 {
	ports := 8
	for ports < attachments {
		ports *= 2
	}
	return uint32(8 * ports)
}

// Snooping goes off for good in a bridge that holds multicastGroups. Its ports at
// their limit of portGroups each stay below.
const (
	portGroups      = 128
	multicastGroups = 1024 * portGroups
)

// macAgeing is the kernel's own, 300 s, in hundredths of a second.
const macAgeing = 30000

// bridgeAttributes keep the frames of one port from changing how other ports are
// reached: frames to link-local groups pass the port filter, so the bridge learns
// nothing from them.
func bridgeAttributes(v NetworkView, attached int) netstate.Attributes {
	learned := Room(attached)
	switch {
	case v.Uplink != "":
		learned = learnedWithUplink
	case !v.AntiSpoof:
		learned = learnedOfGuests
	}
	s := netstate.LinkAttributes
	if v.Mode == v1alpha1.GatewayBridge && hasFamily(v.Gateways, netstate.IPv6) {
		s = s.With(netstate.LinkLocal, 1)
	}
	return s.With(netstate.NoLinkLocalLearn, 1).With(netstate.FDBMaxLearned, learned).
		With(netstate.MulticastSnooping, 1).With(netstate.MulticastHashMax, multicastGroups).
		With(netstate.STP, 0).With(netstate.ForwardDelay, 0).With(netstate.Ageing, macAgeing).
		With(netstate.VLANFiltering, 0).With(netstate.GroupForward, 0).With(netstate.CallIPTables, 0).With(netstate.CallIP6Tables, 0).With(netstate.OwnMAC, 1)
}

// addGateway gives the bridge its addresses and the node its routing.
func addGateway(r *Result, v NetworkView, c Context) {
	for _, gw := range v.Gateways {
		for _, s := range v.Subnets {
			if !s.Contains(gw) {
				continue
			}
			address := netstate.Address{Link: v.Bridge, Prefix: netip.PrefixFrom(gw, s.Bits())}
			r.add(address)
			r.forwarded(c, v.Bridge, netstate.FamilyOf(gw), openings(c.Node, v.Bridge, netstate.FamilyOf(gw))...)
			r.passed(c, v.Bridge, netstate.FamilyOf(gw))
			r.add(forwarding(c, netstate.FamilyOf(gw))...)
			r.claim(subnetClaim(s, address.Key()))
		}
	}
}

func addEgress(r *Result, n *v1alpha1.BridgeNetwork, v NetworkView) {
	if v.Mode == v1alpha1.GatewayNone {
		return
	}
	for _, s := range v.Subnets {
		m := netstate.Masquerade{Link: v.Bridge, Subnet: s, Egress: v.Masquerade}
		if v.Masquerade && v.Source.IsValid() && v.Source.Is4() == s.Addr().Is4() {
			m.Source = v.Source
		}
		r.add(m)
		if !v.Masquerade {
			continue
		}
		r.claim(subnetClaim(s, m.Key()))
		for _, d := range merged(Prefixes(n.Spec.Egress.ExcludeDestinations), s.Addr()) {
			r.add(netstate.NoMasquerade{Link: v.Bridge, Subnet: s, Dst: d})
		}
	}
}

// merged returns the prefixes of one family without the ones inside another: nested
// elements of an nftables interval set are an error (EEXIST).
func merged(in []netip.Prefix, like netip.Addr) []netip.Prefix {
	var out []netip.Prefix
	for i, p := range in {
		covered := p.Addr().Is4() != like.Is4()
		for j, q := range in {
			covered = covered || j != i && q.Contains(p.Addr()) && (q.Bits() < p.Bits() || q == p && j < i)
		}
		if !covered {
			out = append(out, p)
		}
	}
	return out
}

func hasSubnet(list []netip.Prefix, f netstate.Family) bool {
	return slices.ContainsFunc(list, func(p netip.Prefix) bool { return netstate.FamilyOf(p.Addr()) == f })
}

func hasFamily(list []netip.Addr, f netstate.Family) bool {
	for _, a := range list {
		if netstate.FamilyOf(a) == f {
			return true
		}
	}
	return false
}
