package nat

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
)

// objectFrom is the object that rules with its name remain of; nil where they do
// not tell. rulesOf is the inverse.
func objectFrom(name string, lines []ipRule) netstate.Object {
	kind, rest, _ := strings.Cut(name, " ")
	link, more, _ := strings.Cut(rest, " ")
	var o netstate.Object
	switch kind {
	case netstate.KindRealm.String():
		o = realmFrom(rest, lines)
	case netstate.KindForwardGuard.String():
		o = netstate.ForwardGuard{Family: netstate.Family(rest)}
	case netstate.KindForeignBridge.String():
		o = netstate.ForeignBridge{Link: rest}
	case netstate.KindLoopbackGuard.String():
		o = netstate.LoopbackGuard{Link: rest}
	case netstate.KindOpening.String():
		o = openingFrom(link, more)
	case netstate.KindMasquerade.String():
		o = masqueradeFrom(link, more, lines)
	case netstate.KindNoMasquerade.String():
		subnet, dst, _ := strings.Cut(more, " to ")
		o = netstate.NoMasquerade{Link: link, Subnet: fields{subnet}.prefix(0), Dst: fields{dst}.prefix(0)}
	case netstate.KindWayBack.String():
		o = wayBackFrom(link, more, lines)
	case netstate.KindPublish.String():
		o = publishNamed(rest, lines)
	}
	if o == nil || o.Key().String() != name || checkIPTables(o) != nil {
		return nil
	}
	return o
}

// openingFrom reads an opening's name, such as "ipv4 out eth0" or "ipv4 to
// 10.0.0.2:80-82/tcp".
func openingFrom(link, name string) netstate.Object {
	family, rest, _ := strings.Cut(name, " ")
	o := netstate.Opening{Family: netstate.Family(family), Link: link}
	switch way, what, _ := strings.Cut(rest, " "); way {
	case "out":
		o.Out = what
	case "to":
		what, o.Proto, _ = strings.Cut(what, "/")
		colon := strings.LastIndex(what, ":")
		ports := fields{what[colon+1:]}
		first, last := ports.ports(0)
		o.To, _ = netip.ParseAddrPort(fmt.Sprintf("%s:%d", what[:max(colon, 0)], first))
		o.End = last
	}
	return o
}

func realmFrom(link string, lines []ipRule) netstate.Object {
	r := netstate.Realm{Link: link}
	for _, l := range lines {
		both := option(l.spec, "-i") != "" && option(l.spec, "-o") != ""
		r.Isolated = r.Isolated || l.chain == ipDrop && both
		r.Guarded = r.Guarded || l.chain == ipRealm && !both
	}
	return r
}

func masqueradeFrom(link, subnet string, lines []ipRule) netstate.Object {
	m := netstate.Masquerade{Link: link, Subnet: fields{subnet}.prefix(0)}
	for _, l := range lines {
		if l.chain == ipMasq {
			m.Egress = true
			m.Source, _ = netip.ParseAddr(option(l.spec, "--to-source"))
		}
	}
	return m
}

func wayBackFrom(link, realm string, lines []ipRule) netstate.Object {
	w := netstate.WayBack{Link: link, Realm: realm}
	for _, l := range lines {
		mark, _, _ := strings.Cut(option(l.spec, "--set-xmark"), "/")
		for n := 1; n <= netstate.WaysBack; n++ {
			if mark == fmt.Sprintf("%#x", netstate.WayMark(n)) {
				w.Way = n
			}
		}
	}
	return w
}

// publishNamed reads a publish's port from its name, such as 0.0.0.0:80-82/tcp,
// and where that leads from its rules.
func publishNamed(name string, lines []ipRule) netstate.Object {
	ports, proto, _ := strings.Cut(name, "/")
	first, last, ranged := strings.Cut(ports[strings.LastIndex(ports, ":")+1:], "-")
	host, err := netip.ParseAddrPort(strings.TrimSuffix(ports, "-"+last))
	if err != nil {
		return nil
	}
	p := netstate.Publish{Host: host.Addr(), Proto: proto, HostPort: fields{first}.port(0)}
	if ranged {
		p.HostPortEnd = fields{last}.port(0)
	}
	var targets, back []netip.AddrPort
	var sources []netip.Prefix
	gated := false
	for _, l := range lines {
		if t, ok := translated(l.spec, p); ok {
			targets = append(targets, t)
		}
		// Where nobody may connect, nothing is translated.
		if l.chain == ipInto {
			targets = append(targets, matched(l.spec))
		}
		gated = gated || strings.HasPrefix(l.chain, ipSources)
		if l.chain == ipBack && option(l.spec, "-s") == "" {
			back = append(back, matched(l.spec))
		}
		if strings.HasPrefix(l.chain, ipSources) && option(l.spec, "-p") != "" {
			sources = append(sources, sourceOf(l.spec, p))
		}
	}
	p.Targets, p.Back = netstate.NewTargets(targets...), netstate.NewTargets(back...)
	if gated {
		p.Sources = netstate.NewSources(sources...)
	}
	return p
}

// translated is the first target that a rule translates to, for the first port
// of the publish.
func translated(spec string, p netstate.Publish) (netip.AddrPort, bool) {
	text := option(spec, "--to-destination")
	if a, err := netip.ParseAddr(text); err == nil {
		return netip.AddrPortFrom(a, p.HostPort), true
	}
	colon := strings.LastIndex(text, ":")
	if end := strings.Index(text[max(colon, 0):], "-"); end >= 0 {
		text = text[:colon+end]
	}
	t, err := netip.ParseAddrPort(text)
	return t, err == nil
}

// matched is the target that a rule of packets on their way to it matches.
func matched(spec string) netip.AddrPort {
	dst := fields{option(spec, "-d")}.prefix(0)
	port, _, _ := strings.Cut(option(spec, "--dport"), ":")
	n, _ := strconv.ParseUint(port, 10, 16)
	return netip.AddrPortFrom(dst.Addr(), uint16(n))
}

// sourceOf is who a rule lets connect; one that names nobody means everybody.
func sourceOf(spec string, p netstate.Publish) netip.Prefix {
	if s := option(spec, "-s"); s != "" {
		return fields{s}.prefix(0)
	}
	if p.Host.Is4() {
		return netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	}
	return netip.PrefixFrom(netip.IPv6Unspecified(), 0)
}

// ipEntry is an object with the rules that the kernel holds of it.
type ipEntry struct {
	object netstate.Object
	// exact objects have all their rules and no others.
	exact bool
	lines []ipRule
}

// judgeLines compares the rules that an object has with those it wants.
func judgeLines(want, have []ipRule) bool {
	return slices.Equal(inOrder(want), inOrder(have))
}

// inOrder are the rules in an order that is equal for those which mean the same:
// in chains of an object's own their own, else none.
func inOrder(lines []ipRule) []ipRule {
	var own, shared []ipRule
	for _, l := range lines {
		l.spec = canon(l.spec)
		if ownChain(l.chain) {
			own = append(own, l)
		} else {
			shared = append(shared, l)
		}
	}
	slices.SortFunc(shared, compareLines)
	slices.SortStableFunc(own, func(a, b ipRule) int { return compareSpots(a.spot, b.spot) })
	return append(shared, own...)
}
