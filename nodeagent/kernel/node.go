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

	"golang.org/x/sys/unix"

	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
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
	p, err := s.place("")
	if err != nil {
		return n, err
	}
	links, err := p.allLinks()
	if err != nil {
		return n, fmt.Errorf("list interfaces: %w", err)
	}
	if err := addNodeAddresses(&n, p, links); err != nil {
		return n, fmt.Errorf("list addresses: %w", err)
	}
	announced, err := addNodeRoutes(&n, p, links)
	if err != nil {
		return n, fmt.Errorf("list routes: %w", err)
	}
	if len(n.DefaultLinks)+len(n.GatewayLinks) == 0 {
		addNetworks(&n, links)
	}
	addNodeLinks(&n, links)
	_, err = readSysctl("net/ipv6/conf/all/forwarding")
	n.NoIPv6 = errors.Is(err, os.ErrNotExist)
	n.Forwarding, n.RALinks = s.k.forwarding(), s.k.raLinks(links, announced)
	return n, nil
}

func addNodeLinks(n *netstate.Node, links []*link) {
	names := map[int32]string{}
	for _, l := range links {
		names[l.index] = l.name
	}
	for _, l := range links {
		one := netstate.NodeLink{Type: l.typ(), MTU: l.mtu, Master: names[l.master], Ours: l.marked(), Down: !l.up(), XDP: l.xdp, AltNames: strings.Join(l.others, " ")}
		if slices.Contains(n.Ways[netstate.IPv4], l.name) {
			one.NoForward, one.Strict = forwardsNothing(l.name), checksSenders(l.name)
		}
		n.Links[l.name] = one
	}
}

// addWays finds the interfaces by which the node reaches others. A dummy leads
// nowhere, whatever addresses it has (kube-proxy's kube-ipvs0).
func addWays(n *netstate.Node, links []*link, defaults []route) {
	n.Ways = map[netstate.Family][]string{}
	byIndex := map[int32]*link{}
	add := func(l *link, a netip.Addr) {
		f := netstate.FamilyOf(a)
		if l != nil && !l.marked() && !l.loopback() && l.kind != "dummy" && !a.IsLinkLocalUnicast() && !slices.Contains(n.Ways[f], l.name) {
			n.Ways[f] = append(n.Ways[f], l.name)
		}
	}
	byName := map[string]*link{}
	for _, l := range links {
		byIndex[l.index], byName[l.name] = l, l
	}
	for _, a := range n.Addresses {
		add(byName[a.Link], a.Prefix.Addr())
	}
	for _, r := range defaults {
		for _, index := range r.links {
			add(byIndex[index], r.dst.Addr())
		}
	}
	for _, ways := range n.Ways {
		slices.Sort(ways)
	}
}

// forwardsNothing reads the switch of an interface. While the node's own is off it
// says nothing: that sets all of them when it is switched on.
func forwardsNothing(link string) bool {
	value, err := readSysctl(path.Join("net/ipv4/conf", link, "forwarding"))
	return err == nil && value == "0" && isOne(forwardingPaths[netstate.IPv4])
}

func addNodeAddresses(n *netstate.Node, p *place, links []*link) error {
	byIndex := map[int32]*link{}
	for _, l := range links {
		byIndex[l.index] = l
	}
	addresses, err := p.addresses(unix.AF_UNSPEC, 0)
	for _, a := range addresses {
		l := byIndex[a.index]
		if l == nil || l.marked() && (a.protocol == netstate.RouteProtocol || a.prefix.Addr().Is6() && a.prefix.Addr().IsLinkLocalUnicast()) {
			continue
		}
		n.Addresses = append(n.Addresses, netstate.NodeAddress{Link: l.name, Prefix: a.prefix})
	}
	return err
}

// addNodeRoutes also returns the links with routes from router advertisements.
func addNodeRoutes(n *netstate.Node, p *place, links []*link) (map[int32]bool, error) {
	routing, routes, err := p.routing(links)
	if err != nil {
		return nil, err
	}
	n.Routing = routing
	mains := slices.DeleteFunc(slices.Clone(routes), func(r route) bool { return !r.main() })
	defaults := slices.DeleteFunc(slices.Clone(mains), func(r route) bool { return r.dst.Bits() > 0 })
	n.DefaultLink = defaultLink(defaults, links)
	addWays(n, links, defaults)
	addDefaultLinks(n, routes, foreignLinks(links))
	announced := map[int32]bool{}
	for _, r := range mains {
		for _, index := range r.links {
			announced[index] = announced[index] || r.protocol == unix.RTPROT_RA
		}
	}
	return announced, nil
}

// addDefaultLinks adds the links of others that lead to everything, or to a gateway.
func addDefaultLinks(n *netstate.Node, routes []route, foreign map[int32]*link) {
	for _, r := range routes {
		if !r.leadsOut() {
			continue
		}
		for _, index := range r.links {
			switch l := foreign[index]; {
			case l == nil || l.loopback():
			case r.main() && r.dst.Bits() == 0:
				n.DefaultLinks = append(n.DefaultLinks, l.name)
			case l.typ() != netstate.Bridge:
				n.GatewayLinks = append(n.GatewayLinks, l.name)
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

// addNetworks adds what leads out of a node without any gateway: the links of others by
// which it is in a network, but for bridges and tunnels.
func addNetworks(n *netstate.Node, links []*link) {
	for _, l := range foreignLinks(links) {
		if l.loopback() || l.flags&unix.IFF_POINTOPOINT != 0 || l.typ() == netstate.Bridge {
			continue
		}
		if slices.ContainsFunc(n.Addresses, func(a netstate.NodeAddress) bool {
			return a.Link == l.name && !a.Prefix.IsSingleIP() && !a.Prefix.Addr().IsLinkLocalUnicast()
		}) {
			n.GatewayLinks = append(n.GatewayLinks, l.name)
		}
	}
	slices.Sort(n.GatewayLinks)
}

func foreignLinks(links []*link) map[int32]*link {
	foreign := map[int32]*link{}
	for _, l := range links {
		if !l.marked() {
			foreign[l.index] = l
		}
	}
	return foreign
}

// checksSenders reports whether an interface has strict reverse path filtering: the
// higher of its own value and that for all counts.
func checksSenders(link string) bool {
	own, _ := readSysctl(path.Join("net/ipv4/conf", link, "rp_filter"))
	all, _ := readSysctl("net/ipv4/conf/all/rp_filter")
	return max(own, all) == "1"
}

// defaultLink is the interface of the default route with the lowest metric, of IPv4
// if there is one.
func defaultLink(defaults []route, links []*link) string {
	defaults = slices.DeleteFunc(slices.Clone(defaults), func(r route) bool { return len(r.links) == 0 })
	if len(defaults) == 0 {
		return ""
	}
	family := func(r route) int { return r.dst.Addr().BitLen() }
	best := slices.MinFunc(defaults, func(a, b route) int {
		return cmp.Or(cmp.Compare(family(a), family(b)), cmp.Compare(a.metric, b.metric))
	})
	for _, l := range links {
		if l.index == best.links[0] {
			return l.name
		}
	}
	return ""
}

var forwardingPaths = map[netstate.Family]string{
	netstate.IPv4: "net/ipv4/ip_forward",
	netstate.IPv6: "net/ipv6/conf/all/forwarding",
}

// forwarding says for each family whether somebody else has switched it on.
func (k *Kernel) forwarding() map[netstate.Family]bool {
	on := map[netstate.Family]bool{}
	for family, name := range forwardingPaths {
		_, recorded := k.readRecord(name)
		on[family] = isOne(name) && !recorded
	}
	return on
}

// raLinks are the interfaces that lose the routes of router advertisements when
// IPv6 forwarding is switched on: those that have such routes, those that may
// yet get them, and those that we keep from losing them already.
func (k *Kernel) raLinks(links []*link, announced map[int32]bool) []string {
	var names []string
	for _, l := range links {
		if l.marked() || l.loopback() {
			continue
		}
		accept := path.Join("net/ipv6/conf", l.name, "accept_ra")
		_, recorded := k.readRecord(accept)
		takes := l.up() && l.master == 0 && isOne(accept) && !isOne(path.Join("net/ipv6/conf", l.name, "forwarding"))
		if recorded || takes && (announced[l.index] || l.typ() == netstate.OtherLink) {
			names = append(names, l.name)
		}
	}
	return names
}

// IPv6Off reports whether interfaces that come to a namespace have no IPv6, since its
// owner or the kernel has switched it off.
func (k *Kernel) IPv6Off(netns string) bool {
	s := k.session()
	defer s.close()
	p, err := s.place(netns)
	if err != nil {
		return false
	}
	off := false
	_ = p.run(func() error {
		for _, name := range []string{"all", "default"} {
			v, err := readSysctl("net/ipv6/conf/" + name + "/disable_ipv6")
			off = off || err == nil && v == "1" || errors.Is(err, os.ErrNotExist)
		}
		return nil
	})
	return off
}

func isOne(sysctl string) bool {
	v, err := readSysctl(sysctl)
	return err == nil && v == "1"
}
