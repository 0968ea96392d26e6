package compile

import (
	"net/netip"
	"strings"

	"github.com/patchbay-dev/patchbay/api/v1alpha1"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
)

// Publish compiles a publish of an attachment.
func Publish(p *v1alpha1.PortPublish, target AttachmentView, c Context) (Result, *Problem) {
	r := Result{Objects: netstate.Set{}}
	if !target.Reachable {
		return r, problem(v1alpha1.ReasonUnsupported, "spec.attachment: %s has no way to the node (its network has no gateway, or it is joined to another namespace only), so nothing can be published on it", p.Spec.Attachment)
	}
	targets := oneOfEachFamily(target.Addresses)
	hosts, prob := hostAddresses(p, targets, c.Node)
	if prob != nil {
		return r, prob
	}
	r.Note = c.blocked()
	for _, to := range targets {
		for _, h := range hosts {
			if h.Is4() == to.Is4() {
				addPorts(&r, p, h, to, target)
			}
		}
		r.add(forwarding(c, netstate.FamilyOf(to))...)
		addHairpin(&r, target, netstate.FamilyOf(to), c.Node)
	}
	return r, nil
}

func addPorts(r *Result, p *v1alpha1.PortPublish, host, to netip.Addr, target AttachmentView) {
	_, routed := ofFamily(target.Gateways, ident, to)
	for _, port := range p.Spec.Ports {
		targetPort := port.TargetPort
		if targetPort == 0 {
			targetPort = port.HostPort
		}
		o := netstate.Publish{
			Host: host, Proto: strings.ToLower(string(port.Protocol)), HostPort: uint16(port.HostPort),
			Target: netip.AddrPortFrom(to, uint16(targetPort)), Back: !routed,
		}
		r.add(o)
		r.claim(Claim{Resource: "host port " + o.Key().Name, Reason: v1alpha1.ReasonHostPortConflict, Field: "spec.ports", Key: o.Key()})
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
