package netstate

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Blocker is a foreign firewall's chain that drops packets, by policy or by a rule: an
// accept in a chain of Patchbay cannot overrule it.
type Blocker struct {
	// Name is family, table and chain, as a person looks for it.
	Name string
	// Hook is the hook where it sees packets, such as prerouting; empty is forward. Bridge
	// says that the hook is a bridge's, and sees frames.
	Hook   string
	Bridge bool
	// Untracked says that it keeps packets from connection tracking instead, without
	// which nothing is translated.
	Untracked bool
	// Proto and the ports from First to Last are set where it only drops packets to these
	// ports.
	Proto       string
	First, Last uint16
	// Links are the only interfaces whose packets it sees; none for all.
	Links []string
	// Cause names the reason for the drop, as in "by policy".
	Cause string
	// Families are the address families whose packets it sees.
	Families []Family
	// Accepts are the interfaces that rules ahead of that let through, as far as
	// they name any; one that ends in * is a prefix, and * alone is every interface.
	Accepts []string
	// Names are the interfaces that its rules and those it leads to speak of, as Accepts
	// has them.
	Names []string
	// Translated says that it lets packets pass that were translated to their target, as
	// those to published ports are.
	Translated bool
	// Openable chains are iptables' own, where an Opening can let packets through.
	Openable bool
	// Unknown says that not all of its rules can be read: it may drop packets, or let
	// them through.
	Unknown bool
}

// Blocks reports whether the chain keeps packets of a family from an interface.
func (b Blocker) Blocks(f Family, link string) bool {
	sees := false
	for _, family := range b.Families {
		sees = sees || family == f
	}
	return sees && !among(b.Accepts, link) && (len(b.Links) == 0 || slices.Contains(b.Links, link))
}

// Speaks reports whether rules of the chain are about an interface.
func (b Blocker) Speaks(link string) bool { return among(b.Names, link) }

func among(names []string, link string) bool {
	return slices.ContainsFunc(names, func(n string) bool {
		prefix, wildcard := strings.CutSuffix(n, "*")
		return n == link || wildcard && strings.HasPrefix(link, prefix)
	})
}

// Opening lets packets through the FORWARD chain of iptables, which drops them
// otherwise. Without Out and To it is for packets to Link, an interface of Patchbay, and
// for their answers: our own chains have filtered them before. Packets from Link pass only
// to an interface that leads out of the node, one Opening for each: a foreign program's
// guests may be behind any other interface, and its rules decide there.
type Opening struct {
	Family Family
	Link   string
	// Out is an interface by which packets from Link may leave the node.
	Out string
	// To, up to port End where that is not zero, and Proto are a target of a publish,
	// where Link is a foreign bridge: connections that were translated to it pass, and
	// nothing else.
	To    netip.AddrPort
	End   uint16
	Proto string
}

func (o Opening) Key() Key {
	name := string(o.Family)
	switch {
	case o.Out != "":
		name += " out " + o.Out
	case o.To.IsValid():
		name += " to " + o.To.String()
		if o.End != 0 {
			name += fmt.Sprintf("-%d", o.End)
		}
		name += "/" + o.Proto
	}
	return Key{Kind: KindOpening, Link: o.Link, Name: name}
}

func (o Opening) String() string { return "in FORWARD of iptables" }
