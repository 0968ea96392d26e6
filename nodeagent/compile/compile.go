// Package compile turns one custom resource and what it refers to into kernel
// objects. It promises to be pure: the same input gives the same objects, names
// and addresses on every call and in every process. What only one object may
// have (an interface name, an address, a host port) it returns as claims; who
// gets them is decided elsewhere.
package compile

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/patchbay-dev/patchbay/api/v1alpha1"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
)

// Context has the facts that every compilation may know beside the resources.
type Context struct {
	Source netstate.Source
	Node   netstate.Node
	// Own are the addresses named by a publish that the node has from other
	// resources, as a gateway or an end of a link.
	Own []netip.Addr
	// Attached is how many attachments name the network that is compiled.
	Attached int
	// Blockers are the foreign chains that drop packets.
	Blockers []netstate.Blocker
	// NoAntiSpoof says that the firewall cannot hold bridge ports to their
	// addresses.
	NoAntiSpoof bool
}

// unfiltered is the note on a network whose ports the firewall cannot filter.
func (c Context) unfiltered(v NetworkView) *Problem {
	if !v.AntiSpoof || !c.NoAntiSpoof {
		return nil
	}
	return problem(v1alpha1.ReasonAntiSpoofUnavailable, "built, but attachments are not held to their addresses, which iptables cannot do: use the nftables backend, or set spec.isolation.antiSpoof to false")
}

// Result has the objects that one resource needs on the node.
type Result struct {
	Objects netstate.Set
	Claims  []Claim
	// Notes are limitations to report although all objects can be made.
	Notes []*Problem
	// Lacks are wishes of the spec that cannot be had although the rest can.
	Lacks []*Problem
}

// forwarded adds the openings that let an interface's packets of a family through
// foreign firewalls, and names the firewalls that cannot be opened.
func (r *Result) forwarded(c Context, link string, f netstate.Family, openings ...netstate.Opening) {
	var drops []string
	for _, b := range c.Blockers {
		if b.Hook != "" {
			continue
		}
		text := b.Name + " drops forwarded packets " + b.Cause
		switch {
		case !b.Blocks(f, link) || slices.Contains(drops, text):
		case b.Unknown:
			r.note(problem(v1alpha1.ReasonProgrammed, "built, but whether %s drops what is forwarded is unknown: not all of its rules can be read", b.Name))
		case b.Openable:
			for _, o := range openings {
				// Rules about an interface that is not the node's own way out go before.
				if o.Out == "" || slices.Contains(c.Node.DefaultLinks, o.Out) || !b.Speaks(o.Out) {
					r.add(o)
				}
			}
		default:
			drops = append(drops, text)
		}
	}
	if len(drops) > 0 {
		r.lack(problem(v1alpha1.ReasonForwardBlocked, "the kernel holds all of it, but %s, and names no %s that it accepts: accept there what is forwarded from and to it, before it is dropped", strings.Join(drops, " and "), link))
	}
}

// passed names the foreign chains at other hooks than forward that keep packets of
// the families from an interface.
func (r *Result) passed(c Context, link string, families ...netstate.Family) {
	r.lacks(c, link, func(b netstate.Blocker) bool {
		return !b.Bridge && slices.ContainsFunc(families, func(f netstate.Family) bool { return b.Blocks(f, link) })
	})
}

// framed names the foreign chains that keep frames from a bridge. A chain that accepts
// some frames is left out: it is not known for which ports.
func (r *Result) framed(c Context, bridge string) {
	r.lacks(c, bridge, func(b netstate.Blocker) bool { return b.Bridge && len(b.Accepts) == 0 })
}

// attached names the foreign chains of an interface that keep all packets from it.
func (r *Result) attached(c Context, link string) {
	r.lacks(c, link, func(b netstate.Blocker) bool { return slices.Contains(b.Links, link) })
}

func (r *Result) lacks(c Context, link string, keeps func(netstate.Blocker) bool) {
	for _, b := range c.Blockers {
		if b.Hook != "" && b.Proto == "" && keeps(b) {
			r.lack(kept(b, link))
		}
	}
}

func kept(b netstate.Blocker, link string) *Problem {
	does := "drops " + packetsAt(b)
	if b.Untracked {
		does = "keeps " + packetsAt(b) + " from connection tracking, without which nothing is translated,"
	}
	return problem(v1alpha1.ReasonForwardBlocked, "the kernel holds all of it, but %s %s %s, and lets none of %s through: accept there what comes from and goes to it, before that, or delete the chain", b.Name, does, b.Cause, link)
}

// packetsAt are the packets that a chain sees.
func packetsAt(b netstate.Blocker) string {
	kind := "packets"
	if b.Bridge {
		kind = "frames"
	}
	switch b.Hook {
	case "input":
		return kind + " to the node"
	case "output":
		return kind + " of the node"
	case "postrouting", "egress":
		return kind + " that leave"
	case "forward":
		return kind + " between ports"
	}
	return kind + " that arrive"
}

// openings lead an interface's packets through a foreign FORWARD: packets to it, and
// packets from it that leave by the node's ways out.
func openings(node netstate.Node, link string, f netstate.Family) []netstate.Opening {
	out := []netstate.Opening{{Family: f, Link: link}}
	for _, way := range slices.Concat(node.DefaultLinks, node.GatewayLinks) {
		if netstate.LinkName.MatchString(way) {
			out = append(out, netstate.Opening{Family: f, Link: link, Out: way})
		}
	}
	return out
}

// lack notes a wish that cannot be had, once.
func (r *Result) lack(p *Problem) { r.Lacks = once(r.Lacks, p) }

// note adds limitations, each once; nil ones are none.
func (r *Result) note(list ...*Problem) {
	for _, p := range list {
		if p != nil {
			r.Notes = once(r.Notes, p)
		}
	}
}

func once(list []*Problem, p *Problem) []*Problem {
	if slices.ContainsFunc(list, func(have *Problem) bool { return *have == *p }) {
		return list
	}
	return append(list, p)
}

func (r *Result) add(objects ...netstate.Object) { r.Objects.Add(objects...) }

func (r *Result) claim(c Claim) { r.Claims = append(r.Claims, c) }

// withoutIPv6 leaves out the sysctls that a kernel without IPv6 does not have,
// and that have nothing to say there.
func (r *Result) withoutIPv6(node netstate.Node) {
	maps.DeleteFunc(r.Objects, func(_ netstate.Key, o netstate.Object) bool {
		s, ok := o.(netstate.Sysctl)
		return ok && node.NoIPv6 && strings.HasPrefix(s.Path, "net/ipv6/")
	})
}

// Problem is why a resource cannot be built on this node.
type Problem struct {
	// Reason is one of the api's reason constants.
	Reason  string
	Message string
}

func (p *Problem) Error() string { return p.Reason + ": " + p.Message }

func problem(reason, format string, args ...any) *Problem {
	return &Problem{Reason: reason, Message: fmt.Sprintf(format, args...)}
}

// Joined makes one problem of several. Its reason is the first that says more than
// Programmed; its message has all messages, with the opening of the first once. It
// is nil for none.
func Joined(list []*Problem) *Problem {
	if len(list) == 0 {
		return nil
	}
	all := *list[0]
	opening := ""
	for _, o := range []string{"published; ", "built, "} {
		if strings.HasPrefix(all.Message, o) {
			opening = o
		}
	}
	for _, p := range list[1:] {
		all.Message += "; " + strings.TrimPrefix(p.Message, opening)
		if all.Reason == v1alpha1.ReasonProgrammed {
			all.Reason = p.Reason
		}
	}
	return &all
}

func linkKey(e netstate.End) netstate.Key {
	return netstate.Link{Netns: e.Netns, Name: e.Name}.Key()
}

// BridgeName is the interface name of a network's bridge: what the spec says,
// else br-<network>, else br-<hash> where that exceeds 15 bytes.
func BridgeName(n *v1alpha1.BridgeNetwork) string {
	switch {
	case n.Spec.Bridge.Name != "":
		return n.Spec.Bridge.Name
	case len("br-"+n.Name) <= 15:
		return "br-" + n.Name
	}
	return "br-" + hash(n.Name)[:8]
}

// HostInterfaceName is the name of an attachment's end on the host: what the
// spec says, else veth<8 hex digits of a hash>.
func HostInterfaceName(a *v1alpha1.NamespaceAttachment) string {
	if a.Spec.HostInterface != "" {
		return a.Spec.HostInterface
	}
	return "veth" + hash("nsa", a.Namespace, a.Name)[:8]
}

// deriveMAC makes a stable, locally administered unicast address. The node's
// name is part of it, so that bridges of one network on two nodes of one LAN
// differ.
func deriveMAC(parts ...string) netstate.MAC {
	sum := sha256.Sum256([]byte(fmt.Sprintf("%q", parts)))
	mac := netstate.MAC(sum[:6])
	mac[0] = mac[0]&0xfc | 0x02
	return mac
}

func hash(parts ...string) string {
	sum := sha256.Sum256([]byte(fmt.Sprintf("%q", parts)))
	return hex.EncodeToString(sum[:])
}

func linkSysctl(netns, link, family, name, value string) netstate.Sysctl {
	return netstate.Sysctl{Netns: netns, Link: link, Path: "net/" + family + "/conf/" + link + "/" + name, Value: value}
}

// forwarding returns what lets the node route between its interfaces for one
// family. Where another program switched it on there is nothing to do; where
// Patchbay does, traffic between two foreign interfaces stays dropped, and
// interfaces that learn routes from router advertisements go on doing so
// (Documentation/networking/ip-sysctl: accept_ra 2).
//
// A node of a cluster has to route between its pods and the world in any case,
// and its network plugin may switch that on after us by the same value. So there
// it is left on, and no foreign packet is dropped
// (https://kubernetes.io/docs/setup/production-environment/container-runtimes/#prerequisite-ipv4-forwarding-optional).
func forwarding(c Context, f netstate.Family) []netstate.Object {
	cluster := c.Source == netstate.SourceCluster
	if c.Node.Forwarding[f] && !cluster {
		return nil
	}
	on := netstate.Sysctl{Path: "net/ipv4/ip_forward", Value: "1", Restore: !cluster}
	if f == netstate.IPv6 {
		on.Path = "net/ipv6/conf/all/forwarding"
	}
	objects := []netstate.Object{on}
	if f == netstate.IPv6 && !c.Node.Forwarding[f] {
		for _, l := range c.Node.RALinks {
			s := linkSysctl("", l, "ipv6", "accept_ra", "2")
			s.Restore = !cluster
			objects = append(objects, s)
		}
	}
	if cluster {
		return objects
	}
	return append(objects, guard(c.Node, f)...)
}

// guard drops what would be forwarded between two foreign interfaces.
func guard(node netstate.Node, f netstate.Family) []netstate.Object {
	objects := []netstate.Object{netstate.ForwardGuard{Family: f}}
	for name, l := range node.Links {
		if l.Type == netstate.Bridge && !l.Ours && node.BridgeNF[f] && netstate.LinkName.MatchString(name) {
			objects = append(objects, netstate.ForeignBridge{Link: name})
		}
	}
	return objects
}

func mtuOf(node netstate.Node, link string) int {
	if l, ok := node.Links[link]; ok && l.MTU > 0 {
		return l.MTU
	}
	return 1500
}

// Prefixes parses addresses and subnets that the CRDs have validated; anything
// else is left out.
func Prefixes(in []v1alpha1.Subnet) []netip.Prefix { return v1alpha1.Prefixes(in) }

// host is the prefix of one address alone.
func host(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }

// ofFamily returns the first address of the family of like.
func ofFamily[T any](list []T, addr func(T) netip.Addr, like netip.Addr) (netip.Addr, bool) {
	for _, e := range list {
		if addr(e).Is4() == like.Is4() {
			return addr(e), true
		}
	}
	return netip.Addr{}, false
}

func ident(a netip.Addr) netip.Addr { return a }
