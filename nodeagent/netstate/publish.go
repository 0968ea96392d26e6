package netstate

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Publish leads one port of the node to a target, or to several that share new
// connections evenly.
type Publish struct {
	// Host is the node's address; the unspecified address of the targets'
	// family means every local address but loopback.
	Host netip.Addr
	// Proto is tcp, udp or sctp.
	Proto    string
	HostPort uint16
	Targets  Targets
	// Back are those of the targets that have their default route elsewhere, so
	// that their replies find back only if the connection is masqueraded.
	Back Targets
}

func (p Publish) Key() Key {
	return Key{Kind: KindPublish, Name: fmt.Sprintf("%s/%s", netip.AddrPortFrom(p.Host, p.HostPort), p.Proto)}
}

func (p Publish) String() string {
	var s []string
	for _, t := range p.Targets.All() {
		if p.Back.Has(t) {
			s = append(s, t.String()+" masqueraded")
		} else {
			s = append(s, t.String())
		}
	}
	return "to " + strings.Join(s, ", ")
}

// MaxTargets is how many targets a Publish may have. It is the number of slots
// that a firewall deals to them: it divides evenly by up to six targets, by
// eight, ten and twelve, and no share of fewer than ten is more than a tenth
// larger than another.
const MaxTargets = 120

// Targets is a set of addresses with ports. It is text, so that two of them are
// equal exactly if they have the same members.
type Targets string

// NewTargets is the set of the given members, in whatever order they come.
func NewTargets(members ...netip.AddrPort) Targets {
	sorted := slices.SortedFunc(slices.Values(members), netip.AddrPort.Compare)
	var s []string
	for _, m := range slices.Compact(sorted) {
		s = append(s, m.String())
	}
	return Targets(strings.Join(s, ","))
}

// All returns the members in order. What is not an address with a port is left
// out.
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
