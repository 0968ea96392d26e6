// Package netstate describes kernel objects as plain comparable values: links,
// addresses, routes, sysctls, bridge ports and the objects of the firewall. It
// promises that two values are equal exactly when the kernel treats them alike
// in all that Patchbay cares for, that every value has one Key, and that its
// text form can be read in a plan. It knows neither the API nor netlink.
package netstate

import (
	"cmp"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"regexp"
	"slices"
	"strings"
)

// Kind is a kind of kernel object. Kinds are numbered in the order in which
// objects are built; they are removed in reverse.
type Kind uint8

// The kinds, in building order.
const (
	KindNetns Kind = iota
	KindSysctlNode
	KindLink
	KindSysctl
	KindShaper
	KindRedirect
	KindRuleset
	KindLinkPolicy
	KindForwardGuard
	KindForeignBridge
	KindOpening
	KindLoopbackGuard
	KindPortFilter
	KindPortAddress
	KindAllowedMAC
	KindAllowedPrefix
	KindDHCPClient
	KindPort
	KindHairpin
	KindAddress
	KindRoute
	KindRule
	KindMasquerade
	KindNoMasquerade
	KindWayBack
	KindPublish
)

var kindNames = [...]string{"netns", "sysctl", "link", "sysctl", "bandwidth", "redirect", "ruleset", "isolation", "forward-guard", "foreign-bridge", "opening", "loopback-guard", "anti-spoof", "anti-spoof", "allowed-mac", "allowed-address", "dhcp-client",
	"uplink", "hairpin", "address", "route", "rule", "masquerade", "no-masquerade", "way-back", "publish"}

func (k Kind) String() string { return kindNames[k] }

// MarshalText returns the kind's name in records, which no other kind has. A name stays when
// kinds are added.
func (k Kind) MarshalText() ([]byte, error) {
	switch k {
	case KindSysctlNode:
		return []byte("node-sysctl"), nil
	case KindPortAddress:
		return []byte("port-address"), nil
	}
	return []byte(k.String()), nil
}

// UnmarshalText reads the name that MarshalText returns.
func (k *Kind) UnmarshalText(name []byte) error {
	for i := range kindNames {
		if text, _ := Kind(i).MarshalText(); string(text) == string(name) {
			*k = Kind(i)
			return nil
		}
	}
	return fmt.Errorf("unknown kind of object %q", name)
}

// Firewall reports whether objects of this kind live in the firewall; objects of all
// other kinds are netlink's and /proc's.
func (k Kind) Firewall() bool {
	switch k {
	case KindRuleset, KindLinkPolicy, KindForwardGuard, KindForeignBridge, KindOpening, KindLoopbackGuard, KindPortFilter, KindPortAddress, KindAllowedMAC, KindAllowedPrefix, KindDHCPClient, KindMasquerade, KindNoMasquerade, KindWayBack, KindPublish:
		return true
	}
	return false
}

// Key identifies one kernel object of the node.
type Key struct {
	Kind Kind `json:"kind"`
	// Netns is the name under /run/netns; empty is the host.
	Netns string `json:"netns,omitempty"`
	// Link is the interface that the object is, or is on.
	Link string `json:"link,omitempty"`
	// Name tells apart the objects of one kind on one link.
	Name string `json:"name,omitempty"`
}

func (k Key) String() string {
	parts := []string{k.Kind.String()}
	if k.Netns != "" && k.Kind != KindNetns {
		parts = append(parts, "netns/"+k.Netns)
	}
	for _, p := range []string{k.Link, k.Name} {
		if p != "" {
			parts = append(parts, p)
		}
	}
	if k.Kind == KindNetns {
		parts = append(parts, k.Netns)
	}
	return strings.Join(parts, " ")
}

// Compare orders keys by building order, then by namespace, link and name.
func (k Key) Compare(o Key) int {
	return cmp.Or(cmp.Compare(k.Kind, o.Kind), cmp.Compare(k.Netns, o.Netns), cmp.Compare(k.Link, o.Link), cmp.Compare(k.Name, o.Name))
}

// Object is one kernel object. Implementations are comparable structs.
type Object interface {
	Key() Key
	// String is the text that a plan shows after the key.
	String() string
}

// Set holds objects by key.
type Set map[Key]Object

// Add puts objects into the set and returns it.
func (s Set) Add(objects ...Object) Set {
	for _, o := range objects {
		s[o.Key()] = o
	}
	return s
}

// Keys returns the keys in building order.
func (s Set) Keys() []Key { return slices.SortedFunc(maps.Keys(s), Key.Compare) }

// Owner names the custom resource that wants an object.
type Owner struct {
	// Kind is the short name of the resource: bnet, nsa or pp.
	Kind      string
	Namespace string
	Name      string
}

// Short names of the kinds that own kernel objects.
const (
	OwnerNetwork    = "bnet"
	OwnerAttachment = "nsa"
	OwnerPublish    = "pp"
)

// String is kind:name or kind:namespace/name.
func (o Owner) String() string {
	if o.Namespace == "" {
		return o.Kind + ":" + o.Name
	}
	return o.Kind + ":" + o.Namespace + "/" + o.Name
}

// Held is an object that bears our mark.
type Held struct {
	// Owner is zero for namespaces, loopbacks, half-made links, sysctls and all objects of
	// the firewall.
	Owner  Owner
	Object Object
}

// Title is how a person calls an owner, such as BridgeNetwork red.
func (o Owner) Title() string {
	kind := map[string]string{OwnerNetwork: "BridgeNetwork", OwnerAttachment: "NamespaceAttachment", OwnerPublish: "PortPublish"}[o.Kind]
	if o.Namespace != "" {
		return kind + " " + o.Namespace + "/" + o.Name
	}
	return kind + " " + o.Name
}

// Compare orders owners: networks, attachments, publishes; then namespace and name.
func (o Owner) Compare(p Owner) int {
	rank := func(k string) int { return slices.Index([]string{OwnerNetwork, OwnerAttachment, OwnerPublish}, k) }
	return cmp.Or(cmp.Compare(rank(o.Kind), rank(p.Kind)), cmp.Compare(o.Namespace, p.Namespace), cmp.Compare(o.Name, p.Name))
}

// NetnsID identifies a network namespace under any of its names: the device and the inode
// of its file.
type NetnsID struct{ Dev, Ino uint64 }

// LinkName matches the interface names that Patchbay handles: they become text
// in a firewall script.
var LinkName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]{0,14}$`)

// MAC is an Ethernet address; comparable, unlike net.HardwareAddr.
type MAC [6]byte

func (m MAC) String() string {
	return fmt.Sprintf("%02x:%02x:%02x:%02x:%02x:%02x", m[0], m[1], m[2], m[3], m[4], m[5])
}

// ParseMAC reads six bytes in hexadecimal.
func ParseMAC(text string) (MAC, error) {
	hw, err := net.ParseMAC(text)
	if err != nil || len(hw) != 6 {
		return MAC{}, fmt.Errorf("%q is not a MAC address", text)
	}
	return MAC(hw), nil
}

// LinkLocal is the EUI-64 link-local address of the MAC (RFC 4291, appendix A).
func (m MAC) LinkLocal() netip.Addr {
	return netip.AddrFrom16([16]byte{0: 0xfe, 1: 0x80, 8: m[0] ^ 2, 9: m[1], 10: m[2], 11: 0xff, 12: 0xfe, 13: m[3], 14: m[4], 15: m[5]})
}
