package iptables

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/patchbay-dev/patchbay/nodeagent/firewall/book"
	"github.com/patchbay-dev/patchbay/nodeagent/firewall/foreign"
	"github.com/patchbay-dev/patchbay/nodeagent/firewall/iptsave"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
)

// objectFrom is the object that rules with its name remain of; nil where they do
// not tell. rulesOf is the inverse.
func objectFrom(name string, lines []iptsave.Rule) netstate.Object {
	if o := objectNamed(name, lines); o != nil && o.Key().String() == name && check(o) == nil {
		return o
	}
	return nil
}

// objectNamed is an object of a name whose rules may tell too little.
func objectNamed(name string, lines []iptsave.Rule) netstate.Object {
	kind, rest, _ := strings.Cut(name, " ")
	link, more, _ := strings.Cut(rest, " ")
	var o netstate.Object
	switch kind {
	case netstate.KindLinkPolicy.String():
		o = policyFrom(rest, lines)
	case netstate.KindForwardGuard.String():
		o = netstate.ForwardGuard{Family: netstate.Family(rest)}
	case netstate.KindForeignBridge.String():
		o = netstate.ForeignBridge{Link: rest}
	case netstate.KindLoopbackGuard.String():
		o = netstate.LoopbackGuard{Link: rest}
	case netstate.KindOpening.String():
		o, _ = foreign.AcceptNamed(name)
	case netstate.KindMasquerade.String():
		o = masqueradeFrom(link, more, lines)
	case netstate.KindNoMasquerade.String():
		subnet, dst, _ := strings.Cut(more, " to ")
		o = netstate.NoMasquerade{Link: link, Subnet: book.Fields{subnet}.Prefix(0), Dst: book.Fields{dst}.Prefix(0)}
	case netstate.KindWayBack.String():
		o = wayBackFrom(link, more, lines)
	case netstate.KindPublish.String():
		o = publishNamed(rest, lines)
	}
	return o
}

func policyFrom(link string, lines []iptsave.Rule) netstate.Object {
	p := netstate.LinkPolicy{Link: link}
	for _, l := range lines {
		both := iptsave.Option(l.Spec, "-i") != "" && iptsave.Option(l.Spec, "-o") != ""
		p.Isolated = p.Isolated || l.Chain == ipDrop && both
		p.Guarded = p.Guarded || l.Chain == ipPolicy && !both
	}
	return p
}

func masqueradeFrom(link, subnet string, lines []iptsave.Rule) netstate.Object {
	m := netstate.Masquerade{Link: link, Subnet: book.Fields{subnet}.Prefix(0)}
	for _, l := range lines {
		if l.Chain == ipMasq {
			m.Egress = true
			m.Source, _ = netip.ParseAddr(iptsave.Option(l.Spec, "--to-source"))
		}
	}
	return m
}

func wayBackFrom(link, target string, lines []iptsave.Rule) netstate.Object {
	w := netstate.WayBack{Link: link, TargetLink: target}
	for _, l := range lines {
		mark, _, _ := strings.Cut(iptsave.Option(l.Spec, "--set-xmark"), "/")
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
func publishNamed(name string, lines []iptsave.Rule) netstate.Object {
	ports, proto, _ := strings.Cut(name, "/")
	first, last, ranged := strings.Cut(ports[strings.LastIndex(ports, ":")+1:], "-")
	host, err := netip.ParseAddrPort(strings.TrimSuffix(ports, "-"+last))
	if err != nil {
		return nil
	}
	p := netstate.Publish{Host: host.Addr(), Proto: proto, HostPort: book.Fields{first}.Port(0)}
	if ranged {
		p.HostPortEnd = book.Fields{last}.Port(0)
	}
	var targets, back []netip.AddrPort
	var sources []netip.Prefix
	gated := false
	for _, l := range lines {
		if t, ok := translated(l.Spec, p); ok {
			targets = append(targets, t)
		}
		// Without a source that may connect, nothing is translated.
		if l.Chain == ipInto {
			targets = append(targets, matched(l.Spec))
		}
		gated = gated || strings.HasPrefix(l.Chain, ipSources)
		if l.Chain == ipBack && iptsave.Option(l.Spec, "-s") == "" {
			back = append(back, matched(l.Spec))
		}
		if strings.HasPrefix(l.Chain, ipSources) && iptsave.Option(l.Spec, "-p") != "" {
			sources = append(sources, sourceOf(l.Spec, p))
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
	text := iptsave.Option(spec, "--to-destination")
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
	dst := book.Fields{iptsave.Option(spec, "-d")}.Prefix(0)
	port, _, _ := strings.Cut(iptsave.Option(spec, "--dport"), ":")
	n, _ := strconv.ParseUint(port, 10, 16)
	return netip.AddrPortFrom(dst.Addr(), uint16(n))
}

// sourceOf is the source that a rule lets connect; a rule without a source lets all.
func sourceOf(spec string, p netstate.Publish) netip.Prefix {
	if s := iptsave.Option(spec, "-s"); s != "" {
		return book.Fields{s}.Prefix(0)
	}
	if p.Host.Is4() {
		return netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	}
	return netip.PrefixFrom(netip.IPv6Unspecified(), 0)
}
