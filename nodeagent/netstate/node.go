package netstate

import (
	"maps"
	"net/netip"
	"slices"
)

// Node has the facts about the host that compile needs beyond the resources: facts that
// Patchbay did not make.
type Node struct {
	// Name of the node.
	Name string
	// DefaultLink is the interface of the IPv4 default route, else of the IPv6
	// one; empty without a default route.
	DefaultLink string
	// DefaultLinks are the interfaces, not Patchbay's, of the main table's default routes,
	// in order. GatewayLinks are further interfaces that lead to a gateway, of either
	// family: by another table's default route, or by a narrower route. No bridge is among
	// GatewayLinks: a guest may be behind it. On a node without either, GatewayLinks are
	// the interfaces by which the node is in a network, except for bridges and tunnels.
	DefaultLinks, GatewayLinks []string
	// Links are the host's interfaces by name, Patchbay's own included.
	Links map[string]NodeLink
	// Routing has the host's foreign rules and routes, without the default routes of the
	// main table.
	Routing
	// Ways are for each family the interfaces, not Patchbay's, by which the node
	// reaches other hosts: with an address, or a default route.
	Ways map[Family][]string
	// Addresses are the host's own addresses, those left out that Patchbay gave its
	// links, or the kernel with IPv6.
	Addresses []NodeAddress
	// Forwarding says for each family whether forwarding is on without Patchbay: on, and
	// not recorded as switched on by Patchbay.
	Forwarding map[Family]bool
	// BridgeNF says for each family whether br_netfilter passes bridged packets
	// through the IP hooks.
	BridgeNF map[Family]bool
	// NoIPv6 is true on a kernel without IPv6 (ipv6.disable=1).
	NoIPv6 bool
	// RALinks are interfaces, not Patchbay's, that take routes from router
	// advertisements and would stop once IPv6 forwarding is on unless their
	// accept_ra is 2.
	RALinks []string
}

// Router returns the node without what does not concern traffic through it: interfaces
// that lead nowhere, but for foreign bridges, and routes to single addresses for which
// concerns is false. So the guests of others come and go without a change of it.
func (n Node) Router(concerns func(netip.Addr) bool) Node {
	leads := map[string]bool{}
	for _, list := range append(slices.Collect(maps.Values(n.Ways)), n.DefaultLinks, n.GatewayLinks) {
		for _, name := range list {
			leads[name] = true
		}
	}
	routes := n.Routes
	n.Routes = nil
	for _, r := range routes {
		if !r.Dst.IsSingleIP() || concerns(r.Dst.Addr()) {
			n.Routes = append(n.Routes, r)
			leads[r.Link] = true
		}
	}
	n.Links = maps.Clone(n.Links)
	maps.DeleteFunc(n.Links, func(name string, l NodeLink) bool { return !leads[name] && (l.Ours || l.Type != Bridge) })
	return n
}

// NodeLink is an interface of the host.
type NodeLink struct {
	Type   LinkType
	MTU    int
	Master string
	// Ours reports that the link bears Patchbay's mark.
	Ours bool
	// AltNames are the link's alternative names, parted by spaces.
	AltNames string
	// Down links are switched off.
	Down bool
	// NoForward links forward no IPv4 that comes in by them although forwarding is on.
	// IPv6 has no such switch.
	NoForward bool
	// Strict links drop IPv4 packets whose sender is not reached by them (rp_filter 1).
	Strict bool
	// XDP is true where a foreign XDP program sees packets before the kernel does.
	XDP bool
}

// NodeAddress is an address of the host.
type NodeAddress struct {
	Link   string
	Prefix netip.Prefix
}
