package rtnl

import (
	"encoding/binary"

	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
	"github.com/vishvananda/netlink/nl"
)

// Attributes of a bridge that vishvananda's nl lacks, linux/if_link.h and
// if_bridge.h.
const (
	brMultiBoolOpt  = 46 // IFLA_BR_MULTI_BOOLOPT, Linux 5.0
	brFDBMaxLearned = 49 // IFLA_BR_FDB_MAX_LEARNED, Linux 6.8
	boolNoLLLearn   = 1  // 1 << BR_BOOLOPT_NO_LL_LEARN
)

// sized is an attribute with its size in a message, in bytes.
type sized struct {
	attribute netstate.Attribute
	size      int
}

// bridgeSizes and portSizes are the attributes of a bridge and of a port by their netlink
// type. A kernel ignores a type that it does not know.
var (
	bridgeSizes = map[uint16]sized{
		nl.IFLA_BR_MCAST_SNOOPING:    {netstate.MulticastSnooping, 1},
		nl.IFLA_BR_MCAST_HASH_MAX:    {netstate.MulticastHashMax, 4},
		brFDBMaxLearned:              {netstate.FDBMaxLearned, 4},
		nl.IFLA_BR_STP_STATE:         {netstate.STP, 4},
		nl.IFLA_BR_FORWARD_DELAY:     {netstate.ForwardDelay, 4},
		nl.IFLA_BR_AGEING_TIME:       {netstate.Ageing, 4},
		nl.IFLA_BR_VLAN_FILTERING:    {netstate.VLANFiltering, 1},
		nl.IFLA_BR_GROUP_FWD_MASK:    {netstate.GroupForward, 2},
		nl.IFLA_BR_NF_CALL_IPTABLES:  {netstate.CallIPTables, 1},
		nl.IFLA_BR_NF_CALL_IP6TABLES: {netstate.CallIP6Tables, 1},
	}
	portSizes = map[uint16]sized{
		nl.IFLA_BRPORT_STATE:            {netstate.PortState, 1},
		nl.IFLA_BRPORT_LEARNING:         {netstate.Learning, 1},
		nl.IFLA_BRPORT_UNICAST_FLOOD:    {netstate.Flood, 1},
		nl.IFLA_BRPORT_MCAST_FLOOD:      {netstate.MulticastFlood, 1},
		nl.IFLA_BRPORT_BCAST_FLOOD:      {netstate.BroadcastFlood, 1},
		nl.IFLA_BRPORT_LOCKED:           {netstate.Locked, 1},
		nl.IFLA_BRPORT_NEIGH_SUPPRESS:   {netstate.NeighSuppress, 1},
		nl.IFLA_BRPORT_PROXYARP:         {netstate.ProxyARP, 1},
		nl.IFLA_BRPORT_PROXYARP_WIFI:    {netstate.ProxyARPWiFi, 1},
		nl.IFLA_BRPORT_MCAST_MAX_GROUPS: {netstate.MulticastGroups, 4},
	}
)

func (n sized) read(value []byte) (uint32, bool) {
	switch {
	case len(value) < n.size:
		return 0, false
	case n.size == 1:
		return uint32(value[0]), true
	case n.size == 2:
		return uint32(binary.NativeEndian.Uint16(value)), true
	}
	return Uint32(value), true
}

func (n sized) write(value uint32) []byte {
	switch n.size {
	case 1:
		return nl.Uint8Attr(uint8(value))
	case 2:
		return nl.Uint16Attr(uint16(value))
	}
	return nl.Uint32Attr(value)
}

// bridgeAttributes reads the IFLA_INFO_DATA of a bridge.
func bridgeAttributes(b []byte) netstate.Attributes {
	var out netstate.Attributes
	for kind, value := range Attributes(b) {
		if n, known := bridgeSizes[kind]; known {
			if v, ok := n.read(value); ok {
				out = out.With(n.attribute, v)
			}
		}
		// struct br_boolopt_multi: values, and which of them the kernel knows.
		if kind == brMultiBoolOpt && len(value) >= 8 && Uint32(value[4:])&boolNoLLLearn != 0 {
			out = out.With(netstate.NoLinkLocalLearn, Uint32(value)&boolNoLLLearn)
		}
	}
	return out
}

// BridgeInfo is the IFLA_LINKINFO of a bridge with attributes; nil without any of
// a bridge's.
func BridgeInfo(s netstate.Attributes) *nl.RtAttr {
	info := LinkInfo("bridge")
	data := info.AddRtAttr(nl.IFLA_INFO_DATA, nil)
	some := addSized(data, bridgeSizes, s)
	if value, ok := s.Get(netstate.NoLinkLocalLearn); ok {
		data.AddRtAttr(brMultiBoolOpt, append(nl.Uint32Attr(value), nl.Uint32Attr(boolNoLLLearn)...))
		some = true
	}
	if !some {
		return nil
	}
	return info
}

// PortInfo is the IFLA_LINKINFO of a port with attributes; nil without any of a
// port's.
func PortInfo(s netstate.Attributes) *nl.RtAttr {
	info, data := slaveInfo()
	if !addSized(data, portSizes, s) {
		return nil
	}
	return info
}

func addSized(data *nl.RtAttr, sizes map[uint16]sized, s netstate.Attributes) (some bool) {
	for kind, n := range sizes {
		if value, ok := s.Get(n.attribute); ok {
			data.AddRtAttr(int(kind), n.write(value))
			some = true
		}
	}
	return some
}
