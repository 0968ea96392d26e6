package nftables

import (
	"fmt"

	"github.com/patchbay-dev/patchbay/nodeagent/firewall/nfnl"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
	"sigs.k8s.io/knftables"
)

// The sets and maps. Their elements are all that ever changes; the rules are
// the same whatever they hold.
const (
	setOurs      = "ours"      // interfaces of realms
	setGuarded   = "guarded"   // realms that only published flows enter
	setSame      = "same"      // realm . realm, where members reach each other
	setIsolated  = "isolated"  // realm . realm, where they do not
	setNoForward = "noforward" // families not forwarded between foreign interfaces
	setBridged   = "bridged"   // foreign bridge . itself, which is not forwarding

	setPorts = "ports"  // filtered bridge ports
	setMAC   = "ok_mac" // port . MAC
	setIP4   = "ok_ip4" // port . MAC . IPv4 source or ARP sender
	setIP6   = "ok_ip6" // port . MAC . IPv6 source
	setND6   = "ok_nd6" // port . MAC . target of its neighbour messages

	// What a filtered port may also send as.
	setAllowedMAC = "allow_mac" // port . MAC
	setAllowed4   = "allow4"    // port . IPv4 source or ARP sender
	setAllowed6   = "allow6"    // port . IPv6 source
	setAllowedND6 = "allow_nd6" // port . target of its neighbour messages
	setDHCP       = "dhcp4"     // ports that may ask for an address

	setLoopback = "lb" // interfaces with route_localnet

	setWay1 = "way1" // interface . realm, answered by the first of the ways back
	setWay2 = "way2"
	setWay3 = "way3"

	setTarget4 = "tgt4" // published targets
	setTarget6 = "tgt6"
	setBack4   = "back4" // targets whose default route is elsewhere
	setBack6   = "back6"
	mapPub4    = "pub4" // host address . protocol . port : target
	mapPub6    = "pub6"
	mapAny4    = "any4" // protocol . port : target
	mapAny6    = "any6"
	// The same of ranges that keep their ports. Those of one host address may
	// overlap another's, and lead to the same target.
	setTarget4Range = "tgt4r"
	setTarget6Range = "tgt6r"
	setTarget4Host  = "tgt4h" // target . protocol . ports . host address
	setTarget6Host  = "tgt6h"
	setBack4Range   = "back4r"
	setBack6Range   = "back6r"
	setBack4Host    = "back4h"
	setBack6Host    = "back6h"
	mapPub4Range    = "pub4r"
	mapPub6Range    = "pub6r"
	mapAny4Range    = "any4r"
	mapAny6Range    = "any6r"
	// Gates, of ports that not everyone may use: what is gated, and who passes.
	setPubGate4 = "pubgate4" // host address . protocol . ports
	setPubGate6 = "pubgate6"
	setAnyGate4 = "anygate4" // protocol . ports
	setAnyGate6 = "anygate6"
	setPubFrom4 = "pubfrom4" // host address . protocol . ports . source
	setPubFrom6 = "pubfrom6"
	setAnyFrom4 = "anyfrom4" // protocol . ports . source
	setAnyFrom6 = "anyfrom6"
	// The same with several targets: every slot leads to one.
	mapPub4Slots = "pub4slots"
	mapPub6Slots = "pub6slots"
	mapAny4Slots = "any4slots"
	mapAny6Slots = "any6slots"
	// The same of ranges that keep their ports.
	mapPub4RangeSlots = "pub4rslots"
	mapPub6RangeSlots = "pub6rslots"
	mapAny4RangeSlots = "any4rslots"
	mapAny6RangeSlots = "any6rslots"

	setHairpin4 = "snat4" // subnet . its interface
	setHairpin6 = "snat6"
	setNoMasq4  = "nomasq4" // subnet . destination that sees it
	setNoMasq6  = "nomasq6"
	mapSource4  = "snto4" // subnet : address it hides behind
	mapSource6  = "snto6"
	setMasq4    = "snet4" // subnets hidden behind whatever routing chooses
	setMasq6    = "snet6"
)

// field is the type of one part of a key or value, in nft's words.
type field string

const (
	fieldLink   field = "ifname"
	fieldMAC    field = "ether_addr"
	fieldIPv4   field = "ipv4_addr"
	fieldIPv6   field = "ipv6_addr"
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
	family   knftables.Family
	name     string
	key      []field
	value    []field
	interval bool
	// typeOf replaces the type names where they do not exist: the key's, and in a
	// map the value's too.
	typeOf string
}

// bound maps can only be made together with the rules that use them: nft 1.0.6
// takes the port in a value whose type it read back from the kernel for another
// protocol's than the rule's ("conflicting protocols specified: tcp vs. th").
func (d *setDef) bound() bool { return d.typeOf != "" && d.value != nil }

// draw is the slot of a new connection.
var draw = fmt.Sprintf("numgen random mod %d", netstate.MaxTargets)

// waySets are those of the ways back, in their order.
var waySets = [netstate.WaysBack]string{setWay1, setWay2, setWay3}

// setDefs are in the order in which elements are added where they do not fit
// into one transaction: what closes comes before what opens.
var setDefs = []setDef{
	{family: knftables.InetFamily, name: setOurs, key: []field{fieldLink}},
	{family: knftables.InetFamily, name: setGuarded, key: []field{fieldLink}},
	{family: knftables.InetFamily, name: setIsolated, key: []field{fieldLink, fieldLink}},
	{family: knftables.InetFamily, name: setBridged, key: []field{fieldLink, fieldLink}},
	{family: knftables.InetFamily, name: setNoForward, key: []field{fieldFamily}},
	{family: knftables.InetFamily, name: setLoopback, key: []field{fieldLink}},
	{family: knftables.BridgeFamily, name: setPorts, key: []field{fieldLink}},

	{family: knftables.InetFamily, name: setSame, key: []field{fieldLink, fieldLink}},
	{family: knftables.BridgeFamily, name: setMAC, key: []field{fieldLink, fieldMAC}},
	{family: knftables.BridgeFamily, name: setIP4, key: []field{fieldLink, fieldMAC, fieldIPv4}},
	{family: knftables.BridgeFamily, name: setIP6, key: []field{fieldLink, fieldMAC, fieldIPv6}},
	{family: knftables.BridgeFamily, name: setND6, key: []field{fieldLink, fieldMAC, fieldTarget}, typeOf: "iifname . ether saddr . @th,64,128"},
	{family: knftables.BridgeFamily, name: setAllowedMAC, key: []field{fieldLink, fieldMAC}},
	{family: knftables.BridgeFamily, name: setAllowed4, key: []field{fieldLink, fieldIPv4}, interval: true},
	{family: knftables.BridgeFamily, name: setAllowed6, key: []field{fieldLink, fieldIPv6}, interval: true},
	{family: knftables.BridgeFamily, name: setAllowedND6, key: []field{fieldLink, fieldTarget}, interval: true, typeOf: "iifname . @th,64,128"},
	{family: knftables.BridgeFamily, name: setDHCP, key: []field{fieldLink}},

	{family: knftables.InetFamily, name: setWay1, key: []field{fieldLink, fieldLink}},
	{family: knftables.InetFamily, name: setWay2, key: []field{fieldLink, fieldLink}},
	{family: knftables.InetFamily, name: setWay3, key: []field{fieldLink, fieldLink}},

	{family: knftables.InetFamily, name: setHairpin4, key: []field{fieldIPv4, fieldLink}, interval: true},
	{family: knftables.InetFamily, name: setHairpin6, key: []field{fieldIPv6, fieldLink}, interval: true},
	{family: knftables.InetFamily, name: setNoMasq4, key: []field{fieldIPv4, fieldIPv4}, interval: true},
	{family: knftables.InetFamily, name: setNoMasq6, key: []field{fieldIPv6, fieldIPv6}, interval: true},
	{family: knftables.InetFamily, name: mapSource4, key: []field{fieldIPv4}, value: []field{fieldIPv4}, interval: true},
	{family: knftables.InetFamily, name: mapSource6, key: []field{fieldIPv6}, value: []field{fieldIPv6}, interval: true},
	{family: knftables.InetFamily, name: setMasq4, key: []field{fieldIPv4}, interval: true},
	{family: knftables.InetFamily, name: setMasq6, key: []field{fieldIPv6}, interval: true},

	{family: knftables.InetFamily, name: setTarget4, key: []field{fieldIPv4, fieldProto, fieldPort}},
	{family: knftables.InetFamily, name: setTarget6, key: []field{fieldIPv6, fieldProto, fieldPort}},
	{family: knftables.InetFamily, name: setBack4, key: []field{fieldIPv4, fieldProto, fieldPort}},
	{family: knftables.InetFamily, name: setBack6, key: []field{fieldIPv6, fieldProto, fieldPort}},
	{family: knftables.InetFamily, name: setTarget4Range, key: []field{fieldIPv4, fieldProto, fieldPort}, interval: true},
	{family: knftables.InetFamily, name: setTarget6Range, key: []field{fieldIPv6, fieldProto, fieldPort}, interval: true},
	{family: knftables.InetFamily, name: setTarget4Host, key: []field{fieldIPv4, fieldProto, fieldPort, fieldIPv4}, interval: true},
	{family: knftables.InetFamily, name: setTarget6Host, key: []field{fieldIPv6, fieldProto, fieldPort, fieldIPv6}, interval: true},
	{family: knftables.InetFamily, name: setBack4Range, key: []field{fieldIPv4, fieldProto, fieldPort}, interval: true},
	{family: knftables.InetFamily, name: setBack6Range, key: []field{fieldIPv6, fieldProto, fieldPort}, interval: true},
	{family: knftables.InetFamily, name: setBack4Host, key: []field{fieldIPv4, fieldProto, fieldPort, fieldIPv4}, interval: true},
	{family: knftables.InetFamily, name: setBack6Host, key: []field{fieldIPv6, fieldProto, fieldPort, fieldIPv6}, interval: true},
	// Who passes a gate comes before the gate, which comes before the port.
	{family: knftables.InetFamily, name: setPubFrom4, key: []field{fieldIPv4, fieldProto, fieldPort, fieldIPv4}, interval: true},
	{family: knftables.InetFamily, name: setPubFrom6, key: []field{fieldIPv6, fieldProto, fieldPort, fieldIPv6}, interval: true},
	{family: knftables.InetFamily, name: setAnyFrom4, key: []field{fieldProto, fieldPort, fieldIPv4}, interval: true},
	{family: knftables.InetFamily, name: setAnyFrom6, key: []field{fieldProto, fieldPort, fieldIPv6}, interval: true},
	{family: knftables.InetFamily, name: setPubGate4, key: []field{fieldIPv4, fieldProto, fieldPort}, interval: true},
	{family: knftables.InetFamily, name: setPubGate6, key: []field{fieldIPv6, fieldProto, fieldPort}, interval: true},
	{family: knftables.InetFamily, name: setAnyGate4, key: []field{fieldProto, fieldPort}, interval: true},
	{family: knftables.InetFamily, name: setAnyGate6, key: []field{fieldProto, fieldPort}, interval: true},
	{family: knftables.InetFamily, name: mapPub4, key: []field{fieldIPv4, fieldProto, fieldPort}, value: []field{fieldIPv4, fieldPort}},
	{family: knftables.InetFamily, name: mapPub6, key: []field{fieldIPv6, fieldProto, fieldPort}, value: []field{fieldIPv6, fieldPort}},
	{family: knftables.InetFamily, name: mapAny4, key: []field{fieldProto, fieldPort}, value: []field{fieldIPv4, fieldPort}},
	{family: knftables.InetFamily, name: mapAny6, key: []field{fieldProto, fieldPort}, value: []field{fieldIPv6, fieldPort}},
	{family: knftables.InetFamily, name: mapPub4Range, key: []field{fieldIPv4, fieldProto, fieldPort}, value: []field{fieldIPv4}, interval: true},
	{family: knftables.InetFamily, name: mapPub6Range, key: []field{fieldIPv6, fieldProto, fieldPort}, value: []field{fieldIPv6}, interval: true},
	{family: knftables.InetFamily, name: mapAny4Range, key: []field{fieldProto, fieldPort}, value: []field{fieldIPv4}, interval: true},
	{family: knftables.InetFamily, name: mapAny6Range, key: []field{fieldProto, fieldPort}, value: []field{fieldIPv6}, interval: true},
	{family: knftables.InetFamily, name: mapPub4Slots, key: []field{fieldIPv4, fieldProto, fieldPort, fieldSlot}, value: []field{fieldIPv4, fieldPort},
		typeOf: "ip daddr . meta l4proto . th dport . " + draw + " : ip daddr . th dport"},
	{family: knftables.InetFamily, name: mapPub6Slots, key: []field{fieldIPv6, fieldProto, fieldPort, fieldSlot}, value: []field{fieldIPv6, fieldPort},
		typeOf: "ip6 daddr . meta l4proto . th dport . " + draw + " : ip6 daddr . th dport"},
	{family: knftables.InetFamily, name: mapAny4Slots, key: []field{fieldProto, fieldPort, fieldSlot}, value: []field{fieldIPv4, fieldPort},
		typeOf: "meta l4proto . th dport . " + draw + " : ip daddr . th dport"},
	{family: knftables.InetFamily, name: mapAny6Slots, key: []field{fieldProto, fieldPort, fieldSlot}, value: []field{fieldIPv6, fieldPort},
		typeOf: "meta l4proto . th dport . " + draw + " : ip6 daddr . th dport"},
	{family: knftables.InetFamily, name: mapPub4RangeSlots, key: []field{fieldIPv4, fieldProto, fieldPort, fieldSlot}, value: []field{fieldIPv4}, interval: true,
		typeOf: "ip daddr . meta l4proto . th dport . " + draw + " : ip daddr"},
	{family: knftables.InetFamily, name: mapPub6RangeSlots, key: []field{fieldIPv6, fieldProto, fieldPort, fieldSlot}, value: []field{fieldIPv6}, interval: true,
		typeOf: "ip6 daddr . meta l4proto . th dport . " + draw + " : ip6 daddr"},
	{family: knftables.InetFamily, name: mapAny4RangeSlots, key: []field{fieldProto, fieldPort, fieldSlot}, value: []field{fieldIPv4}, interval: true,
		typeOf: "meta l4proto . th dport . " + draw + " : ip daddr"},
	{family: knftables.InetFamily, name: mapAny6RangeSlots, key: []field{fieldProto, fieldPort, fieldSlot}, value: []field{fieldIPv6}, interval: true,
		typeOf: "meta l4proto . th dport . " + draw + " : ip6 daddr"},
}

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
