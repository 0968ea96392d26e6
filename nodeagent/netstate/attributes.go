package netstate

import (
	"fmt"
	"strings"
)

// Attribute is a number that the kernel holds of a link, and on which the traffic
// through it depends (docs/decisions/drift.md).
type Attribute uint8

// The attributes of a bridge, a bridge port, a veth's end and a namespace's loopback, named
// as `ip link` and `bridge link` name them. The loopback's are addresses that it has.
const (
	NoLinkLocalLearn Attribute = iota
	MulticastSnooping
	MulticastHashMax
	FDBMaxLearned
	STP
	ForwardDelay
	Ageing
	VLANFiltering
	GroupForward
	CallIPTables
	CallIP6Tables
	// OwnMAC is 1 where a bridge's table has its own MAC address.
	OwnMAC
	// LinkLocal is 1 where a bridge that runs has an IPv6 link-local address: without
	// it the node resolves no neighbour for the packets that it forwards.
	LinkLocal

	PortState
	Learning
	Flood
	MulticastFlood
	BroadcastFlood
	Locked
	NeighSuppress
	ProxyARP
	ProxyARPWiFi
	// MulticastGroups is how many a port may join.
	MulticastGroups

	ARP
	Multicast

	Loopback4
	Loopback6
	attributeCount
)

var attributeNames = [attributeCount]string{
	"no_linklocal_learn", "mcast_snooping", "mcast_hash_max", "fdb_max_learned",
	"stp_state", "forward_delay", "ageing_time", "vlan_filtering", "group_fwd_mask", "nf_call_iptables", "nf_call_ip6tables", "own_mac", "link-local address",
	"state", "learning", "flood", "mcast_flood", "bcast_flood", "locked", "neigh_suppress", "proxy_arp", "proxy_arp_wifi", "mcast_max_groups",
	"arp", "multicast", "127.0.0.1", "::1",
}

// Forwarding is the PortState of a port that carries frames.
const Forwarding = 3

// LinkAttributes are wanted of every interface of Patchbay that has neighbours.
var LinkAttributes = Attributes{}.With(ARP, 1).With(Multicast, 1)

// PortAttributes are wanted of every bridge port of Patchbay.
var PortAttributes = Attributes{}.With(PortState, Forwarding).With(Learning, 1).With(Flood, 1).With(MulticastFlood, 1).With(BroadcastFlood, 1).
	With(Locked, 0).With(NeighSuppress, 0).With(ProxyARP, 0).With(ProxyARPWiFi, 0)

// LoopbackAttributes are wanted of a Managed namespace's loopback.
var LoopbackAttributes = Attributes{}.With(Loopback4, 1).With(Loopback6, 1)

func (a Attribute) String() string { return attributeNames[a] }

// Attributes are values by attribute. A wanted attribute without a value does not matter;
// an observed one without a value is not in the kernel.
type Attributes struct {
	has    uint32
	values [attributeCount]uint32
}

// With returns the attributes with one more, or with another value of it.
func (s Attributes) With(a Attribute, value uint32) Attributes {
	s.has |= 1 << a
	s.values[a] = value
	return s
}

// Without returns the attributes but for one.
func (s Attributes) Without(a Attribute) Attributes {
	s.has &^= 1 << a
	s.values[a] = 0
	return s
}

// And returns the attributes of both; o's value counts where both have one.
func (s Attributes) And(o Attributes) Attributes {
	for a := range attributeCount {
		if value, ok := o.Get(a); ok {
			s = s.With(a, value)
		}
	}
	return s
}

// Get returns an attribute's value, and whether it has one.
func (s Attributes) Get(a Attribute) (uint32, bool) { return s.values[a], s.has&(1<<a) != 0 }

// Unlike returns the attributes that o has with another value. An attribute that
// only one of the two has is left out.
func (s Attributes) Unlike(o Attributes) Attributes {
	var out Attributes
	for a := range attributeCount {
		value, ok := s.Get(a)
		if other, has := o.Get(a); ok && has && value != other {
			out = out.With(a, value)
		}
	}
	return out
}

// String is "name=value" of each, by spaces.
func (s Attributes) String() string {
	var texts []string
	for a := range attributeCount {
		if value, ok := s.Get(a); ok {
			texts = append(texts, fmt.Sprintf("%s=%d", a, value))
		}
	}
	return strings.Join(texts, " ")
}
