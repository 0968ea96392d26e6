package nftables

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/patchbay-dev/patchbay/nodeagent/firewall/book"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
)

// id names one element of the tables: its set and its key, the parts of the key
// joined by " . " in canonical text.
type id struct{ set, key string }

func (i id) String() string { return i.set + " { " + i.key + " }" }

// element is what an object wants in a set or map: in a map with the target as value. The
// note says what the key cannot, such as the interface that a subnet is on.
type element = book.Entry[id]

// elements is what the kernel must hold for an object. Two objects may want the
// same element. objectOf is the inverse.
func elements(o netstate.Object) []element {
	switch o := o.(type) {
	case netstate.LinkPolicy:
		return policyElements(o)
	case netstate.ForwardGuard:
		return []element{at(setNoForward, o.Family)}
	case netstate.ForeignBridge:
		return []element{at(setForeignBridge, o.Link, o.Link)}
	case netstate.LoopbackGuard:
		return []element{at(setLoopback, o.Link)}
	case netstate.PortFilter:
		own := o.MAC.LinkLocal()
		return []element{at(setFiltered, o.Link), at(setOwnMAC, o.Link, o.MAC), at(of(setOwnIP, own), o.Link, o.MAC, own), at(setOwnND6, o.Link, o.MAC, own)}
	case netstate.PortAddress:
		es := []element{at(of(setOwnIP, o.Addr), o.Link, o.MAC, o.Addr)}
		if o.Addr.Is6() {
			es = append(es, at(setOwnND6, o.Link, o.MAC, o.Addr))
		}
		return es
	case netstate.AllowedMAC:
		return []element{at(setAllowedMAC, o.Link, o.MAC)}
	case netstate.AllowedPrefix:
		es := []element{at(of(setAllowedIP, o.Prefix.Addr()), o.Link, o.Prefix)}
		if o.Prefix.Addr().Is6() {
			es = append(es, at(setAllowedND6, o.Link, o.Prefix))
		}
		return es
	case netstate.DHCPClient:
		return []element{at(setDHCP, o.Link)}
	case netstate.Masquerade:
		return masqueradeElements(o)
	case netstate.NoMasquerade:
		e := at(of(setNoMasq, o.Subnet.Addr()), o.Subnet, o.Dst)
		e.Note = o.Link
		return []element{e}
	case netstate.WayBack:
		return []element{at(waySets[o.Way-1], o.Link, o.TargetLink)}
	case netstate.Publish:
		return publishElements(o)
	}
	return nil
}

func policyElements(p netstate.LinkPolicy) []element {
	es := []element{at(setOurs, p.Link)}
	if p.Guarded {
		es = append(es, at(setGuarded, p.Link))
	}
	if p.Isolated {
		return append(es, at(setIsolated, p.Link, p.Link))
	}
	return append(es, at(setSame, p.Link, p.Link))
}

func masqueradeElements(m netstate.Masquerade) []element {
	a := m.Subnet.Addr()
	es := []element{at(of(setHairpin, a), m.Subnet, m.Link)}
	switch {
	case m.Egress && m.Source.IsValid():
		e := at(of(mapSNAT, a), m.Subnet)
		e.Value, e.Note = m.Source.String(), m.Link
		es = append(es, e)
	case m.Egress:
		e := at(of(setMasq, a), m.Subnet)
		e.Note = m.Link
		es = append(es, e)
	}
	return es
}

// at is the element of a set with the given parts of its key.
func at(set string, parts ...any) element { return element{ID: id{set, join(parts)}} }

func join[T any](parts []T) string {
	s := make([]string, len(parts))
	for i, p := range parts {
		s[i] = fmt.Sprint(p)
	}
	return strings.Join(s, " . ")
}

func split(key string) []string { return strings.Split(key, " . ") }

// script is a key or value as nft reads it.
func script(fields []field, text string) []string {
	parts := split(text)
	for i, f := range fields[:min(len(fields), len(parts))] {
		switch f {
		case fieldLink:
			parts[i] = strconv.Quote(parts[i])
		case fieldTarget:
			parts[i] = targetScript(parts[i])
		}
	}
	return parts
}

// targetScript is an address, or a prefix as a range, as nft reads raw payload.
func targetScript(text string) string {
	if a, err := netip.ParseAddr(text); err == nil {
		return fmt.Sprintf("0x%x", a.As16())
	}
	p, err := netip.ParsePrefix(text)
	switch {
	case err != nil:
		return text
	case p.IsSingleIP():
		return fmt.Sprintf("0x%x", p.Addr().As16())
	}
	return fmt.Sprintf("0x%x-0x%x", p.Addr().As16(), lastOf(p).As16())
}

// lastOf is the last address of an IPv6 prefix.
func lastOf(p netip.Prefix) netip.Addr {
	b := p.Masked().Addr().As16()
	for i := p.Bits(); i < 128; i++ {
		b[i/8] |= 1 << (7 - i%8)
	}
	return netip.AddrFrom16(b)
}
