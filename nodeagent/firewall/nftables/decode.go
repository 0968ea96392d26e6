package nftables

import (
	"net/netip"
	"slices"

	"github.com/patchbay-dev/patchbay/nodeagent/firewall/book"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
)

// sets is the dialect of elements in sets and maps.
type sets struct{}

// Encode returns the elements of an object.
func (sets) Encode(o netstate.Object) []element { return elements(o) }

// Compare orders elements by set: what closes comes before what opens.
func (sets) Compare(a, b id) int { return compareIDs(a, b) }

// KeyOf tells which object an element belongs to. It returns false for one that
// several may share.
func (sets) KeyOf(i id, h book.Held) (netstate.Key, bool) {
	p := fieldsOf(i.key)
	switch setByName[i.set].both {
	case setOurs, setGuarded, setSame, setIsolated:
		return netstate.LinkPolicy{Link: p.Text(0)}.Key(), p.Text(0) == p.Text(len(p)-1)
	case setNoForward:
		return netstate.ForwardGuard{Family: netstate.Family(p.Text(0))}.Key(), true
	case setForeignBridge:
		return netstate.ForeignBridge{Link: p.Text(0)}.Key(), p.Text(0) == p.Text(len(p)-1)
	case setFiltered, setOwnMAC:
		return netstate.PortFilter{Link: p.Text(0)}.Key(), true
	case setOwnIP, setOwnND6:
		return portKey(p), p.Addr(2).IsValid()
	case setAllowedMAC:
		return netstate.AllowedMAC{Link: p.Text(0), MAC: p.Mac()}.Key(), true
	case setAllowedIP, setAllowedND6:
		return netstate.AllowedPrefix{Link: p.Text(0), Prefix: p.Prefix(1)}.Key(), true
	case setDHCP:
		return netstate.DHCPClient{Link: p.Text(0)}.Key(), true
	case setHairpin:
		return netstate.Masquerade{Link: p.Text(1), Subnet: p.Prefix(0)}.Key(), true
	case setMasq, mapSNAT:
		return netstate.Masquerade{Link: h.Note, Subnet: p.Prefix(0)}.Key(), h.Note != ""
	case setNoMasq:
		return netstate.NoMasquerade{Link: h.Note, Subnet: p.Prefix(0), Dst: p.Prefix(1)}.Key(), h.Note != ""
	case waySets[0], waySets[1], waySets[2]:
		return netstate.WayBack{Link: p.Text(0), TargetLink: p.Text(1)}.Key(), true
	case setLoopback:
		return netstate.LoopbackGuard{Link: p.Text(0)}.Key(), true
	}
	if p := setByName[i.set].part; p != 0 && p != targeting {
		return publishOf(i, h).Key(), true
	}
	return netstate.Key{}, false
}

// portKey is the filter's for the link-local address of its own MAC.
func portKey(p book.Fields) netstate.Key {
	if p.Addr(2) == p.Mac().LinkLocal() {
		return netstate.PortFilter{Link: p.Text(0)}.Key()
	}
	return netstate.PortAddress{Link: p.Text(0), Addr: p.Addr(2)}.Key()
}

// Decode returns the object with the given key from the elements of its group that remain;
// nil where they do not tell.
func (sets) Decode(k netstate.Key, group []id, holds map[id]book.Held) netstate.Object {
	if o := objectOf(k, group, holds); o != nil && book.Check(o) == nil {
		return o
	}
	return nil
}

func objectOf(k netstate.Key, group []id, holds map[id]book.Held) netstate.Object {
	first := fieldsOf(group[0].key)
	switch k.Kind {
	case netstate.KindLinkPolicy:
		return netstate.LinkPolicy{Link: k.Link, Guarded: has(holds, at(setGuarded, k.Link)), Isolated: has(holds, at(setIsolated, k.Link, k.Link))}
	case netstate.KindForwardGuard:
		return netstate.ForwardGuard{Family: netstate.Family(k.Name)}
	case netstate.KindForeignBridge:
		return netstate.ForeignBridge{Link: k.Link}
	case netstate.KindLoopbackGuard:
		return netstate.LoopbackGuard{Link: k.Link}
	case netstate.KindPortFilter:
		return portFilterOf(k.Link, group)
	case netstate.KindPortAddress:
		return netstate.PortAddress{Link: k.Link, MAC: first.Mac(), Addr: first.Addr(2)}
	case netstate.KindAllowedMAC:
		return netstate.AllowedMAC{Link: k.Link, MAC: first.Mac()}
	case netstate.KindAllowedPrefix:
		return netstate.AllowedPrefix{Link: k.Link, Prefix: first.Prefix(1)}
	case netstate.KindDHCPClient:
		return netstate.DHCPClient{Link: k.Link}
	case netstate.KindMasquerade:
		return masqueradeOf(k.Link, first.Prefix(0), holds)
	case netstate.KindNoMasquerade:
		return netstate.NoMasquerade{Link: k.Link, Subnet: first.Prefix(0), Dst: first.Prefix(1)}
	case netstate.KindWayBack:
		return netstate.WayBack{Link: first.Text(0), TargetLink: first.Text(1), Way: slices.Index(waySets[:], group[0].set) + 1}
	case netstate.KindPublish:
		return publishFrom(group, holds)
	}
	return nil
}

func portFilterOf(link string, group []id) netstate.Object {
	f := netstate.PortFilter{Link: link}
	for _, i := range group {
		if i.set != setFiltered {
			f.MAC = fieldsOf(i.key).Mac()
		}
		if i.set == setOwnMAC {
			break
		}
	}
	return f
}

func masqueradeOf(link string, subnet netip.Prefix, holds map[id]book.Held) netstate.Object {
	m := netstate.Masquerade{Link: link, Subnet: subnet, Egress: true}
	if h, ok := holds[at(of(mapSNAT, subnet.Addr()), subnet).ID]; ok {
		m.Source = fieldsOf(h.Value).Addr(0)
		return m
	}
	m.Egress = has(holds, at(of(setMasq, subnet.Addr()), subnet))
	return m
}

func has(holds map[id]book.Held, e element) bool {
	_, ok := holds[e.ID]
	return ok
}

func fieldsOf(key string) book.Fields { return split(key) }
