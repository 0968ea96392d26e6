package nat

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"

	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
	"sigs.k8s.io/knftables"
)

// tableName is the name of both our tables.
const tableName = "patchbay"

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

	setLoopback = "lb" // interfaces with route_localnet

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

	setHairpin4 = "snat4" // subnet . its interface
	setHairpin6 = "snat6"
	setNoMasq4  = "nomasq4" // subnet . destination that sees it
	setNoMasq6  = "nomasq6"
	mapSource4  = "snto4" // subnet : address it hides behind
	mapSource6  = "snto6"
	setMasq4    = "snet4" // subnets hidden behind whatever routing chooses
	setMasq6    = "snet6"
)

// The chains.
const (
	chainPrerouting  = "prerouting"
	chainOutput      = "output"
	chainPublish     = "publish"
	chainLoopback    = "loopback"
	chainPublished   = "published"
	chainForward     = "forward"
	chainBetween     = "between"
	chainInto        = "into"
	chainPostrouting = "postrouting"

	chainIngress = "ingress"
	chainPort    = "port"
	chainIPv4    = "v4"
	chainARP     = "arp4"
	chainIPv6    = "v6"
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
}

// setByName finds definitions; names are unique over both tables.
var setByName = func() map[string]*setDef {
	m := map[string]*setDef{}
	for i := range setDefs {
		m[setDefs[i].name] = &setDefs[i]
	}
	return m
}()

// chainDef is a chain with its rules; base is nil for one that is jumped to.
type chainDef struct {
	name  string
	base  *baseChain
	rules []string
}

type baseChain struct {
	typ      knftables.BaseChainType
	hook     knftables.BaseChainHook
	priority int
}

// chainDefs are the chains of each table, those jumped to before those that
// jump.
var chainDefs = map[knftables.Family][]chainDef{
	knftables.InetFamily:   inetChains,
	knftables.BridgeFamily: bridgeChains,
}

const ports = "meta l4proto { tcp, udp, sctp } "

var inetChains = []chainDef{
	{name: chainPublish, rules: []string{
		// Who may not use a port of an address never falls into what is for every
		// address.
		ports + "ip daddr . meta l4proto . th dport @" + setPubGate4 + " ip daddr . meta l4proto . th dport . ip saddr != @" + setPubFrom4 + " return",
		ports + "ip6 daddr . meta l4proto . th dport @" + setPubGate6 + " ip6 daddr . meta l4proto . th dport . ip6 saddr != @" + setPubFrom6 + " return",
		ports + "dnat ip to ip daddr . meta l4proto . th dport map @" + mapPub4,
		ports + "dnat ip6 to ip6 daddr . meta l4proto . th dport map @" + mapPub6,
		ports + "dnat ip to ip daddr . meta l4proto . th dport map @" + mapPub4Range,
		ports + "dnat ip6 to ip6 daddr . meta l4proto . th dport map @" + mapPub6Range,
		ports + "dnat ip to ip daddr . meta l4proto . th dport . " + draw + " map @" + mapPub4Slots,
		ports + "dnat ip6 to ip6 daddr . meta l4proto . th dport . " + draw + " map @" + mapPub6Slots,
		// What is for every address is not for these.
		"ip daddr { 127.0.0.0/8, 169.254.0.0/16 } return",
		"ip6 daddr { ::1, fe80::/10 } return",
		ports + "meta l4proto . th dport @" + setAnyGate4 + " meta l4proto . th dport . ip saddr != @" + setAnyFrom4 + " return",
		ports + "meta l4proto . th dport @" + setAnyGate6 + " meta l4proto . th dport . ip6 saddr != @" + setAnyFrom6 + " return",
		ports + "dnat ip to meta l4proto . th dport map @" + mapAny4,
		ports + "dnat ip6 to meta l4proto . th dport map @" + mapAny6,
		ports + "dnat ip to meta l4proto . th dport map @" + mapAny4Range,
		ports + "dnat ip6 to meta l4proto . th dport map @" + mapAny6Range,
		ports + "dnat ip to meta l4proto . th dport . " + draw + " map @" + mapAny4Slots,
		ports + "dnat ip6 to meta l4proto . th dport . " + draw + " map @" + mapAny6Slots,
	}},
	// Before anything is translated: what is published on a loopback address, and
	// what the node itself listens on there, is for the node alone.
	{name: chainLoopback, base: &baseChain{knftables.FilterType, knftables.PreroutingHook, -300}, rules: []string{
		"iifname @" + setLoopback + " ip daddr 127.0.0.0/8 counter drop",
		"iifname @" + setLoopback + " ip saddr 127.0.0.0/8 counter drop",
	}},
	// After kube-proxy: its Services come first.
	{name: chainPrerouting, base: &baseChain{knftables.NATType, knftables.PreroutingHook, -95}, rules: []string{
		// kube-proxy sets all.route_localnet, so loopback needs saying.
		"ip daddr 127.0.0.0/8 return",
		"fib daddr type local goto " + chainPublish,
	}},
	{name: chainOutput, base: &baseChain{knftables.NATType, knftables.OutputHook, -95}, rules: []string{
		"fib daddr type local goto " + chainPublish,
	}},
	// `ct status dnat` alone would let somebody else's DNAT pass.
	{name: chainPublished, rules: []string{
		"ct status dnat ip daddr . meta l4proto . th dport @" + setTarget4 + " accept",
		"ct status dnat ip6 daddr . meta l4proto . th dport @" + setTarget6 + " accept",
		"ct status dnat ip daddr . meta l4proto . th dport @" + setTarget4Range + " accept",
		"ct status dnat ip6 daddr . meta l4proto . th dport @" + setTarget6Range + " accept",
		"ct status dnat ip daddr . meta l4proto . th dport . ct original ip daddr @" + setTarget4Host + " accept",
		"ct status dnat ip6 daddr . meta l4proto . th dport . ct original ip6 daddr @" + setTarget6Host + " accept",
		"counter drop",
	}},
	{name: chainBetween, rules: []string{
		"ct status dnat ct state established,related accept",
		"goto " + chainPublished,
	}},
	{name: chainInto, rules: []string{
		"ct state established,related accept",
		"iifname . oifname @" + setSame + " accept",
		"goto " + chainPublished,
	}},
	{name: chainForward, base: &baseChain{knftables.FilterType, knftables.ForwardHook, 0}, rules: []string{
		// What conntrack cannot place is not translated and would leave with
		// the realm's own addresses.
		"iifname @" + setOurs + " ct state invalid drop",
		"meta nfproto @" + setNoForward + " iifname != @" + setOurs + " oifname != @" + setOurs + " iifname . oifname != @" + setBridged + " counter drop",
		"iifname . oifname @" + setIsolated + " goto " + chainBetween,
		"oifname @" + setGuarded + " goto " + chainInto,
	}},
	{name: chainPostrouting, base: &baseChain{knftables.NATType, knftables.PostroutingHook, 100}, rules: []string{
		// Hairpin, not by iifname: there is none where br_netfilter bridges it.
		"ct status dnat ip saddr . oifname @" + setHairpin4 + " masquerade",
		"ct status dnat ip6 saddr . oifname @" + setHairpin6 + " masquerade",
		"ct status dnat ip daddr . meta l4proto . th dport @" + setBack4 + " masquerade",
		"ct status dnat ip6 daddr . meta l4proto . th dport @" + setBack6 + " masquerade",
		"ct status dnat ip daddr . meta l4proto . th dport @" + setBack4Range + " masquerade",
		"ct status dnat ip6 daddr . meta l4proto . th dport @" + setBack6Range + " masquerade",
		"ct status dnat ip daddr . meta l4proto . th dport . ct original ip daddr @" + setBack4Host + " masquerade",
		"ct status dnat ip6 daddr . meta l4proto . th dport . ct original ip6 daddr @" + setBack6Host + " masquerade",
		"ct status dnat oifname @" + setLoopback + " ip saddr 127.0.0.0/8 masquerade",
		"oifname @" + setOurs + " return",
		"ip saddr . ip daddr @" + setNoMasq4 + " return",
		"ip6 saddr . ip6 daddr @" + setNoMasq6 + " return",
		"snat ip to ip saddr map @" + mapSource4,
		"snat ip6 to ip6 saddr map @" + mapSource6,
		"ip saddr @" + setMasq4 + " masquerade",
		"ip6 saddr @" + setMasq6 + " masquerade",
	}},
}

var bridgeChains = []chainDef{
	{name: chainIPv4, rules: []string{
		"iifname . ether saddr . ip saddr @" + setIP4 + " accept",
		"drop",
	}},
	{name: chainARP, rules: []string{
		"arp htype 1 arp ptype ip arp plen 4 iifname . arp saddr ether . arp saddr ip @" + setIP4 + " accept",
		"arp operation request arp saddr ip 0.0.0.0 iifname . arp saddr ether @" + setMAC + " accept",
		"drop",
	}},
	{name: chainIPv6, rules: []string{
		"icmpv6 type { nd-router-advert, nd-redirect } drop",
		"icmpv6 type nd-neighbor-advert iifname . ether saddr . @th,64,128 != @" + setND6 + " drop",
		"iifname . ether saddr . ip6 saddr @" + setIP6 + " accept",
		"ip6 saddr :: icmpv6 type nd-neighbor-solicit iifname . ether saddr . @th,64,128 @" + setND6 + " accept",
		"ip6 saddr :: icmpv6 type mld2-listener-report accept",
		"drop",
	}},
	{name: chainPort, rules: []string{
		"iifname . ether saddr != @" + setMAC + " drop",
		"ether type vmap { ip : goto " + chainIPv4 + ", arp : goto " + chainARP + ", ip6 : goto " + chainIPv6 + " }",
		"drop",
	}},
	// ibrname matches nothing here; iifname is the port.
	{name: chainIngress, base: &baseChain{knftables.FilterType, knftables.PreroutingHook, -300}, rules: []string{
		"iifname @" + setPorts + " goto " + chainPort,
	}},
}

// families are the families in which we have a table.
var families = []knftables.Family{knftables.InetFamily, knftables.BridgeFamily}

// ruleMark is the comment by which a rule is known again: nft lists a rule's
// text differently from version to version.
func ruleMark(f knftables.Family, chain string, index int, rule string) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%s %s %d %s", f, chain, index, rule))
	return hex.EncodeToString(sum[:5])
}

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
		return &knftables.Set{Family: d.family, Table: tableName, Name: d.name, Type: typ, TypeOf: d.typeOf, Flags: flags}
	}
	if typ != "" {
		typ += " : " + join(d.value)
	}
	return &knftables.Map{Family: d.family, Table: tableName, Name: d.name, Type: typ, TypeOf: d.typeOf, Flags: flags}
}

// object is the chain without its rules in knftables' words.
func (c *chainDef) object(f knftables.Family) *knftables.Chain {
	o := &knftables.Chain{Family: f, Table: tableName, Name: c.name}
	if c.base != nil {
		o.Type, o.Hook = &c.base.typ, &c.base.hook
		o.Priority = knftables.PtrTo(knftables.BaseChainPriority(fmt.Sprint(c.base.priority)))
		o.Policy = knftables.PtrTo(knftables.AcceptPolicy)
	}
	return o
}

// ruleObjects are the chain's rules in knftables' words.
func (c *chainDef) ruleObjects(f knftables.Family) []*knftables.Rule {
	rules := make([]*knftables.Rule, len(c.rules))
	for i, text := range c.rules {
		mark := ruleMark(f, c.name, i, text)
		rules[i] = &knftables.Rule{Family: f, Table: tableName, Chain: c.name, Rule: text, Comment: &mark}
	}
	return rules
}
