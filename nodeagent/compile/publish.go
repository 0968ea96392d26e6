package compile

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/patchbay-dev/patchbay/api/v1alpha1"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
)

// Publish compiles a publish of one attachment or, where a selector chose several, of all of
// them. There must be one at least.
func Publish(p *v1alpha1.PortPublish, targets []AttachmentView, c Context) (Result, *Problem) {
	b := publish{p: p, c: c, r: Result{Objects: netstate.Set{}}, back: map[netip.Addr]bool{}}
	for _, t := range targets {
		if t.Reachable {
			b.target(t)
		}
	}
	if !slices.ContainsFunc(targets, func(t AttachmentView) bool { return t.Reachable }) {
		return b.r, b.apart(targets)
	}
	hosts, prob := b.hostAddresses()
	if prob == nil {
		prob = b.divided()
	}
	if prob != nil {
		return b.r, prob
	}
	if b.closed(hosts) {
		b.r.Lacks = append(b.r.Lacks, problem(v1alpha1.ReasonUnsupported, "spec.sourceRanges: none is of the family of an address where the publish answers, so nobody may connect: add one, or leave the list out"))
	}
	if p.Spec.Loopback {
		hosts = append(hosts, loopback4)
		b.loopback(targets)
	}
	b.r.note(b.crowd(), b.unreached(targets), b.hidden())
	b.waysBack(targets)
	for _, h := range hosts {
		if _, ok := ofFamily(b.targets, ident, h); ok {
			b.ports(h)
		}
	}
	return b.r, nil
}

// closed reports whether the source ranges keep all clients from every host address.
func (b *publish) closed(hosts []netip.Addr) bool {
	return !slices.ContainsFunc(hosts, func(h netip.Addr) bool {
		_, leads := ofFamily(b.targets, ident, h)
		return leads && b.sources(h) != netstate.Nobody
	})
}

type publish struct {
	p       *v1alpha1.PortPublish
	c       Context
	r       Result
	targets []netip.Addr
	// back are the targets whose default route does not lead to the node.
	back map[netip.Addr]bool
	// byRouter says that it leads to a router which is not the node, for some targets.
	byRouter bool
}

// apart says why the node reaches none of the targets.
func (b *publish) apart(targets []AttachmentView) *Problem {
	for _, t := range targets {
		if t.External {
			return problem(v1alpha1.ReasonUnsupported, "spec.attachment: %s has no way to the node, which has no address in its subnet on bridge %s, so nothing can be published on it: give the bridge one, or attach it to a network with gateway.mode Bridge", b.p.Spec.Attachment, t.Way)
		}
	}
	return problem(v1alpha1.ReasonUnsupported, "spec.attachment: %s has no way to the node (its network has no gateway, or it is joined to another namespace only), so nothing can be published on it", b.p.Spec.Attachment)
}

// unreached is the note on families in which the node has no way to some target
// that it reaches in the other.
func (b *publish) unreached(targets []AttachmentView) *Problem {
	for _, t := range targets {
		for _, a := range oneOfEachFamily(t.Addresses) {
			if _, ok := ofFamily(t.Reached, netip.Prefix.Addr, a); t.Reachable && !ok {
				return problem(v1alpha1.ReasonUnsupported, "published; but not to %s: the node has no address in its subnet on bridge %s", a, t.Way)
			}
		}
	}
	return nil
}

// target adds the addresses of a target and the objects that lead to them.
func (b *publish) target(t AttachmentView) {
	c := b.c
	c.Blockers = slices.DeleteFunc(slices.Clone(c.Blockers), func(b netstate.Blocker) bool { return b.Translated })
	for _, a := range oneOfEachFamily(t.Reached) {
		gateway, routed := ofFamily(t.Gateways, ident, a)
		if routed && t.External && !nodeHas(b.c.Node, gateway) {
			routed, b.byRouter = false, true
		}
		b.targets, b.back[a] = append(b.targets, a), !routed
		b.r.add(forwarding(b.c, netstate.FamilyOf(a))...)
		b.r.forwarded(c, t.Way, netstate.FamilyOf(a), b.openings(t, a)...)
		b.r.passed(b.c, t.Way, netstate.FamilyOf(a))
		b.r.waysOut(b.c.Node, netstate.FamilyOf(a))
		b.r.apart(b.c.Node.Routing, host(a), t.Way, "node "+b.c.Node.Name)
		addHairpin(&b.r, t, netstate.FamilyOf(a), b.c.Node)
	}
}

// openings let clients come to an address of a target. On a foreign bridge only the
// published ports pass: its maker decides on other traffic.
func (b *publish) openings(t AttachmentView, a netip.Addr) []netstate.Opening {
	if !t.External {
		return []netstate.Opening{{Family: netstate.FamilyOf(a), Link: t.Way}}
	}
	var out []netstate.Opening
	for _, port := range b.p.Spec.Ports {
		first := uint16(cmp.Or(port.TargetPort, port.HostPort))
		o := netstate.Opening{Family: netstate.FamilyOf(a), Link: t.Way, To: netip.AddrPortFrom(a, first), Proto: strings.ToLower(string(port.Protocol))}
		if port.HostPortEnd > port.HostPort {
			o.End = first + uint16(port.HostPortEnd-port.HostPort)
		}
		out = append(out, o)
	}
	return out
}

var loopback4 = netip.AddrFrom4([4]byte{127, 0, 0, 1})

// divided refuses ranges that lead to other ports and that several targets of a
// family would have to share: each port would need as many elements as there are
// slots.
func (b *publish) divided() *Problem {
	for _, port := range b.p.Spec.Ports {
		shared := len(b.ofFamily(netip.IPv4Unspecified())) > 1 || len(b.ofFamily(netip.IPv6Unspecified())) > 1
		shifted := cmp.Or(port.TargetPort, port.HostPort) != port.HostPort
		if port.HostPortEnd > port.HostPort && shifted && shared {
			return problem(v1alpha1.ReasonUnsupported, "spec.ports: the range %d-%d leads to other ports, and so cannot be shared by several targets: leave targetPort out, list the ports one by one, or publish a range of each target by itself", port.HostPort, port.HostPortEnd)
		}
	}
	return nil
}

// loopback lets the node's own connections from 127.0.0.1 leave by the
// interfaces of the targets, and drops foreign packets with that address.
func (b *publish) loopback(targets []AttachmentView) {
	var four, six bool
	for _, t := range targets {
		for _, a := range oneOfEachFamily(t.Reached) {
			four, six = four || a.Is4(), six || a.Is6()
			if a.Is4() {
				s := linkSysctl("", t.Way, "ipv4", "route_localnet", "1")
				// The link may stay when the publish goes.
				s.Restore = true
				b.r.add(s, netstate.LoopbackGuard{Link: t.Way})
			}
		}
	}
	switch {
	case !four:
		b.r.Lacks = append(b.r.Lacks, problem(v1alpha1.ReasonUnsupported, "spec.loopback: attachment %s has IPv6 addresses alone, and the kernel routes nothing from ::1: give it an IPv4 address, or set loopback to false", b.p.Spec.Attachment))
	case six:
		b.r.note(problem(v1alpha1.ReasonUnsupported, "published; but on loopback only on 127.0.0.1: the kernel routes nothing from ::1"))
	}
}

// hidden is the note on targets that do not see their clients' addresses.
func (b *publish) hidden() *Problem {
	var list []string
	for _, a := range b.targets {
		if b.back[a] {
			list = append(list, a.String())
		}
	}
	if len(list) == 0 {
		return nil
	}
	who := strings.Join(list, " and ")
	if len(list) > 2 {
		who = fmt.Sprintf("%d of %d targets", len(list), len(b.targets))
	}
	remedy := "set spec.defaultRoute of the attachment to true to show them"
	if b.byRouter {
		remedy = "name the node's address on the bridge as the network's gateway to show them"
	}
	return problem(v1alpha1.ReasonProgrammed, "published; clients' addresses are hidden from %s behind the node's, since the default route there leads elsewhere: %s", who, remedy)
}

// crowd is the note on more targets than can be had.
func (b *publish) crowd() *Problem {
	for _, like := range []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()} {
		if n := len(b.ofFamily(like)); n > netstate.MaxTargets {
			return problem(v1alpha1.ReasonProgrammed, "published; but of %d targets on this node only %d get connections", n, netstate.MaxTargets)
		}
	}
	return nil
}

func (b *publish) ofFamily(like netip.Addr) []netip.Addr {
	return slices.DeleteFunc(slices.Clone(b.targets), func(a netip.Addr) bool { return a.Is4() != like.Is4() })
}

// ports leads all ports of a host address to the targets of its family.
func (b *publish) ports(host netip.Addr) {
	addrs := b.ofFamily(host)
	slices.SortFunc(addrs, netip.Addr.Compare)
	addrs = addrs[:min(len(addrs), netstate.MaxTargets)]
	for _, port := range b.p.Spec.Ports {
		var targets, back []netip.AddrPort
		for _, a := range addrs {
			to := netip.AddrPortFrom(a, uint16(cmp.Or(port.TargetPort, port.HostPort)))
			targets = append(targets, to)
			if b.back[a] {
				back = append(back, to)
			}
		}
		o := netstate.Publish{
			Host: host, Proto: strings.ToLower(string(port.Protocol)), HostPort: uint16(port.HostPort),
			Targets: netstate.NewTargets(targets...), Back: netstate.NewTargets(back...), Sources: b.sources(host),
		}
		if port.HostPortEnd > port.HostPort {
			o.HostPortEnd = uint16(port.HostPortEnd)
		}
		b.r.add(o)
		b.r.claim(PortClaim(o))
		b.dropped(o)
	}
}

// dropped names the foreign chains that drop packets to a port before they are
// translated. Connections of the node itself pass none of them.
func (b *publish) dropped(o netstate.Publish) {
	for _, x := range b.c.Blockers {
		if x.Proto == o.Proto && x.First <= o.Last() && o.HostPort <= x.Last && len(x.Links) == 0 && !o.Host.IsLoopback() && slices.Contains(x.Families, netstate.FamilyOf(o.Host)) {
			b.r.lack(problem(v1alpha1.ReasonForwardBlocked, "published, but %s drops what is sent to it %s: delete the rule, or publish another port", x.Name, x.Cause))
		}
	}
}

// sources are the clients that may connect to a host address. On loopback that is the
// node alone, and no range has its address there.
func (b *publish) sources(host netip.Addr) netstate.Sources {
	if len(b.p.Spec.SourceRanges) == 0 || host.IsLoopback() {
		return ""
	}
	list := slices.DeleteFunc(Prefixes(b.p.Spec.SourceRanges), func(p netip.Prefix) bool { return p.Addr().Is4() != host.Is4() })
	if slices.ContainsFunc(list, func(p netip.Prefix) bool { return p.Bits() == 0 }) {
		return ""
	}
	return netstate.NewSources(list...)
}

// oneOfEachFamily returns the first IPv4 and the first IPv6 address.
func oneOfEachFamily(in []netip.Prefix) []netip.Addr {
	var out []netip.Addr
	for _, p := range in {
		if _, ok := ofFamily(out, ident, p.Addr()); !ok {
			out = append(out, p.Addr())
		}
	}
	return out
}

// hostAddresses returns the addresses to answer on: the usable addresses of the spec,
// one at least, or the unspecified address of each family. It notes
// why the other addresses are not usable.
func (b *publish) hostAddresses() ([]netip.Addr, *Problem) {
	if len(b.p.Spec.HostAddresses) == 0 {
		return []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()}, nil
	}
	var hosts []netip.Addr
	var wrong []*Problem
	for _, h := range v1alpha1.Addrs(b.p.Spec.HostAddresses) {
		if p := b.unusable(h); p != nil {
			wrong = append(wrong, p)
		} else {
			hosts = append(hosts, h)
		}
	}
	if len(hosts) == 0 {
		return nil, wrong[0]
	}
	b.r.Lacks = append(b.r.Lacks, wrong...)
	return hosts, nil
}

// unusable says why a host address cannot be published.
func (b *publish) unusable(h netip.Addr) *Problem {
	_, leads := ofFamily(b.targets, ident, h)
	switch {
	case h.Is6() && h.IsLinkLocalUnicast():
		return problem(v1alpha1.ReasonUnsupported, "spec.hostAddresses: %s cannot be published: the kernel forwards nothing of clients with link-local IPv6 addresses; name another, or leave the list out", h)
	case !nodeHas(b.c.Node, h) && !slices.Contains(b.c.Own, h):
		return problem(v1alpha1.ReasonHostPortConflict, "spec.hostAddresses: %s is not an address of node %s: name one that is, or leave the list out", h, b.c.Node.Name)
	case !leads:
		return problem(v1alpha1.ReasonUnsupported, "spec.hostAddresses: %s cannot lead to attachment %s, which has no address of that family that the node reaches", h, b.p.Spec.Attachment)
	}
	return nil
}

func nodeHas(node netstate.Node, a netip.Addr) bool {
	for _, n := range node.Addresses {
		if n.Prefix.Addr() == a {
			return true
		}
	}
	return false
}

// addHairpin lets the target reach itself by the node's address where
// br_netfilter bridges that connection: the frame leaves by the port it came
// from. Isolated ports cannot do so.
func addHairpin(r *Result, target AttachmentView, f netstate.Family, node netstate.Node) {
	if !target.Bridged || !node.BridgeNF[f] {
		return
	}
	if target.Isolated {
		r.note(problem(v1alpha1.ReasonHairpinUnavailable, "published; but attachments of the same isolated network cannot use the node's address while br_netfilter is on: set net.bridge.bridge-nf-call-iptables to 0"))
		return
	}
	r.add(netstate.Hairpin{Link: target.Host.Name})
}
