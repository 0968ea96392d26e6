package compile

import (
	"fmt"
	"net/netip"

	"github.com/patchbay-dev/patchbay/api/v1alpha1"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
)

// Claim is a wish of a resource for something that only one resource may have, or a few.
type Claim struct {
	Thing Thing
	// Claims with equal Sharers may be had together; empty is exclusive.
	Sharers string
	// Reason and Field say how a loser is told.
	Reason string
	Field  string
	// Key is the one object that a loser goes without; with the zero Key the
	// loser goes without everything.
	Key netstate.Key
	// Netns is set on claims of what a network namespace is, to the name that is used.
	Netns string
	// Soft claims are of defaults that no manifest asks for: a loser goes without the
	// object, and is none the worse.
	Soft bool
	// Proof is the object that the kernel has if an owner holds the thing already: by it a
	// process without memory knows the holder.
	Proof netstate.Key
}

// Thing is the subject of a claim: a kind, and the fields that name one thing of that
// kind. Equal things are the same one.
type Thing struct {
	Kind ThingKind
	// Name of an interface, a namespace, a network or a bridge; Netns that it is in.
	Netns, Name string
	Address     netip.Addr
	Subnet      netip.Prefix
	Ports       HostPorts
	MAC         netstate.MAC
	ID          netstate.NetnsID
	Family      netstate.Family
}

// ThingKind is a kind of thing.
type ThingKind uint8

// The kinds.
const (
	// Interface is the name of an interface in a namespace.
	Interface ThingKind = iota + 1
	// NetnsName is a name of a network namespace, NetnsItself what it is.
	NetnsName
	NetnsItself
	// NetworkAddress is an address of a network. Without a network it is an address whose
	// network is not known, and conflicts with the same address of every network.
	NetworkAddress
	// NetworkMAC is a MAC address of a network.
	NetworkMAC
	// Subnet is address space that the node routes, LinkAddress the same of one address
	// behind a point-to-point link. They conflict where they overlap.
	Subnet
	LinkAddress
	// HostPort is a port, or a range, of one host address. They conflict where they overlap.
	HostPort
	// Uplink is an interface of the node as port of a bridge.
	Uplink
	// BridgePort is a port of a bridge: a bridge has a limited number.
	BridgePort
	// DefaultRoute is the default route of a namespace, in one family.
	DefaultRoute
)

// String is the thing as the subject of a sentence.
func (t Thing) String() string {
	switch t.Kind {
	case Interface:
		return "interface " + netstate.End{Netns: t.Netns, Name: t.Name}.String()
	case NetnsName:
		return "network namespace " + t.Name
	case NetnsItself:
		return fmt.Sprintf("network namespace with inode %d of device %d", t.ID.Ino, t.ID.Dev)
	case NetworkAddress:
		return "address " + t.Address.String() + " of network " + t.Name
	case NetworkMAC:
		return "MAC address " + t.MAC.String() + " of network " + t.Name
	case Subnet:
		return "subnet " + t.Subnet.String()
	case LinkAddress:
		return "address " + t.Subnet.Addr().String() + " of the node's point-to-point links"
	case HostPort:
		p := netstate.Publish{Host: t.Ports.Host, Proto: t.Ports.Proto, HostPort: t.Ports.First, HostPortEnd: t.Ports.Last}
		if t.Ports.First == t.Ports.Last {
			p.HostPortEnd = 0
		}
		return "host port " + p.Key().Name
	case Uplink:
		return "uplink " + t.Name
	case BridgePort:
		return "port of bridge " + t.Name
	}
	return "default route of " + t.Netns + " (" + string(t.Family) + ")"
}

// Class is equal for all things whose claims may conflict: only the release of a thing of
// the same class can end a conflict.
func (t Thing) Class() Thing {
	switch t.Kind {
	case Subnet, LinkAddress:
		return Thing{Kind: Subnet}
	case HostPort:
		return Thing{Kind: HostPort, Ports: HostPorts{Host: t.Ports.Host, Proto: t.Ports.Proto}}
	case NetworkAddress:
		return Thing{Kind: NetworkAddress, Address: t.Address}
	}
	return t
}

// Conflicts reports whether two resources cannot both have their claims.
func (c Claim) Conflicts(o Claim) bool {
	switch a, b := c.Thing, o.Thing; {
	case a.Subnet.IsValid() && b.Subnet.IsValid():
		return a.Subnet.Overlaps(b.Subnet)
	case a.Kind == HostPort && b.Kind == HostPort:
		return a.Ports.Overlaps(b.Ports)
	case a != b:
		return false
	}
	return c.Sharers == "" || c.Sharers != o.Sharers
}

// HostPorts are ports of the node, both ends included. The unspecified address
// stands for itself, beside specific ones, as it does for sockets.
type HostPorts struct {
	Host        netip.Addr
	Proto       string
	First, Last uint16
}

// Overlaps reports whether both have a port in common.
func (p HostPorts) Overlaps(o HostPorts) bool {
	return p.Host == o.Host && p.Proto == o.Proto && p.First <= o.Last && o.First <= p.Last
}

// AddressClaim is the claim of an address of a network by an attachment.
func AddressClaim(network string, a netip.Addr) Claim {
	return Claim{Thing: Thing{Kind: NetworkAddress, Name: network, Address: a}, Reason: v1alpha1.ReasonAddressConflict, Field: "spec.addresses"}
}

// Marked is the value of Sharers for addresses whose network is not known.
const Marked = "marked"

// MarkedClaim is the claim of an address that bears an attachment's mark in the kernel,
// where its network is not known. Several attachments may have marked one address, of
// different networks.
func MarkedClaim(a netip.Addr) Claim {
	c := AddressClaim("", a)
	c.Sharers = Marked
	return c
}

// InterfaceClaim is the claim of an interface's name.
func InterfaceClaim(e netstate.End, field string) Claim {
	return Claim{Thing: Thing{Kind: Interface, Netns: e.Netns, Name: e.Name}, Reason: v1alpha1.ReasonInterfaceConflict, Field: field, Proof: linkKey(e)}
}

// NetnsClaim is the claim of a network namespace itself by a name of it: other attachments
// share it by that name alone.
func NetnsClaim(id netstate.NetnsID, at netstate.End) Claim {
	return Claim{
		Thing: Thing{Kind: NetnsItself, ID: id}, Sharers: at.Netns, Netns: at.Netns,
		Reason: v1alpha1.ReasonInterfaceConflict, Field: "spec.target.netns", Proof: linkKey(at),
	}
}

// PortClaim is the claim of the node's ports that a publish leads on.
func PortClaim(p netstate.Publish) Claim {
	return Claim{Thing: Thing{Kind: HostPort, Ports: HostPorts{p.Host, p.Proto, p.HostPort, p.Last()}},
		Reason: v1alpha1.ReasonHostPortConflict, Field: "spec.ports", Key: p.Key(), Proof: p.Key()}
}

func subnetClaim(s netip.Prefix, proof netstate.Key) Claim {
	return Claim{Thing: Thing{Kind: Subnet, Subnet: s}, Reason: v1alpha1.ReasonSubnetOverlap, Field: "spec.subnets", Proof: proof}
}

// SecondName says that a network namespace has a name already by which another
// resource uses it.
func SecondName(field, name, first, holder string) *Problem {
	return problem(v1alpha1.ReasonInterfaceConflict, "%s: network namespace %s has the name %s too, by which %s uses it: name it so here as well, or delete that one", field, name, first, holder)
}

// Taken says that another resource has what a claim is about.
func Taken(c Claim, holder string) *Problem {
	return problem(c.Reason, "%s: %s is taken by %s: choose another, or delete that one", c.Field, c.Thing, holder)
}

// Stays says that another resource has what a soft claim is about.
func Stays(c Claim, holder string) *Problem {
	return problem(v1alpha1.ReasonProgrammed, "%s stays with %s; set %s to choose", c.Thing, holder, c.Field)
}
