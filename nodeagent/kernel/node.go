package kernel

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/patchbay-dev/patchbay/nodeagent/kernel/rtnl"
	"github.com/patchbay-dev/patchbay/nodeagent/kernel/sysctl"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
	"golang.org/x/sys/unix"
)

// node describes the host.
func (s *session) node() (netstate.Node, error) {
	n := netstate.Node{
		Name:       s.k.opts.NodeName,
		Links:      map[string]netstate.NodeLink{},
		Forwarding: map[netstate.Family]bool{},
		BridgeNF: map[netstate.Family]bool{
			netstate.IPv4: isOne("net/bridge/bridge-nf-call-iptables"),
			netstate.IPv6: isOne("net/bridge/bridge-nf-call-ip6tables"),
		},
	}
	ns, err := s.namespace("")
	if err != nil {
		return n, err
	}
	links, err := ns.allLinks()
	if err != nil {
		return n, fmt.Errorf("list interfaces: %w", err)
	}
	if err := addNodeAddresses(&n, ns, links); err != nil {
		return n, fmt.Errorf("list addresses: %w", err)
	}
	announced, err := addNodeRoutes(&n, ns, links)
	if err != nil {
		return n, fmt.Errorf("list routes: %w", err)
	}
	if len(n.DefaultLinks)+len(n.GatewayLinks) == 0 {
		addNetworks(&n, links)
	}
	addNodeLinks(&n, links)
	_, err = sysctl.Read("net/ipv6/conf/all/forwarding")
	n.NoIPv6 = errors.Is(err, os.ErrNotExist)
	n.Forwarding, n.RALinks = s.k.forwarding(), s.k.raLinks(links, announced)
	return n, nil
}

func addNodeLinks(n *netstate.Node, links []*rtnl.Link) {
	names := map[int32]string{}
	for _, l := range links {
		names[l.Index] = l.Name
	}
	for _, l := range links {
		one := netstate.NodeLink{Type: l.Typ(), MTU: l.MTU, Master: names[l.Master], Ours: l.Marked(), Down: !l.Up(), XDP: l.XDP, AltNames: strings.Join(l.Others, " ")}
		if slices.Contains(n.Ways[netstate.IPv4], l.Name) {
			one.NoForward, one.Strict = forwardsNothing(l.Name), checksSenders(l.Name)
		}
		n.Links[l.Name] = one
	}
}

// addWays finds the interfaces by which the node reaches other hosts. A dummy leads
// nowhere, whatever addresses it has (kube-proxy's kube-ipvs0).
func addWays(n *netstate.Node, links []*rtnl.Link, defaults []rtnl.Route) {
	n.Ways = map[netstate.Family][]string{}
	byIndex := map[int32]*rtnl.Link{}
	add := func(l *rtnl.Link, a netip.Addr) {
		f := netstate.FamilyOf(a)
		if l != nil && !l.Marked() && !l.Loopback() && l.Kind != "dummy" && !a.IsLinkLocalUnicast() && !slices.Contains(n.Ways[f], l.Name) {
			n.Ways[f] = append(n.Ways[f], l.Name)
		}
	}
	byName := map[string]*rtnl.Link{}
	for _, l := range links {
		byIndex[l.Index], byName[l.Name] = l, l
	}
	for _, a := range n.Addresses {
		add(byName[a.Link], a.Prefix.Addr())
	}
	for _, r := range defaults {
		for _, index := range r.Links {
			add(byIndex[index], r.Dst.Addr())
		}
	}
	for _, ways := range n.Ways {
		slices.Sort(ways)
	}
}

// forwardsNothing reads the switch of an interface. While the node's own is off it
// says nothing: that sets all of them when it is switched on.
func forwardsNothing(link string) bool {
	value, err := sysctl.Read(path.Join("net/ipv4/conf", link, "forwarding"))
	return err == nil && value == "0" && isOne(forwardingPaths[netstate.IPv4])
}

func addNodeAddresses(n *netstate.Node, ns *namespace, links []*rtnl.Link) error {
	byIndex := map[int32]*rtnl.Link{}
	for _, l := range links {
		byIndex[l.Index] = l
	}
	addresses, err := ns.addresses(unix.AF_UNSPEC, 0)
	for _, a := range addresses {
		l := byIndex[a.Index]
		if l == nil || l.Marked() && (a.Protocol == netstate.RouteProtocol || a.Prefix.Addr().Is6() && a.Prefix.Addr().IsLinkLocalUnicast()) {
			continue
		}
		n.Addresses = append(n.Addresses, netstate.NodeAddress{Link: l.Name, Prefix: a.Prefix})
	}
	return err
}

// addNodeRoutes also returns the links with routes from router advertisements.
func addNodeRoutes(n *netstate.Node, ns *namespace, links []*rtnl.Link) (map[int32]bool, error) {
	routing, routes, err := ns.routing(links)
	if err != nil {
		return nil, err
	}
	n.Routing = routing
	mains := slices.DeleteFunc(slices.Clone(routes), func(r rtnl.Route) bool { return !r.Main() })
	defaults := slices.DeleteFunc(slices.Clone(mains), func(r rtnl.Route) bool { return r.Dst.Bits() > 0 })
	n.DefaultLink = defaultLink(defaults, links)
	addWays(n, links, defaults)
	addDefaultLinks(n, routes, foreignLinks(links))
	announced := map[int32]bool{}
	for _, r := range mains {
		for _, index := range r.Links {
			announced[index] = announced[index] || r.Protocol == unix.RTPROT_RA
		}
	}
	return announced, nil
}

// addDefaultLinks adds the foreign links that lead to everything, or to a gateway.
func addDefaultLinks(n *netstate.Node, routes []rtnl.Route, foreign map[int32]*rtnl.Link) {
	for _, r := range routes {
		if !r.LeadsOut() {
			continue
		}
		for _, index := range r.Links {
			switch l := foreign[index]; {
			case l == nil || l.Loopback():
			case r.Main() && r.Dst.Bits() == 0:
				n.DefaultLinks = append(n.DefaultLinks, l.Name)
			case l.Typ() != netstate.Bridge:
				n.GatewayLinks = append(n.GatewayLinks, l.Name)
			}
		}
	}
	n.DefaultLinks, n.GatewayLinks = inOrder(n.DefaultLinks), inOrder(n.GatewayLinks)
	n.GatewayLinks = slices.DeleteFunc(n.GatewayLinks, func(name string) bool { return slices.Contains(n.DefaultLinks, name) })
}

func inOrder(names []string) []string {
	slices.Sort(names)
	return slices.Compact(names)
}

// addNetworks adds the links that lead out of a node without any gateway: foreign links
// with an address in a network, except for bridges and tunnels.
func addNetworks(n *netstate.Node, links []*rtnl.Link) {
	for _, l := range foreignLinks(links) {
		if l.Loopback() || l.Flags&unix.IFF_POINTOPOINT != 0 || l.Typ() == netstate.Bridge {
			continue
		}
		if slices.ContainsFunc(n.Addresses, func(a netstate.NodeAddress) bool {
			return a.Link == l.Name && !a.Prefix.IsSingleIP() && !a.Prefix.Addr().IsLinkLocalUnicast()
		}) {
			n.GatewayLinks = append(n.GatewayLinks, l.Name)
		}
	}
	slices.Sort(n.GatewayLinks)
}

func foreignLinks(links []*rtnl.Link) map[int32]*rtnl.Link {
	foreign := map[int32]*rtnl.Link{}
	for _, l := range links {
		if !l.Marked() {
			foreign[l.Index] = l
		}
	}
	return foreign
}

// checksSenders reports whether an interface has strict reverse path filtering: the
// higher of its own value and that for all counts.
func checksSenders(link string) bool {
	own, _ := sysctl.Read(path.Join("net/ipv4/conf", link, "rp_filter"))
	all, _ := sysctl.Read("net/ipv4/conf/all/rp_filter")
	return max(own, all) == "1"
}

// defaultLink is the interface of the default route with the lowest metric, of IPv4
// if there is one.
func defaultLink(defaults []rtnl.Route, links []*rtnl.Link) string {
	defaults = slices.DeleteFunc(slices.Clone(defaults), func(r rtnl.Route) bool { return len(r.Links) == 0 })
	if len(defaults) == 0 {
		return ""
	}
	family := func(r rtnl.Route) int { return r.Dst.Addr().BitLen() }
	best := slices.MinFunc(defaults, func(a, b rtnl.Route) int {
		return cmp.Or(cmp.Compare(family(a), family(b)), cmp.Compare(a.Metric, b.Metric))
	})
	for _, l := range links {
		if l.Index == best.Links[0] {
			return l.Name
		}
	}
	return ""
}

var forwardingPaths = map[netstate.Family]string{
	netstate.IPv4: "net/ipv4/ip_forward",
	netstate.IPv6: "net/ipv6/conf/all/forwarding",
}

// forwarding says for each family whether forwarding is on, and not by us.
func (k *Kernel) forwarding() map[netstate.Family]bool {
	on := map[netstate.Family]bool{}
	for family, name := range forwardingPaths {
		_, recorded := k.sysctls.Find(name)
		on[family] = isOne(name) && !recorded
	}
	return on
}

// raLinks are the interfaces that lose the routes of router advertisements when
// IPv6 forwarding is switched on: the interfaces that have such routes, that may yet get
// them, and that we keep from losing them already.
func (k *Kernel) raLinks(links []*rtnl.Link, announced map[int32]bool) []string {
	var names []string
	for _, l := range links {
		if l.Marked() || l.Loopback() {
			continue
		}
		accept := path.Join("net/ipv6/conf", l.Name, "accept_ra")
		_, recorded := k.sysctls.Find(accept)
		takes := l.Up() && l.Master == 0 && isOne(accept) && !isOne(path.Join("net/ipv6/conf", l.Name, "forwarding"))
		if recorded || takes && (announced[l.Index] || l.Typ() == netstate.OtherLink) {
			names = append(names, l.Name)
		}
	}
	return names
}

// IPv6Off reports whether interfaces that come to a namespace have no IPv6, since its
// owner or the kernel has switched it off.
func (k *Kernel) IPv6Off(netns string) bool {
	s := k.session()
	defer s.close()
	ns, err := s.namespace(netns)
	if err != nil {
		return false
	}
	off := false
	_ = ns.run(func() error {
		for _, name := range []string{"all", "default"} {
			v, err := sysctl.Read("net/ipv6/conf/" + name + "/disable_ipv6")
			off = off || err == nil && v == "1" || errors.Is(err, os.ErrNotExist)
		}
		return nil
	})
	return off
}

func isOne(name string) bool {
	v, err := sysctl.Read(name)
	return err == nil && v == "1"
}
