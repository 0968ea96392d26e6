package kernel

import (
	"github.com/vishvananda/netlink/nl"

	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
)

// Attributes of a bridge that vishvananda's nl lacks, linux/if_link.h and
// if_bridge.h.
const (
	brMultiBoolOpt  = 46 // IFLA_BR_MULTI_BOOLOPT, Linux 5.0
	brFDBMaxLearned = 49 // IFLA_BR_FDB_MAX_LEARNED, Linux 6.8
	boolNoLLLearn   = 1  // 1 << BR_BOOLOPT_NO_LL_LEARN
)

// bridgeNumbers are the attributes that are a number of their own. A kernel
// ignores those that it does not know.
var bridgeNumbers = map[netstate.Attribute]struct{ kind, size int }{
	netstate.MulticastSnooping: {nl.IFLA_BR_MCAST_SNOOPING, 1},
	netstate.MulticastHashMax:  {nl.IFLA_BR_MCAST_HASH_MAX, 4},
	netstate.FDBMaxLearned:     {brFDBMaxLearned, 4},
}

// bridgeAttributes reads the IFLA_INFO_DATA of a bridge.
func bridgeAttributes(b []byte) netstate.Attributes {
	var out netstate.Attributes
	for kind, value := range attributes(b) {
		for a, n := range bridgeNumbers {
			switch {
			case n.kind != int(kind) || len(value) < n.size:
			case n.size == 1:
				out = out.With(a, uint32(value[0]))
			default:
				out = out.With(a, uint32At(value))
			}
		}
		// struct br_boolopt_multi: values, and which of them the kernel knows.
		if kind == brMultiBoolOpt && len(value) >= 8 && uint32At(value[4:])&boolNoLLLearn != 0 {
			out = out.With(netstate.NoLinkLocalLearn, uint32At(value)&boolNoLLLearn)
		}
	}
	return out
}

// addBridgeAttributes is the inverse of bridgeAttributes.
func addBridgeAttributes(data *nl.RtAttr, s netstate.Attributes) {
	for a, n := range bridgeNumbers {
		if value, ok := s.Get(a); ok && n.size == 1 {
			data.AddRtAttr(n.kind, nl.Uint8Attr(uint8(value)))
		} else if ok {
			data.AddRtAttr(n.kind, nl.Uint32Attr(value))
		}
	}
	if value, ok := s.Get(netstate.NoLinkLocalLearn); ok {
		data.AddRtAttr(brMultiBoolOpt, append(nl.Uint32Attr(value), nl.Uint32Attr(boolNoLLLearn)...))
	}
}

// bridgeInfo is the IFLA_LINKINFO of a bridge with attributes.
func bridgeInfo(s netstate.Attributes) (info, data *nl.RtAttr) {
	info = linkInfo("bridge")
	data = info.AddRtAttr(nl.IFLA_INFO_DATA, nil)
	addBridgeAttributes(data, s)
	return info, data
}
