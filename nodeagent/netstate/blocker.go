package netstate

import (
	"slices"
	"strings"
)

// Blocker is a chain of somebody else's firewall that drops packets, by policy or by
// a rule: an accept of ours in a chain of our own cannot overrule it.
type Blocker struct {
	// Name is family, table and chain, as a person looks for it.
	Name string
	// Hook is where it sees them, such as prerouting; empty is forward. Bridge says that
	// it is that of bridges, and sees frames.
	Hook   string
	Bridge bool
	// Untracked says that it keeps packets from connection tracking instead, without
	// which nothing is translated.
	Untracked bool
	// Proto and the ports from First to Last are set where it only drops what is sent
	// to those.
	Proto       string
	First, Last uint16
	// Links are the only interfaces whose packets it sees; none for all.
	Links []string
	// Cause is what drops them, as in "by policy".
	Cause string
	// Families are those whose packets it sees.
	Families []Family
	// Accepts are the interfaces that rules ahead of that let through, as far as
	// they name any; one that ends in * is a prefix, and * alone is every interface.
	Accepts []string
	// Openable chains are iptables' own, where an Opening can let our interfaces
	// through.
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
	for _, a := range b.Accepts {
		prefix, wildcard := strings.CutSuffix(a, "*")
		if a == link || wildcard && strings.HasPrefix(link, prefix) {
			return false
		}
	}
	return sees && (len(b.Links) == 0 || slices.Contains(b.Links, link))
}

// Opening lets what is forwarded from and to an interface of ours through the
// FORWARD chain of iptables, which drops the rest. What may pass at all
// is decided by our own chains all the same.
type Opening struct {
	Family Family
	Link   string
}

func (o Opening) Key() Key       { return Key{Kind: KindOpening, Link: o.Link, Name: string(o.Family)} }
func (o Opening) String() string { return "in FORWARD of iptables" }
