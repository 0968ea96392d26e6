package iptables

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"math"
	"net/netip"
	"strings"

	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
)

func (b *builder) publish(s netstate.Source, p netstate.Publish) {
	six, targets := p.Host.Is6(), p.Targets.All()
	for _, t := range targets {
		match := fmt.Sprintf("-d %s -p %[2]s -m %[2]s --dport %[3]s -m conntrack --ctstate DNAT", hostPrefix(t.Addr()), p.Proto, portRange(t.Port(), p))
		if p.HostPortEnd != 0 && !p.Host.IsUnspecified() {
			// What leads elsewhere in the range by another address is not meant.
			match += " --ctorigdst " + p.Host.String()
		}
		// DNAT alone would let the DNAT of other programs pass.
		b.add(six, "filter", ipInto, match, "-j RETURN")
		if p.Back.Has(t) {
			b.add(six, "nat", ipBack, match, "-j MASQUERADE")
		}
		if p.Host.IsLoopback() {
			b.add(six, "nat", ipBack, fmt.Sprintf("-s %s %s", loopbackOf(p.Host), match), "-j MASQUERADE")
		}
	}
	id := hex.EncodeToString(hash(string(s), p.Key().String()))
	lead := b.balance(id, p, targets)
	if p.Sources != "" {
		lead = b.gate(id, p, lead)
	}
	match := fmt.Sprintf("-p %[1]s -m %[1]s --dport %[2]s", p.Proto, portRange(p.HostPort, p))
	switch {
	case p.Host.IsUnspecified():
		b.add(six, "nat", ipAny, match, lead)
	case p.Host.IsLoopback():
		b.add(six, "nat", ipLoopback, "-d "+hostPrefix(p.Host)+" "+match, lead)
	default:
		b.add(six, "nat", ipAddress, "-d "+hostPrefix(p.Host)+" "+match, lead)
	}
}

func hash(parts ...string) []byte {
	sum := sha256.Sum256([]byte(strings.Join(parts, "\x00")))
	return sum[:6]
}

// balance is the target that leads to the publish's targets: of several, each
// rule takes its share of what the ones before left over.
func (b *builder) balance(id string, p netstate.Publish, targets []netip.AddrPort) string {
	if len(targets) == 1 {
		return translate(p, targets[0])
	}
	for i, t := range targets {
		match := "-p " + p.Proto
		if rest := len(targets) - i; rest > 1 {
			match += " -m statistic --mode random --probability " + probability(rest)
		}
		b.add(p.Host.Is6(), "nat", ipTargets+id, match, translate(p, t))
	}
	return "-g " + ipTargets + id
}

// probability is one in n as the kernel holds it.
func probability(n int) string {
	const whole = 0x80000000
	return fmt.Sprintf("%.11f", math.Round(whole/float64(n))/whole)
}

// gate leads on clients that are among the sources. To other clients the port is the node's
// own: they do not fall to a publish of every address.
func (b *builder) gate(id string, p netstate.Publish, lead string) string {
	for _, s := range p.Sources.All() {
		match := "-p " + p.Proto
		if s.Bits() > 0 {
			match = "-s " + s.String() + " " + match
		}
		b.add(p.Host.Is6(), "nat", ipSources+id, match, lead)
	}
	b.add(p.Host.Is6(), "nat", ipSources+id, "", "-j ACCEPT")
	return "-g " + ipSources + id
}

// translate is the DNAT to one target. A range whose ports stay needs none said;
// one that is shifted names both ends and where it starts (Linux 4.18).
func translate(p netstate.Publish, t netip.AddrPort) string {
	switch {
	case p.Ports() == 1:
		return "-j DNAT --to-destination " + t.String()
	case t.Port() == p.HostPort:
		return "-j DNAT --to-destination " + t.Addr().String()
	}
	return fmt.Sprintf("-j DNAT --to-destination %s-%d/%d", t, int(t.Port())+p.Ports()-1, p.HostPort)
}

// portRange is as many ports as the publish has, from the given one on.
func portRange(first uint16, p netstate.Publish) string {
	if p.Ports() == 1 {
		return fmt.Sprint(first)
	}
	return fmt.Sprintf("%d:%d", first, int(first)+p.Ports()-1)
}

func hostPrefix(a netip.Addr) string { return netip.PrefixFrom(a, a.BitLen()).String() }

func loopbackOf(like netip.Addr) string {
	if like.Is4() {
		return "127.0.0.0/8"
	}
	return "::1/128"
}
