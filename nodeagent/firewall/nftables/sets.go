package nftables

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/patchbay-dev/patchbay/nodeagent/firewall/nfnl"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
	"sigs.k8s.io/knftables"
)

// The sets and maps. Their elements are all that ever changes; the rules are the same
// whatever they hold. A name with # stands for a set of each family, such as targets4 and
// targets6.
const (
	setOurs          = "ours"           // links with a policy
	setGuarded       = "guarded"        // links that only published flows enter
	setSame          = "same"           // link . the same link, where members reach each other
	setIsolated      = "isolated"       // link . the same link, where they do not
	setNoForward     = "no_forward"     // families not forwarded between foreign interfaces
	setForeignBridge = "foreign_bridge" // foreign bridge . itself, which is not forwarding
	setLoopback      = "loopback"       // interfaces with route_localnet

	setFiltered = "filtered" // filtered bridge ports
	setOwnMAC   = "own_mac"  // port . MAC
	setOwnIP    = "own_ip#"  // port . MAC . source or ARP sender
	setOwnND6   = "own_nd6"  // port . MAC . target of its neighbour messages

	// What a filtered port may also send as.
	setAllowedMAC = "allowed_mac" // port . MAC
	setAllowedIP  = "allowed_ip#" // port . source or ARP sender
	setAllowedND6 = "allowed_nd6" // port . target of its neighbour messages
	setDHCP       = "dhcp4"       // ports that may ask for an address

	setHairpin = "hairpin#" // subnet . its interface
	setNoMasq  = "no_masq#" // subnet . destination that sees it
	mapSNAT    = "snat#"    // subnet : address it hides behind
	setMasq    = "masq#"    // subnets hidden behind whatever routing chooses

	setTargets     = "targets#"      // published targets
	setMasqTargets = "masq_targets#" // targets whose default route is elsewhere
)

// waySets are the sets of the ways back, in their order: interface . link to the targets.
var waySets = [netstate.WaysBack]string{"way1", "way2", "way3"}

// of is a name, or a text with names, of sets of the family of an address.
func of(set string, a netip.Addr) string {
	if a.Is4() {
		return strings.ReplaceAll(set, "#", "4")
	}
	return strings.ReplaceAll(set, "#", "6")
}

// field is the type of one part of a key or value, in nft's words.
type field string

const (
	fieldLink field = "ifname"
	fieldMAC  field = "ether_addr"
	fieldIPv4 field = "ipv4_addr"
	fieldIPv6 field = "ipv6_addr"
	// fieldIP is one or the other, in the definition of sets of both families.
	fieldIP     field = "ip"
	fieldProto  field = "inet_proto"
	fieldPort   field = "inet_service"
	fieldFamily field = "nf_proto"
	// fieldTarget is an IPv6 address as raw payload: nft 1.0.6 has no name for
	// the target of a neighbour message.
	fieldTarget field = "integer"
	// fieldSlot is a number below netstate.MaxTargets, drawn for a connection.
	fieldSlot field = "slot"
)

// setDef defines a set, or a map where it has a value. In an interval set, the
// addresses of the key are prefixes and its ports may be ranges.
type setDef struct {
	family     knftables.Family
	name, both string
	key, value []field
	interval   bool
	// typeOf replaces the type names where they do not exist: the key's, and in a
	// map the value's too.
	typeOf string
	part   part
}

// part says what an element is of a publish.
type part int

const (
	leading part = iota + 1
	gating
	admitting
	targeting
)

// bound maps can only be made together with the rules that use them: nft 1.0.6
// takes the port in a value whose type it read back from the kernel for another
// protocol's than the rule's ("conflicting protocols specified: tcp vs. th").
func (d *setDef) bound() bool { return d.typeOf != "" && d.value != nil }

// oneHost reports whether the elements lead or gate ports of one host address.
func (d *setDef) oneHost() bool { return d.key[0] != fieldProto }

// draw is the slot of a new connection.
var draw = fmt.Sprintf("numgen random mod %d", netstate.MaxTargets)

func inet(name string, key ...field) setDef {
	return setDef{family: knftables.InetFamily, name: name, both: name, key: key}
}

func bridge(name string, key ...field) setDef {
	return setDef{family: knftables.BridgeFamily, name: name, both: name, key: key}
}

// is has the elements of a set be a part of publishes.
func (d setDef) is(p part) setDef { d.part = p; return d }

func (d setDef) ranges() setDef { d.interval = true; return d }

func (d setDef) of(types string) setDef { d.typeOf = types; return d }

// leads makes a map of a set, by which ports lead to targets.
func (d setDef) leads(value ...field) setDef { d.value = value; return d.is(leading) }

// slots adds the slot to the key, which has no name as a type, and leads.
func (d setDef) slots(value ...field) setDef {
	names := map[field]string{fieldIP: "IP daddr", fieldProto: "meta l4proto", fieldPort: "th dport"}
	expressions := func(fields []field) string {
		var out []string
		for _, f := range fields {
			out = append(out, names[f])
		}
		return join(out)
	}
	d.typeOf = expressions(d.key) + " . " + draw + " : " + expressions(value)
	d.key = append(d.key, fieldSlot)
	return d.leads(value...)
}

// families46 are the definitions for IPv4 and IPv6 of each set.
func families46(defs ...setDef) (all []setDef) {
	for _, d := range defs {
		for _, a := range []netip.Addr{ipv4, ipv6} {
			one := d
			one.name, one.typeOf = of(d.name, a), ipWords(d.typeOf, a)
			one.key, one.value = addressed(d.key, a), addressed(d.value, a)
			all = append(all, one)
		}
	}
	return all
}

// addressed are fields with the address type of a family.
func addressed(fields []field, a netip.Addr) []field {
	out := slices.Clone(fields)
	for i, f := range fields {
		switch {
		case f == fieldIP && a.Is4():
			out[i] = fieldIPv4
		case f == fieldIP:
			out[i] = fieldIPv6
		}
	}
	return out
}

// ipWords is a text of nft with IP as the name of the protocol of a family.
func ipWords(text string, a netip.Addr) string {
	if a.Is4() {
		return strings.ReplaceAll(text, "IP", "ip")
	}
	return strings.ReplaceAll(text, "IP", "ip6")
}

// setDefs are in the order in which elements are added where they do not fit
// into one transaction: sets that close come before sets that open.
var setDefs = slices.Concat(
	[]setDef{
		inet(setOurs, fieldLink), inet(setGuarded, fieldLink), inet(setIsolated, fieldLink, fieldLink),
		inet(setForeignBridge, fieldLink, fieldLink), inet(setNoForward, fieldFamily), inet(setLoopback, fieldLink),
		bridge(setFiltered, fieldLink), inet(setSame, fieldLink, fieldLink), bridge(setOwnMAC, fieldLink, fieldMAC),
	},
	families46(bridge(setOwnIP, fieldLink, fieldMAC, fieldIP)),
	[]setDef{
		bridge(setOwnND6, fieldLink, fieldMAC, fieldTarget).of("iifname . ether saddr . @th,64,128"),
		bridge(setAllowedMAC, fieldLink, fieldMAC),
	},
	families46(bridge(setAllowedIP, fieldLink, fieldIP).ranges()),
	[]setDef{
		bridge(setAllowedND6, fieldLink, fieldTarget).of("iifname . @th,64,128").ranges(),
		bridge(setDHCP, fieldLink),
		inet(waySets[0], fieldLink, fieldLink), inet(waySets[1], fieldLink, fieldLink), inet(waySets[2], fieldLink, fieldLink),
	},
	families46(
		inet(setHairpin, fieldIP, fieldLink).ranges(),
		inet(setNoMasq, fieldIP, fieldIP).ranges(),
		inet(mapSNAT, fieldIP).ranges().leads(fieldIP).is(0),
		inet(setMasq, fieldIP).ranges(),
		inet(setTargets, fieldIP, fieldProto, fieldPort).is(targeting),
		inet(setMasqTargets, fieldIP, fieldProto, fieldPort).is(targeting),
	),
	families46(addrSets.defs()...),
	families46(anySets.defs()...),
	// Bound maps are last: that is where nft lists them once rules were rewritten.
	families46(addrSets.boundDefs()...),
	families46(anySets.boundDefs()...),
)

// setByName finds definitions; names are unique over both tables.
var setByName = func() map[string]*setDef {
	m := map[string]*setDef{}
	for i := range setDefs {
		m[setDefs[i].name] = &setDefs[i]
	}
	return m
}()

// set is the definition in knftables' words.
func (d *setDef) object() knftables.Object {
	typ, flags := "", []knftables.SetFlag(nil)
	if d.typeOf == "" {
		typ = join(d.key)
	}
	if d.interval {
		flags = []knftables.SetFlag{knftables.IntervalFlag}
	}
	if d.value == nil {
		return &knftables.Set{Family: d.family, Table: nfnl.OwnTable, Name: d.name, Type: typ, TypeOf: d.typeOf, Flags: flags}
	}
	if typ != "" {
		typ += " : " + join(d.value)
	}
	return &knftables.Map{Family: d.family, Table: nfnl.OwnTable, Name: d.name, Type: typ, TypeOf: d.typeOf, Flags: flags}
}
