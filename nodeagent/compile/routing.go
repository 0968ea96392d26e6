package compile

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/patchbay-dev/patchbay/api/v1alpha1"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
)

// checkOverlap refuses a subnet behind a link whose addresses another route takes: one
// to the same addresses or to some of them, or a range of the node's own that they are
// part of. A wider route by a gateway or into a tunnel, such as a VPN's, loses against
// the connected route.
func checkOverlap(subnet netip.Prefix, link string, node netstate.Node) *Problem {
	for _, r := range node.Routes {
		switch {
		case !rivals(r, subnet, link) || r.Dst.Bits() < subnet.Bits() && !r.OnLink():
		case r.Drops != "":
			return problem(v1alpha1.ReasonSubnetOverlap, "spec.subnets: the route %s of node %s keeps packets from addresses of %s: delete it (ip route del %s), or choose another subnet", r, node.Name, subnet, r)
		default:
			return problem(v1alpha1.ReasonSubnetOverlap, "spec.subnets: %s overlaps the route to %s on %s of node %s: choose another subnet", subnet, r.Dst, r.Link, node.Name)
		}
	}
	return nil
}

// rivals reports whether a route of the main table is for addresses of a subnet, and
// not by its own link.
func rivals(r netstate.ForeignRoute, subnet netip.Prefix, link string) bool {
	return r.Table == netstate.TableMain && r.Dst.Bits() > 0 && r.Dst.Overlaps(subnet) && r.Link != link
}

// covering is the note on wider routes that a subnet is taken out of.
func covering(subnet netip.Prefix, link string, node netstate.Node) *Problem {
	var list []string
	for _, r := range node.Routes {
		if rivals(r, subnet, link) && r.Dst.Bits() < subnet.Bits() && !r.OnLink() {
			list = append(list, r.String())
		}
	}
	if len(list) == 0 {
		return nil
	}
	return problem(v1alpha1.ReasonProgrammed, "built; spec.subnets %s is part of what the route %s of node %s is for, and comes before it: what has these addresses there is not reached from the node", subnet, few(list), node.Name)
}

// few joins the first texts, as many as a message should have.
func few(list []string) string {
	const most = 4
	if len(list) > most {
		list = append(list[:most:most], fmt.Sprintf("%d more", len(list)-most))
	}
	return strings.Join(list, ", ")
}

// detour is a foreign rule that keeps packets from their way.
type detour struct {
	rule netstate.RouteRule
	// route is where the rule's table leads; zero for a rule that drops.
	route netstate.ForeignRoute
	// always is true where it concerns all packets to the addresses.
	always bool
}

func (d detour) String() string {
	if d.rule.Drops != "" {
		return fmt.Sprintf("the rule %s", d.rule)
	}
	return fmt.Sprintf("the rule %s, where the route is %s,", d.rule, d.route)
}

// detours returns the rules before the main table's rule that take packets to a prefix
// elsewhere than to its link; for a default route only the rules that drop. Rules that
// ask for marks and ports are left out: it is not known which packets have them.
func detours(r netstate.Routing, to netip.Prefix, link string) []detour {
	var list []detour
	for _, rule := range r.Rules {
		if rule.Family != netstate.FamilyOf(to.Addr()) || rule.Narrow || rule.In == link || rule.To.IsValid() && !rule.To.Overlaps(to) {
			continue
		}
		d := detour{rule: rule, always: !rule.From.IsValid() && rule.In == ""}
		if rule.Priority > mainPriority || rule.Table == netstate.TableMain && rule.Drops == "" {
			whole := !rule.To.IsValid() || rule.To.Bits() <= to.Bits()
			if d.always && whole && rule.Longer < to.Bits() || rule.Priority > mainPriority {
				return list
			}
			continue
		}
		if rule.Drops == "" {
			route, leads := leads(r, rule, to, link)
			if !leads || to.Bits() == 0 {
				continue
			}
			d.route = route
		}
		list = append(list, d)
	}
	return list
}

// leads finds the route by which a rule's table takes packets to a prefix elsewhere
// than to its link. A narrower route to the link goes before it.
func leads(r netstate.Routing, rule netstate.RouteRule, to netip.Prefix, link string) (found netstate.ForeignRoute, ok bool) {
	ours := -1
	for _, o := range r.Routes {
		if o.Table != rule.Table || !o.Dst.Overlaps(to) || o.Dst.Bits() <= rule.Longer || o.Drops == "throw" {
			continue
		}
		switch {
		case o.Link == link && o.Dst.Bits() <= to.Bits():
			ours = max(ours, o.Dst.Bits())
		case o.Link != link && (!ok || o.Dst.Bits() > found.Dst.Bits()):
			found, ok = o, true
		}
	}
	return found, ok && found.Dst.Bits() > ours
}

// mainPriority is the priority of the kernel's rule for the main table.
const mainPriority = 32766

// apart names the foreign rules that take packets to addresses behind a link
// elsewhere: it is a lack where they take all packets, a note where they take some.
func (r *Result) apart(routing netstate.Routing, to netip.Prefix, link, where string) {
	for _, d := range detours(routing, to, link) {
		remedy := fmt.Sprintf("delete it, or let the main table go before it (ip rule add to %s lookup main priority %d)", to, max(d.rule.Priority, 1)-1)
		if d.always {
			r.lack(problem(v1alpha1.ReasonRoutedElsewhere, "the kernel holds all of it, but %s of %s keeps packets from %s: %s", d, where, to, remedy))
		} else {
			// Nodes with several ways have such rules on purpose.
			r.note(problem(v1alpha1.ReasonProgrammed, "built, but %s of %s keeps some packets from %s: %s", d, where, to, remedy))
		}
	}
}

// leaves names the foreign rules that drop packets from addresses behind a link.
func (r *Result) leaves(routing netstate.Routing, from netip.Prefix, link, where string) {
	for _, rule := range routing.Rules {
		concerns := rule.In == link || rule.In == "" && rule.From.IsValid() && rule.From.Overlaps(from)
		if rule.Drops == "" || rule.Narrow || rule.Family != netstate.FamilyOf(from.Addr()) || !concerns || rule.Priority > mainPriority {
			continue
		}
		text := fmt.Sprintf("the rule %s of %s drops what comes from %s: delete it, or except these addresses before it", rule, where, from)
		if rule.To.IsValid() {
			r.note(problem(v1alpha1.ReasonRoutedElsewhere, "built, but %s", text))
		} else {
			r.lack(problem(v1alpha1.ReasonRoutedElsewhere, "the kernel holds all of it, but %s", text))
		}
	}
}

// foreign names the node's settings, not Patchbay's, that keep packets from the
// network's addresses, or from their way out.
func (v NetworkView) foreign(r *Result, node netstate.Node) {
	if v.Mode != v1alpha1.GatewayBridge {
		return
	}
	for _, s := range v.Subnets {
		r.note(covering(s, v.Bridge, node))
		r.apart(node.Routing, s, v.Bridge, "node "+node.Name)
		r.leaves(node.Routing, s, v.Bridge, "node "+node.Name)
		r.waysOut(node, netstate.FamilyOf(s.Addr()))
	}
	if v.Uplink != "" && node.Links[v.Uplink].XDP {
		r.note(FiltersEarly(v.Uplink))
	}
}

// FiltersEarly is the note on a link where a foreign XDP program sees packets before
// the kernel does.
func FiltersEarly(link string) *Problem {
	return problem(v1alpha1.ReasonProgrammed, "built; a program of others (XDP) at %s may drop packets before the kernel sees them: see ip link show dev %s", link, link)
}

// waysOut names the interfaces of the node that keep packets of a family from coming
// and going: one with a default route concerns all packets, another the packets of
// the hosts behind it.
func (r *Result) waysOut(node netstate.Node, f netstate.Family) {
	var down []string
	for _, name := range node.Ways[f] {
		l, isDefault := node.Links[name], slices.Contains(node.DefaultLinks, name)
		text := fmt.Sprintf("net.ipv4.conf.%[1]s.forwarding is 0 on node %[2]s, so nothing that comes in by %[1]s is forwarded: set it to 1 (with systemd-networkd, IPv4Forwarding=yes for that link)", name, node.Name)
		switch {
		case l.Down:
			down = append(down, name)
		case l.NoForward && f == netstate.IPv4 && isDefault:
			r.lack(problem(v1alpha1.ReasonForwardBlocked, "the kernel holds all of it, but %s", text))
		case l.NoForward && f == netstate.IPv4:
			r.note(problem(v1alpha1.ReasonForwardBlocked, "built, but %s", text))
		}
		if l.XDP {
			r.note(FiltersEarly(name))
		}
	}
	switch text := strings.Join(down, " and "); {
	case len(down) == 0:
	case len(down) == len(node.Ways[f]):
		r.lack(problem(v1alpha1.ReasonUplinkDown, "the kernel holds all of it, but %s is down on node %s, which has no other way for %s: ip link set %s up", text, node.Name, f, down[0]))
	default:
		r.note(problem(v1alpha1.ReasonUplinkDown, "built, but nothing passes by %s of node %s, which is down: ip link set %s up", text, node.Name, down[0]))
	}
}

// foreign names the settings of the attachment's namespaces, not Patchbay's, that keep
// packets from its addresses and routes.
func (b *attachment) foreign(at Place) {
	b.diverted(at.Routing, b.view.Target, lifecycleOf(b.a.Spec.Target), b.view.Addresses)
	if p := b.a.Spec.PointToPoint; p != nil && p.Netns != nil {
		b.diverted(at.PeerRouting, farEnd(p.Netns), p.Netns.Lifecycle, Prefixes(p.Netns.Addresses))
	}
	if b.net == nil && b.view.Host != (netstate.End{}) {
		for _, p := range b.view.Addresses {
			b.r.apart(b.c.Node.Routing, host(p.Addr()), b.view.Host.Name, "node "+b.c.Node.Name)
		}
	}
}

// diverted names the foreign rules and routes in the namespace of an end that keep
// packets from its addresses and routes. An External namespace may have default routes
// of its own.
func (b *attachment) diverted(routing netstate.Routing, end netstate.End, lifecycle v1alpha1.Lifecycle, addresses []netip.Prefix) {
	where := "network namespace " + end.Netns
	for _, k := range b.r.Objects.Keys() {
		to, err := netip.ParsePrefix(k.Name)
		if k.Netns != end.Netns || k.Link != end.Name || err != nil || k.Kind != netstate.KindAddress && k.Kind != netstate.KindRoute {
			continue
		}
		if to = to.Masked(); to.Bits() > 0 || lifecycle != v1alpha1.External {
			b.r.apart(routing, to, end.Name, where)
			b.r.outdone(routing, to, where, "ip -n "+end.Netns)
		}
	}
	for _, p := range addresses {
		b.r.leaves(routing, host(p.Addr()), "lo", where)
	}
}

// outdone names the foreign routes in a target that go before one of Patchbay's.
func (r *Result) outdone(routing netstate.Routing, to netip.Prefix, where, ip string) {
	for _, o := range routing.Routes {
		if o.Table == netstate.TableMain && o.Dst.Overlaps(to) && o.Dst.Bits() >= to.Bits() && (o.Drops != "" || to.Bits() > 0) {
			r.lack(problem(v1alpha1.ReasonRoutedElsewhere, "the kernel holds all of it, but the route %s of %s goes before the one to %s: delete it (%s route del %s)", o, where, to, ip, o))
		}
	}
}
