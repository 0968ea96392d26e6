package nftables

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/patchbay-dev/patchbay/nodeagent/firewall/book"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
)

// portSets are the sets and maps of publishes of one host address, with addr_ before the
// name, or of every address, with any_. Of one, the host address is the first part of the
// key, or the last beside a target. Ranges keep their ports. Ranges of one host address may
// overlap ranges of another address, and lead to the same target.
type portSets struct {
	targetRanges, masqRanges string // target . protocol . ports
	gates                    string // protocol . ports that only some sources may use
	sources                  string // protocol . ports . source that passes the gate
	ports, ranges            string // protocol . port : target
	slots, rangeSlots        string // protocol . port . slot : target, with several targets
	host                     []field
}

var (
	addrSets = newPortSets("addr_", fieldIP)
	anySets  = newPortSets("any_")
)

func newPortSets(which string, host ...field) portSets {
	return portSets{
		which + "target_ranges#", which + "masq_ranges#", which + "gates#", which + "sources#",
		which + "ports#", which + "ranges#", which + "slots#", which + "range_slots#", host,
	}
}

// key is the fields of a key that begins with a host port.
func (s portSets) key(more ...field) []field {
	return slices.Concat(s.host, []field{fieldProto, fieldPort}, more)
}

// defs are the definitions without bound maps: the sources that pass a gate come before the
// gate, the gate before the port.
func (s portSets) defs() []setDef {
	target := slices.Concat([]field{fieldIP, fieldProto, fieldPort}, s.host)
	return []setDef{
		inet(s.targetRanges, target...).ranges().is(targeting),
		inet(s.masqRanges, target...).ranges().is(targeting),
		inet(s.sources, s.key(fieldIP)...).ranges().is(admitting),
		inet(s.gates, s.key()...).ranges().is(gating),
		inet(s.ports, s.key()...).leads(fieldIP, fieldPort),
		inet(s.ranges, s.key()...).ranges().leads(fieldIP),
	}
}

// boundDefs are the definitions of bound maps.
func (s portSets) boundDefs() []setDef {
	return []setDef{
		inet(s.slots, s.key()...).slots(fieldIP, fieldPort),
		inet(s.rangeSlots, s.key()...).ranges().slots(fieldIP),
	}
}

// rules lead ports to their targets; host is the first part of the key.
func (s portSets) rules(host string) []string {
	port := host + "meta l4proto . th dport"
	return []string{
		// A client that may not use a port of one address never falls into the publish of
		// every address.
		ports + port + " @" + s.gates + " " + port + " . IP saddr != @" + s.sources + " return",
		ports + "dnat IP to " + port + " map @" + s.ports,
		ports + "dnat IP to " + port + " map @" + s.ranges,
		ports + "dnat IP to " + port + " . " + draw + " map @" + s.slots,
		ports + "dnat IP to " + port + " . " + draw + " map @" + s.rangeSlots,
	}
}

func setsOf(p netstate.Publish) portSets {
	if p.Host.IsUnspecified() {
		return anySets
	}
	return addrSets
}

func publishElements(p netstate.Publish) []element {
	var es []element
	kind := setsOf(p)
	for _, t := range p.Targets.All() {
		es = append(es, targetElements(p, t, setTargets, kind.targetRanges)...)
		if p.Back.Has(t) {
			es = append(es, targetElements(p, t, setMasqTargets, kind.masqRanges)...)
		}
	}
	return append(append(es, gateElements(p)...), portElements(p)...)
}

// targetElements name a target in the one set or, where a range keeps its ports,
// in the other.
func targetElements(p netstate.Publish, t netip.AddrPort, set, ranges string) []element {
	switch {
	case p.HostPortEnd == 0 || p.Shifted():
		var es []element
		for i := range uint16(p.Ports()) {
			es = append(es, at(of(set, t.Addr()), t.Addr(), p.Proto, t.Port()+i))
		}
		return es
	case p.Host.IsUnspecified():
		return []element{at(of(ranges, t.Addr()), whole(t.Addr()), p.Proto, portsText(p))}
	}
	return []element{at(of(ranges, t.Addr()), whole(t.Addr()), p.Proto, portsText(p), whole(p.Host))}
}

// gateElements let only the sources in.
func gateElements(p netstate.Publish) []element {
	if p.Sources == "" {
		return nil
	}
	kind := setsOf(p)
	key := []any{whole(p.Host), p.Proto, portsText(p)}
	if p.Host.IsUnspecified() {
		key = key[1:]
	}
	es := []element{at(of(kind.gates, p.Host), key...)}
	for _, s := range p.Sources.All() {
		es = append(es, at(of(kind.sources, p.Host), slices.Concat(key, []any{s})...))
	}
	return es
}

// portElements lead a host port to one target by one element, to several by one
// for every slot; a range that keeps its ports by one, any other by one for each
// port, whose note is the range.
func portElements(p netstate.Publish) []element {
	kind := setsOf(p)
	key := func(host any, parts ...any) []any {
		if p.Host.IsUnspecified() {
			return append([]any{p.Proto}, parts...)
		}
		return append([]any{host, p.Proto}, parts...)
	}
	targets := p.Targets.All()
	var es []element
	switch {
	case len(targets) > 1 && p.HostPortEnd != 0:
		for slot, t := range deal(targets) {
			es = append(es, to(at(of(kind.rangeSlots, p.Host), key(whole(p.Host), portsText(p), slot)...), t.Addr()))
		}
	case len(targets) > 1:
		for slot, t := range deal(targets) {
			es = append(es, to(at(of(kind.slots, p.Host), key(p.Host, p.HostPort, slot)...), t.Addr(), t.Port()))
		}
	case len(targets) == 0:
	case p.HostPortEnd == 0:
		es = append(es, to(at(of(kind.ports, p.Host), key(p.Host, p.HostPort)...), targets[0].Addr(), targets[0].Port()))
	case p.Shifted():
		for i := range uint16(p.Ports()) {
			e := to(at(of(kind.ports, p.Host), key(p.Host, p.HostPort+i)...), targets[0].Addr(), targets[0].Port()+i)
			e.Note = portsText(p)
			es = append(es, e)
		}
	default:
		es = append(es, to(at(of(kind.ranges, p.Host), key(whole(p.Host), portsText(p))...), targets[0].Addr()))
	}
	return es
}

// to is the element with a value.
func to(e element, value ...any) element {
	e.Value = join(value)
	return e
}

// whole is the prefix of one address, as keys of interval sets have it.
func whole(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }

func portsText(p netstate.Publish) string {
	if p.HostPortEnd == 0 {
		return fmt.Sprint(p.HostPort)
	}
	return fmt.Sprintf("%d-%d", p.HostPort, p.HostPortEnd)
}

// publishOf is the publish of one of its elements, without targets and sources.
func publishOf(i id, h book.Held) netstate.Publish {
	d, p, host := setByName[i.set], fieldsOf(i.key), netip.IPv6Unspecified()
	if strings.HasSuffix(i.set, "4") {
		host = netip.IPv4Unspecified()
	}
	if d.oneHost() {
		host, p = hostOf(p), p[min(1, len(p)):]
	}
	first, last := p.Ports(1)
	if d.part == leading && h.Note != "" {
		first, last = book.Fields{h.Note}.Ports(0)
	}
	return netstate.Publish{Host: host, Proto: p.Text(0), HostPort: first, HostPortEnd: last}
}

func hostOf(p book.Fields) netip.Addr {
	if strings.Contains(p.Text(0), "/") {
		return p.Prefix(0).Addr()
	}
	return p.Addr(0)
}

// publishFrom is the publish that all its elements tell of.
func publishFrom(group []id, holds map[id]book.Held) netstate.Object {
	p := publishOf(group[0], holds[group[0]])
	var targets, back []netip.AddrPort
	var sources []netip.Prefix
	gated := false
	for _, i := range group {
		switch setByName[i.set].part {
		case leading:
			targets = append(targets, firstTarget(p, i, holds[i]))
		case gating:
			gated = true
		case admitting:
			key := fieldsOf(i.key)
			sources = append(sources, key.Prefix(len(key)-1))
		}
	}
	p.Targets = netstate.NewTargets(targets...)
	if gated {
		p.Sources = netstate.NewSources(sources...)
	}
	for _, t := range p.Targets.All() {
		if has(holds, targetElements(p, t, setMasqTargets, setsOf(p).masqRanges)[0]) {
			back = append(back, t)
		}
	}
	p.Back = netstate.NewTargets(back...)
	return p
}

// firstTarget is where the publish's first port leads if one of its elements is
// right.
func firstTarget(p netstate.Publish, i id, h book.Held) netip.AddrPort {
	v := fieldsOf(h.Value)
	if len(v) == 1 {
		return netip.AddrPortFrom(v.Addr(0), p.HostPort)
	}
	port := publishOf(i, book.Held{}).HostPort
	return netip.AddrPortFrom(v.Addr(0), v.Port(1)-(port-p.HostPort))
}
