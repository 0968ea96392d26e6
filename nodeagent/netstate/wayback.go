package netstate

import "fmt"

// WaysBack is how many interfaces besides the usual one answers can leave by.
const WaysBack = 3

// MarkMask has the bits that mark connections and packets of a WayBack. They
// are not the bits of kube-proxy (0xc000), Cilium (0xf00), the AWS VPC CNI (0x80),
// Calico and Tailscale (0xff0000 and above).
const MarkMask = 0x3000

// WayMark is the mark of the n-th way back, from 1 to WaysBack.
func WayMark(n int) uint32 { return uint32(n) << 12 }

// WayBack marks translated connections that come in by an interface, and their answers, so
// that a Rule leads the answers out by the same interface.
type WayBack struct {
	// Link is the node's interface, TargetLink the interface that leads to the targets.
	Link, TargetLink string
	// Way numbers the mark.
	Way int
}

func (w WayBack) Key() Key       { return Key{Kind: KindWayBack, Link: w.Link, Name: w.TargetLink} }
func (w WayBack) String() string { return fmt.Sprintf("mark %#x", WayMark(w.Way)) }

// Rule routes marked answers by the table that leads out by the way's interface. It has
// protocol 147.
type Rule struct {
	Family Family
	Way    int
	Table  uint32
}

// RulePriority is the priority of a Rule, ahead of VPNs and of the main table.
const RulePriority = 5147

func (r Rule) Key() Key {
	return Key{Kind: KindRule, Name: fmt.Sprintf("%s %#x", r.Family, WayMark(r.Way))}
}
func (r Rule) String() string { return fmt.Sprintf("lookup %d", r.Table) }
