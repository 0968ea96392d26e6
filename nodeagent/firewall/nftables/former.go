package nftables

import "strings"

// formerNames are the names that sets and maps once had, by today's. A table with such
// names is read and then replaced, so an upgrade changes no element.
var formerNames = map[string]string{
	setNoForward: "noforward", setForeignBridge: "bridged", setLoopback: "lb",
	setFiltered: "ports", setOwnMAC: "ok_mac", setOwnIP: "ok_ip#", setOwnND6: "ok_nd6",
	setAllowedMAC: "allow_mac", setAllowedIP: "allow#", setAllowedND6: "allow_nd6",
	setHairpin: "snat#", setNoMasq: "nomasq#", mapSNAT: "snto#", setMasq: "snet#",
	setTargets: "tgt#", setMasqTargets: "back#",
	addrSets.targetRanges: "tgt#h", addrSets.masqRanges: "back#h", addrSets.gates: "pubgate#", addrSets.sources: "pubfrom#",
	addrSets.ports: "pub#", addrSets.ranges: "pub#r", addrSets.slots: "pub#slots", addrSets.rangeSlots: "pub#rslots",
	anySets.targetRanges: "tgt#r", anySets.masqRanges: "back#r", anySets.gates: "anygate#", anySets.sources: "anyfrom#",
	anySets.ports: "any#", anySets.ranges: "any#r", anySets.slots: "any#slots", anySets.rangeSlots: "any#rslots",
}

// formerSets finds definitions by former names.
var formerSets = func() map[string]*setDef {
	m := map[string]*setDef{}
	for name, d := range setByName {
		if former, ok := formerNames[d.both]; ok {
			m[strings.ReplaceAll(former, "#", name[len(name)-1:])] = d
		}
	}
	return m
}()

// definition is what a listed set or map is in today's names, and whether it has today's.
// A set snat4 is former, a map snat4 is not.
func definition(name string, isMap bool) (d *setDef, todays bool) {
	if d := formerSets[name]; d != nil && isMap == (d.value != nil) {
		return d, false
	}
	return setByName[name], true
}
