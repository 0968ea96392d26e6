package nftables

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/patchbay-dev/patchbay/nodeagent/firewall/book"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
)

// publishSets are the sets and maps of one family's publishes, for those of one
// host address and for those of every address.
type publishSets struct {
	target, back string
	pub, any     portSets
}

type portSets struct {
	target, back, gate, from       string
	one, ranges, slots, rangeSlots string
}

var (
	sets4 = publishSets{setTarget4, setBack4,
		portSets{setTarget4Host, setBack4Host, setPubGate4, setPubFrom4, mapPub4, mapPub4Range, mapPub4Slots, mapPub4RangeSlots},
		portSets{setTarget4Range, setBack4Range, setAnyGate4, setAnyFrom4, mapAny4, mapAny4Range, mapAny4Slots, mapAny4RangeSlots}}
	sets6 = publishSets{setTarget6, setBack6,
		portSets{setTarget6Host, setBack6Host, setPubGate6, setPubFrom6, mapPub6, mapPub6Range, mapPub6Slots, mapPub6RangeSlots},
		portSets{setTarget6Range, setBack6Range, setAnyGate6, setAnyFrom6, mapAny6, mapAny6Range, mapAny6Slots, mapAny6RangeSlots}}
)

// part says what an element is of a publish.
type part int

const (
	leading part = iota + 1
	gating
	admitting
)

// publishParts are the sets whose elements tell their publish, specific those of
// one host address, stays those whose elements go last.
var publishParts, specific, stays = func() (map[string]part, map[string]bool, map[string]bool) {
	parts, one, last := map[string]part{}, map[string]bool{}, map[string]bool{}
	for _, s := range []publishSets{sets4, sets6} {
		last[s.target], last[s.back] = true, true
		for _, p := range []portSets{s.pub, s.any} {
			for _, name := range []string{p.one, p.ranges, p.slots, p.rangeSlots} {
				parts[name] = leading
			}
			parts[p.gate], parts[p.from] = gating, admitting
			last[p.target], last[p.back], last[p.gate] = true, true, true
		}
		for _, name := range []string{s.pub.one, s.pub.ranges, s.pub.slots, s.pub.rangeSlots, s.pub.gate, s.pub.from} {
			one[name] = true
		}
	}
	return parts, one, last
}()

// setsOf are the sets of a publish's family, and those of its kind.
func setsOf(p netstate.Publish) (publishSets, portSets) {
	s := sets6
	if p.Host.Is4() {
		s = sets4
	}
	if p.Host.IsUnspecified() {
		return s, s.any
	}
	return s, s.pub
}

func publishElements(p netstate.Publish) []element {
	var es []element
	family, kind := setsOf(p)
	for _, t := range p.Targets.All() {
		es = append(es, targetElements(p, t, family.target, kind.target)...)
		if p.Back.Has(t) {
			es = append(es, targetElements(p, t, family.back, kind.back)...)
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
			es = append(es, at(set, t.Addr(), p.Proto, t.Port()+i))
		}
		return es
	case p.Host.IsUnspecified():
		return []element{at(ranges, whole(t.Addr()), p.Proto, portsText(p))}
	}
	return []element{at(ranges, whole(t.Addr()), p.Proto, portsText(p), whole(p.Host))}
}

// gateElements let nobody but the sources in.
func gateElements(p netstate.Publish) []element {
	if p.Sources == "" {
		return nil
	}
	_, kind := setsOf(p)
	key := []any{whole(p.Host), p.Proto, portsText(p)}
	if p.Host.IsUnspecified() {
		key = key[1:]
	}
	es := []element{at(kind.gate, key...)}
	for _, s := range p.Sources.All() {
		es = append(es, at(kind.from, slices.Concat(key, []any{s})...))
	}
	return es
}

// portElements lead a host port to one target by one element, to several by one
// for every slot; a range that keeps its ports by one, any other by one for each
// port, whose note is the range.
func portElements(p netstate.Publish) []element {
	_, kind := setsOf(p)
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
			es = append(es, to(at(kind.rangeSlots, key(whole(p.Host), portsText(p), slot)...), t.Addr()))
		}
	case len(targets) > 1:
		for slot, t := range deal(targets) {
			es = append(es, to(at(kind.slots, key(p.Host, p.HostPort, slot)...), t.Addr(), t.Port()))
		}
	case len(targets) == 0:
	case p.HostPortEnd == 0:
		es = append(es, to(at(kind.one, key(p.Host, p.HostPort)...), targets[0].Addr(), targets[0].Port()))
	case p.Shifted():
		for i := range uint16(p.Ports()) {
			e := to(at(kind.one, key(p.Host, p.HostPort+i)...), targets[0].Addr(), targets[0].Port()+i)
			e.Note = portsText(p)
			es = append(es, e)
		}
	default:
		es = append(es, to(at(kind.ranges, key(whole(p.Host), portsText(p))...), targets[0].Addr()))
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

// publishOf is the publish of one of its elements, without what it leads to and
// who may use it.
func publishOf(i id, h book.Held) netstate.Publish {
	p, host := fieldsOf(i.key), netip.IPv6Unspecified()
	if slices.Contains([]string{mapAny4, mapAny4Range, mapAny4Slots, mapAny4RangeSlots, setAnyGate4, setAnyFrom4}, i.set) {
		host = netip.IPv4Unspecified()
	}
	if specific[i.set] {
		host, p = hostOf(p), p[min(1, len(p)):]
	}
	first, last := p.Ports(1)
	if publishParts[i.set] == leading && h.Note != "" {
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
		switch publishParts[i.set] {
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
	family, kind := setsOf(p)
	for _, t := range p.Targets.All() {
		if has(holds, targetElements(p, t, family.back, kind.back)[0]) {
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
