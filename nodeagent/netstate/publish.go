package netstate

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Publish leads one port of the node, or a range of them, to a target, or to
// several that share new connections evenly.
type Publish struct {
	// Host is the node's address; the unspecified address of the targets'
	// family means every local address but loopback.
	Host netip.Addr
	// Proto is tcp, udp or sctp.
	Proto    string
	HostPort uint16
	// HostPortEnd is the last port of a range; zero for one port.
	HostPortEnd uint16
	// Targets are the targets of HostPort. The further ports of a range lead as many
	// ports further.
	Targets Targets
	// Back are the targets that have their default route elsewhere, so that their replies
	// find back only if the connection is masqueraded.
	Back Targets
	// Sources are the clients that may connect; empty is every client.
	Sources Sources
}

func (p Publish) Key() Key {
	end := ""
	if p.HostPortEnd != 0 {
		end = fmt.Sprintf("-%d", p.HostPortEnd)
	}
	return Key{Kind: KindPublish, Name: fmt.Sprintf("%s%s/%s", netip.AddrPortFrom(p.Host, p.HostPort), end, p.Proto)}
}

// Ports is how many ports of the node the publish is about.
func (p Publish) Ports() int { return int(p.Last()-p.HostPort) + 1 }

// Last is the last port of the node that the publish is about.
func (p Publish) Last() uint16 { return max(p.HostPort, p.HostPortEnd) }

// Shifted reports whether the ports of a range lead to other ports.
func (p Publish) Shifted() bool {
	return p.HostPortEnd != 0 && slices.ContainsFunc(p.Targets.All(), func(t netip.AddrPort) bool { return t.Port() != p.HostPort })
}

// Succeeds reports whether the publish leads some ports of another publish to an address
// where they led before.
func (p Publish) Succeeds(old Publish) bool {
	if p.Proto != old.Proto || p.HostPort > old.Last() || old.HostPort > p.Last() {
		return false
	}
	if p.Host != old.Host && !p.Host.IsUnspecified() && !old.Host.IsUnspecified() {
		return false
	}
	return slices.ContainsFunc(p.Targets.All(), func(t netip.AddrPort) bool {
		return slices.ContainsFunc(old.Targets.All(), func(o netip.AddrPort) bool { return o.Addr() == t.Addr() })
	})
}

// MaxShifted is how many ports a shifted range may have: a firewall needs an element
// for each of them.
const MaxShifted = 1024

func (p Publish) String() string {
	var s []string
	for _, t := range p.Targets.All() {
		if p.Back.Has(t) {
			s = append(s, t.String()+" masqueraded")
		} else {
			s = append(s, t.String())
		}
	}
	text := "to " + strings.Join(s, ", ")
	if p.Sources != "" {
		text += " from " + strings.ReplaceAll(string(p.Sources), ",", ", ")
	}
	return text
}

// Sources is a set of prefixes. It is text, so that two of them are equal exactly
// if they have the same members.
type Sources string

// Nobody is the set of no clients.
const Nobody Sources = "nobody"

// NewSources is the set of the given prefixes, in any order. A prefix within another is
// left out: nested elements of an interval set are an error (EEXIST).
func NewSources(members ...netip.Prefix) Sources {
	sorted := slices.Clone(members)
	for i, m := range sorted {
		sorted[i] = m.Masked()
	}
	slices.SortFunc(sorted, netip.Prefix.Compare)
	sorted = slices.Compact(sorted)
	var s []string
	for i, m := range sorted {
		if !slices.ContainsFunc(sorted[:i], func(o netip.Prefix) bool { return o.Bits() < m.Bits() && o.Contains(m.Addr()) }) {
			s = append(s, m.String())
		}
	}
	if len(s) == 0 {
		return Nobody
	}
	return Sources(strings.Join(s, ","))
}

// All returns the members in order; the set of all clients has none.
func (s Sources) All() []netip.Prefix {
	var all []netip.Prefix
	for _, text := range strings.Split(string(s), ",") {
		if p, err := netip.ParsePrefix(text); err == nil {
			all = append(all, p)
		}
	}
	return all
}

// Has reports whether an address may connect.
func (s Sources) Has(a netip.Addr) bool {
	return s == "" || slices.ContainsFunc(s.All(), func(p netip.Prefix) bool { return p.Contains(a) })
}

// MaxTargets is how many targets a Publish may have. It is the number of slots
// that a firewall deals to them: it divides evenly by up to six targets, by
// eight, ten and twelve, and no share of fewer than ten is more than a tenth
// larger than another.
const MaxTargets = 120

// Targets is a set of addresses with ports. It is text, so that two of them are
// equal exactly if they have the same members.
type Targets string

// NewTargets is the set of the given members, in any order.
func NewTargets(members ...netip.AddrPort) Targets {
	sorted := slices.SortedFunc(slices.Values(members), netip.AddrPort.Compare)
	var s []string
	for _, m := range slices.Compact(sorted) {
		s = append(s, m.String())
	}
	return Targets(strings.Join(s, ","))
}

// All returns the members in order. A text that is no address with a port is left out.
func (t Targets) All() []netip.AddrPort {
	var all []netip.AddrPort
	for _, s := range t.texts() {
		if m, err := netip.ParseAddrPort(s); err == nil {
			all = append(all, m)
		}
	}
	return all
}

// Has reports whether a is a member.
func (t Targets) Has(a netip.AddrPort) bool { return slices.Contains(t.texts(), a.String()) }

// Without returns the members that are not in o.
func (t Targets) Without(o Targets) Targets {
	return NewTargets(slices.DeleteFunc(t.All(), o.Has)...)
}

func (t Targets) texts() []string {
	if t == "" {
		return nil
	}
	return strings.Split(string(t), ",")
}
