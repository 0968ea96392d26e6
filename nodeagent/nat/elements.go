package nat

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
)

// id names one element of the tables: its set and its key, the parts of the key
// joined by " . " in canonical text.
type id struct{ set, key string }

func (i id) String() string { return i.set + " { " + i.key + " }" }

// element is what an object wants in a set or map.
type element struct {
	id
	// value is the target in a map; empty in a set.
	value string
	// note goes into the comment, for what the key cannot say: the interface
	// that a subnet is on.
	note string
}

// elements is what the kernel must hold for an object. Two objects may want the
// same element. objectOf is the inverse.
func elements(o netstate.Object) []element {
	switch o := o.(type) {
	case netstate.Realm:
		return realmElements(o)
	case netstate.ForwardGuard:
		return []element{at(setNoForward, o.Family)}
	case netstate.ForeignBridge:
		return []element{at(setBridged, o.Link, o.Link)}
	case netstate.LoopbackGuard:
		return []element{at(setLoopback, o.Link)}
	case netstate.PortFilter:
		own := o.MAC.LinkLocal()
		return []element{at(setPorts, o.Link), at(setMAC, o.Link, o.MAC), at(setIP6, o.Link, o.MAC, own), at(setND6, o.Link, o.MAC, own)}
	case netstate.PortAddress:
		if o.Addr.Is4() {
			return []element{at(setIP4, o.Link, o.MAC, o.Addr)}
		}
		return []element{at(setIP6, o.Link, o.MAC, o.Addr), at(setND6, o.Link, o.MAC, o.Addr)}
	case netstate.AllowedMAC:
		return []element{at(setAllowedMAC, o.Link, o.MAC)}
	case netstate.AllowedPrefix:
		if o.Prefix.Addr().Is4() {
			return []element{at(setAllowed4, o.Link, o.Prefix)}
		}
		return []element{at(setAllowed6, o.Link, o.Prefix), at(setAllowedND6, o.Link, o.Prefix)}
	case netstate.DHCPClient:
		return []element{at(setDHCP, o.Link)}
	case netstate.Masquerade:
		return masqueradeElements(o)
	case netstate.NoMasquerade:
		e := at(pick(o.Subnet.Addr(), setNoMasq4, setNoMasq6), o.Subnet, o.Dst)
		e.note = o.Link
		return []element{e}
	case netstate.WayBack:
		return []element{at(waySets[o.Way-1], o.Link, o.Realm)}
	case netstate.Publish:
		return publishElements(o)
	}
	return nil
}

func realmElements(r netstate.Realm) []element {
	es := []element{at(setOurs, r.Link)}
	if r.Guarded {
		es = append(es, at(setGuarded, r.Link))
	}
	if r.Isolated {
		return append(es, at(setIsolated, r.Link, r.Link))
	}
	return append(es, at(setSame, r.Link, r.Link))
}

func masqueradeElements(m netstate.Masquerade) []element {
	a := m.Subnet.Addr()
	es := []element{at(pick(a, setHairpin4, setHairpin6), m.Subnet, m.Link)}
	switch {
	case m.Egress && m.Source.IsValid():
		e := at(pick(a, mapSource4, mapSource6), m.Subnet)
		e.value, e.note = m.Source.String(), m.Link
		es = append(es, e)
	case m.Egress:
		e := at(pick(a, setMasq4, setMasq6), m.Subnet)
		e.note = m.Link
		es = append(es, e)
	}
	return es
}

// at is the element of a set with the given parts of its key.
func at(set string, parts ...any) element { return element{id: id{set, join(parts)}} }

func join[T any](parts []T) string {
	s := make([]string, len(parts))
	for i, p := range parts {
		s[i] = fmt.Sprint(p)
	}
	return strings.Join(s, " . ")
}

func split(key string) []string { return strings.Split(key, " . ") }

func pick(a netip.Addr, four, six string) string {
	if a.Is4() {
		return four
	}
	return six
}

// validate refuses an object that has no place in the tables.
func validate(o netstate.Object) error {
	var err error
	switch o := o.(type) {
	case netstate.Realm:
		err = checkLink(o.Link)
	case netstate.ForwardGuard:
		err = checkKnown(o.Family)
	case netstate.PortFilter:
		err = checkLink(o.Link)
	case netstate.ForeignBridge:
		err = checkLink(o.Link)
	case netstate.Opening:
		err = errors.Join(checkLink(o.Link), checkKnown(o.Family), checkBeyond(o))
	case netstate.LoopbackGuard:
		err = checkLink(o.Link)
	case netstate.PortAddress:
		err = errors.Join(checkLink(o.Link), checkAddr(o.Addr))
	case netstate.AllowedMAC:
		err = checkLink(o.Link)
	case netstate.AllowedPrefix:
		err = errors.Join(checkLink(o.Link), checkPrefix(o.Prefix))
	case netstate.DHCPClient:
		err = checkLink(o.Link)
	case netstate.Masquerade:
		err = errors.Join(checkLink(o.Link), checkPrefix(o.Subnet), checkSource(o))
	case netstate.NoMasquerade:
		err = errors.Join(checkLink(o.Link), checkPrefix(o.Subnet), checkPrefix(o.Dst), checkFamily(o.Subnet.Addr(), o.Dst.Addr()))
	case netstate.WayBack:
		err = errors.Join(checkLink(o.Link), checkLink(o.Realm), checkWay(o.Way))
	case netstate.Publish:
		err = checkPublish(o)
	default:
		err = fmt.Errorf("%T is not a firewall object", o)
	}
	return err
}

// checkBeyond refuses an opening that names more than one thing beside its link.
func checkBeyond(o netstate.Opening) error {
	switch {
	case o == netstate.Opening{Family: o.Family, Link: o.Link}:
		return nil
	case o == netstate.Opening{Family: o.Family, Link: o.Link, Out: o.Out}:
		return checkLink(o.Out)
	case o.Out != "" || protoNumbers[o.Proto] == 0 || netstate.FamilyOf(o.To.Addr()) != o.Family || o.End != 0 && o.End <= o.To.Port():
		return fmt.Errorf("opening to %s-%d/%s of %s must be ports of a known protocol in its family", o.To, o.End, o.Proto, o.Family)
	}
	return checkAddr(o.To.Addr())
}

func checkKnown(f netstate.Family) error {
	if f != netstate.IPv4 && f != netstate.IPv6 {
		return fmt.Errorf("unknown family %q", f)
	}
	return nil
}

func checkWay(n int) error {
	if n < 1 || n > netstate.WaysBack {
		return fmt.Errorf("way back %d must be 1 to %d", n, netstate.WaysBack)
	}
	return nil
}

func checkLink(name string) error {
	if !netstate.LinkName.MatchString(name) {
		return fmt.Errorf("interface name %q must match %s", name, netstate.LinkName)
	}
	return nil
}

func checkAddr(a netip.Addr) error {
	if !a.IsValid() || a.Zone() != "" || a.Is4In6() {
		return fmt.Errorf("address %q must be a plain IPv4 or IPv6 address", a)
	}
	return nil
}

func checkPrefix(p netip.Prefix) error {
	if !p.IsValid() || p != p.Masked() {
		return fmt.Errorf("prefix %q must have no host bits", p)
	}
	return checkAddr(p.Addr())
}

func checkFamily(a, b netip.Addr) error {
	if a.Is4() != b.Is4() {
		return fmt.Errorf("%s and %s must be of one family", a, b)
	}
	return nil
}

func checkSource(m netstate.Masquerade) error {
	if !m.Source.IsValid() {
		return nil
	}
	return errors.Join(checkAddr(m.Source), checkFamily(m.Source, m.Subnet.Addr()))
}

// protoNumbers are the protocols that can be published.
var protoNumbers = map[string]uint8{"tcp": 6, "udp": 17, "sctp": 132}

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
