package compile

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"

	"github.com/patchbay-dev/patchbay/api/v1alpha1"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
)

// Publish compiles a publish of one attachment or, where a selector chose
// several, of all of them, of which there must be one at least.
func Publish(p *v1alpha1.PortPublish, targets []AttachmentView, c Context) (Result, *Problem) {
	b := publish{p: p, c: c, r: Result{Objects: netstate.Set{}}, back: map[netip.Addr]bool{}}
	for _, t := range targets {
		if t.Reachable {
			b.target(t)
		}
	}
	if !slices.ContainsFunc(targets, func(t AttachmentView) bool { return t.Reachable }) {
		return b.r, problem(v1alpha1.ReasonUnsupported, "spec.attachment: %s has no way to the node (its network has no gateway, or it is joined to another namespace only), so nothing can be published on it", p.Spec.Attachment)
	}
	hosts, prob := hostAddresses(p, b.targets, c.Node)
	if prob != nil {
		return b.r, prob
	}
	b.r.Note = cmp.Or(b.crowd(), b.r.Note)
	for _, h := range hosts {
		if _, ok := ofFamily(b.targets, ident, h); ok {
			b.ports(h)
		}
	}
	return b.r, nil
}

type publish struct {
	p       *v1alpha1.PortPublish
	c       Context
	r       Result
	targets []netip.Addr
	// back are those whose default route is elsewhere.
	back map[netip.Addr]bool
}

// target adds the addresses of a target and what has to be there for them.
func (b *publish) target(t AttachmentView) {
	for _, a := range oneOfEachFamily(t.Addresses) {
		_, routed := ofFamily(t.Gateways, ident, a)
		b.targets, b.back[a] = append(b.targets, a), !routed
		b.r.add(forwarding(b.c, netstate.FamilyOf(a))...)
		b.r.forwarded(b.c, t.Way, netstate.FamilyOf(a))
		addHairpin(&b.r, t, netstate.FamilyOf(a), b.c.Node)
	}
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
			Targets: netstate.NewTargets(targets...), Back: netstate.NewTargets(back...),
		}
		b.r.add(o)
		b.r.claim(Claim{Resource: "host port " + o.Key().Name, Reason: v1alpha1.ReasonHostPortConflict, Field: "spec.ports", Key: o.Key()})
	}
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

// hostAddresses returns where to answer: the addresses that the spec names,
// which must be the node's own, or the unspecified address of each family.
func hostAddresses(p *v1alpha1.PortPublish, targets []netip.Addr, node netstate.Node) ([]netip.Addr, *Problem) {
	if len(p.Spec.HostAddresses) == 0 {
		return []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()}, nil
	}
	hosts := addrs(p.Spec.HostAddresses)
	for _, h := range hosts {
		if !nodeHas(node, h) {
			return nil, problem(v1alpha1.ReasonHostPortConflict, "spec.hostAddresses: %s is not an address of node %s: name one that is, or leave the list out", h, node.Name)
		}
		if _, ok := ofFamily(targets, ident, h); !ok {
			return nil, problem(v1alpha1.ReasonUnsupported, "spec.hostAddresses: %s cannot lead to attachment %s, which has no address of that family", h, p.Spec.Attachment)
		}
	}
	return hosts, nil
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
		r.Note = problem(v1alpha1.ReasonHairpinUnavailable, "published; but attachments of the same isolated network cannot use the node's address while br_netfilter is on: set net.bridge.bridge-nf-call-iptables to 0")
		return
	}
	r.add(netstate.Hairpin{Link: target.Host.Name})
}
