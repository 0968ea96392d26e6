package nat

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
)

// held is an element that the kernel holds.
type held struct {
	value string
	// source is empty where the comment is not ours: then nobody owns the
	// element, and it goes.
	source netstate.Source
	note   string
}

// entry is an object of ours.
type entry struct {
	object netstate.Object
	// exact objects have all their elements and no contradictory ones.
	exact bool
	// extra elements contradict the object.
	extra []id
}

// objects reconstructs what the given elements were made of; holds are all
// elements that the kernel holds. Elements that belong to no object, such as a
// target that nothing leads to, contribute nothing.
func objects(own map[id]held, holds map[id]held) map[netstate.Key]*entry {
	groups := map[netstate.Key][]id{}
	for i, h := range own {
		if k, ok := keyOf(i, h); ok {
			groups[k] = append(groups[k], i)
		}
	}
	entries := make(map[netstate.Key]*entry, len(groups))
	for k, group := range groups {
		slices.SortFunc(group, compareIDs)
		if o := objectOf(k, group, holds); o != nil && validate(o) == nil {
			entries[k] = judge(o, group, holds)
		}
	}
	return entries
}

// judge compares an object with the elements that bear its key. What nobody owns
// will go and so does not count.
func judge(o netstate.Object, group []id, holds map[id]held) *entry {
	e := &entry{object: o, exact: true}
	want := elements(o)
	for _, w := range want {
		if h, ok := holds[w.id]; !ok || h.source == "" || h.value != w.value {
			e.exact = false
		}
	}
	for _, i := range group {
		if !slices.ContainsFunc(want, func(w element) bool { return w.id == i }) {
			e.exact, e.extra = false, append(e.extra, i)
		}
	}
	return e
}

// keyOf tells which object an element belongs to. It returns false for one that
// several may share.
func keyOf(i id, h held) (netstate.Key, bool) {
	p := parts(i.key)
	switch i.set {
	case setOurs, setGuarded, setSame, setIsolated:
		return netstate.Realm{Link: p.text(0)}.Key(), p.text(0) == p.text(len(p)-1)
	case setNoForward:
		return netstate.ForwardGuard{Family: netstate.Family(p.text(0))}.Key(), true
	case setBridged:
		return netstate.ForeignBridge{Link: p.text(0)}.Key(), p.text(0) == p.text(len(p)-1)
	case setPorts, setMAC:
		return netstate.PortFilter{Link: p.text(0)}.Key(), true
	case setIP4, setIP6, setND6:
		return portKey(p), p.addr(2).IsValid()
	case setAllowedMAC:
		return netstate.AllowedMAC{Link: p.text(0), MAC: p.mac()}.Key(), true
	case setAllowed4, setAllowed6, setAllowedND6:
		return netstate.AllowedPrefix{Link: p.text(0), Prefix: p.prefix(1)}.Key(), true
	case setDHCP:
		return netstate.DHCPClient{Link: p.text(0)}.Key(), true
	case setHairpin4, setHairpin6:
		return netstate.Masquerade{Link: p.text(1), Subnet: p.prefix(0)}.Key(), true
	case setMasq4, setMasq6, mapSource4, mapSource6:
		return netstate.Masquerade{Link: h.note, Subnet: p.prefix(0)}.Key(), h.note != ""
	case setNoMasq4, setNoMasq6:
		return netstate.NoMasquerade{Link: h.note, Subnet: p.prefix(0), Dst: p.prefix(1)}.Key(), h.note != ""
	case setWay1, setWay2, setWay3:
		return netstate.WayBack{Link: p.text(0), Realm: p.text(1)}.Key(), true
	case setLoopback:
		return netstate.LoopbackGuard{Link: p.text(0)}.Key(), true
	}
	if publishParts[i.set] != 0 {
		return publishOf(i, h).Key(), true
	}
	return netstate.Key{}, false
}

// portKey is the filter's for the link-local address of its own MAC.
func portKey(p fields) netstate.Key {
	if p.addr(2) == p.mac().LinkLocal() {
		return netstate.PortFilter{Link: p.text(0)}.Key()
	}
	return netstate.PortAddress{Link: p.text(0), Addr: p.addr(2)}.Key()
}

// objectOf is the object with the given key of which the group's elements
// remain; nil where they do not tell.
func objectOf(k netstate.Key, group []id, holds map[id]held) netstate.Object {
	first := parts(group[0].key)
	switch k.Kind {
	case netstate.KindRealm:
		r := netstate.Realm{Link: k.Link}
		r.Guarded = has(holds, at(setGuarded, k.Link))
		r.Isolated = has(holds, at(setIsolated, k.Link, k.Link))
		return r
	case netstate.KindForwardGuard:
		return netstate.ForwardGuard{Family: netstate.Family(k.Name)}
	case netstate.KindForeignBridge:
		return netstate.ForeignBridge{Link: k.Link}
	case netstate.KindLoopbackGuard:
		return netstate.LoopbackGuard{Link: k.Link}
	case netstate.KindPortFilter:
		return portFilterOf(k.Link, group)
	case netstate.KindPortAddress:
		return netstate.PortAddress{Link: k.Link, MAC: first.mac(), Addr: first.addr(2)}
	case netstate.KindAllowedMAC:
		return netstate.AllowedMAC{Link: k.Link, MAC: first.mac()}
	case netstate.KindAllowedPrefix:
		return netstate.AllowedPrefix{Link: k.Link, Prefix: first.prefix(1)}
	case netstate.KindDHCPClient:
		return netstate.DHCPClient{Link: k.Link}
	case netstate.KindMasquerade:
		return masqueradeOf(k.Link, first.prefix(0), holds)
	case netstate.KindNoMasquerade:
		return netstate.NoMasquerade{Link: k.Link, Subnet: first.prefix(0), Dst: first.prefix(1)}
	case netstate.KindWayBack:
		return netstate.WayBack{Link: first.text(0), Realm: first.text(1), Way: slices.Index(waySets[:], group[0].set) + 1}
	case netstate.KindPublish:
		return publishFrom(group, holds)
	}
	return nil
}

func portFilterOf(link string, group []id) netstate.Object {
	f := netstate.PortFilter{Link: link}
	for _, i := range group {
		if i.set != setPorts {
			f.MAC = parts(i.key).mac()
		}
		if i.set == setMAC {
			break
		}
	}
	return f
}

func masqueradeOf(link string, subnet netip.Prefix, holds map[id]held) netstate.Object {
	m := netstate.Masquerade{Link: link, Subnet: subnet, Egress: true}
	if h, ok := holds[at(pick(subnet.Addr(), mapSource4, mapSource6), subnet).id]; ok {
		m.Source = parts(h.value).addr(0)
		return m
	}
	m.Egress = has(holds, at(pick(subnet.Addr(), setMasq4, setMasq6), subnet))
	return m
}

func has(holds map[id]held, e element) bool {
	_, ok := holds[e.id]
	return ok
}

// fields are the parts of a key or value. Its methods return zero values for
// what is missing or not of that type; validate refuses the objects made of
// them.
type fields []string

func parts(text string) fields { return split(text) }

func (f fields) text(i int) string {
	if i < 0 || i >= len(f) {
		return ""
	}
	return f[i]
}

func (f fields) addr(i int) netip.Addr {
	a, _ := netip.ParseAddr(f.text(i))
	return a
}

func (f fields) prefix(i int) netip.Prefix {
	p, _ := netip.ParsePrefix(f.text(i))
	return p
}

func (f fields) port(i int) uint16 {
	n, _ := strconv.ParseUint(f.text(i), 10, 16)
	return uint16(n)
}

// ports reads a port, or a range of them; last is zero for one port.
func (f fields) ports(i int) (first, last uint16) {
	from, to, _ := strings.Cut(f.text(i), "-")
	return fields{from}.port(0), fields{to}.port(0)
}

// mac is always a key's second part.
func (f fields) mac() netstate.MAC {
	m, _ := netstate.ParseMAC(f.text(1))
	return m
}
