package netstate

import (
	"fmt"
	"net/netip"
	"strings"
)

// Numbers of routing tables that the kernel has from the start.
const (
	TableMain  = 254
	TableLocal = 255
)

// Routing has a namespace's foreign rules and routes: the rules beside the kernel's own, in
// their order, and the routes of the main table and of the tables that rules name. In the
// main table, a route through a link of Patchbay is not foreign.
type Routing struct {
	Rules  []RouteRule
	Routes []ForeignRoute
}

// RouteRule is a foreign rule that says by which table to route.
type RouteRule struct {
	Family   Family
	Priority uint32
	// From and To select packets by their addresses; the zero Prefix selects all.
	From, To netip.Prefix
	// In is the interface that packets came in by; empty is any, the node's own
	// packets included.
	In string
	// Narrow rules have further conditions, such as a mark or a port.
	Narrow bool
	// Mask has the bits of the mark that the rule compares.
	Mask uint32
	// Drops is how the rule drops its packets, such as blackhole; empty for a rule with a
	// table.
	Drops string
	Table uint32
	// Longer makes the rule pass over routes of this many bits or fewer; -1 over none.
	Longer int
}

// String is the rule as ip prints it, without its further conditions.
func (r RouteRule) String() string {
	s := fmt.Sprintf("%d: from %s", r.Priority, prefixText(r.From))
	if r.To.IsValid() {
		s += " to " + prefixText(r.To)
	}
	if r.In != "" {
		s += " iif " + r.In
	}
	switch {
	case r.Drops != "":
		return s + " " + r.Drops
	case r.Table == TableMain:
		return s + " lookup main"
	}
	return s + fmt.Sprintf(" lookup %d", r.Table)
}

func prefixText(p netip.Prefix) string {
	switch {
	case !p.IsValid():
		return "all"
	case p.IsSingleIP():
		return p.Addr().String()
	}
	return p.String()
}

// ForeignRoute is a route that Patchbay did not make.
type ForeignRoute struct {
	Table uint32
	Dst   netip.Prefix
	// Link is the interface of the first next hop; empty for a route that drops.
	Link string
	Via  netip.Addr
	// Gated routes have a gateway among several next hops, or one of the other family;
	// Via is empty then.
	Gated bool
	// Drops is how the route drops its packets, such as blackhole; empty for a route that
	// leads somewhere.
	Drops string
	// Own routes are to a range in which the node has an address.
	Own bool
	// Tunnel routes lead into an interface behind which there are no neighbours to
	// resolve: a VPN's.
	Tunnel bool
}

// OnLink reports whether the destinations are the node's neighbours, and not
// behind a gateway or a tunnel.
func (r ForeignRoute) OnLink() bool {
	return r.Drops == "" && !r.Via.IsValid() && !r.Gated && (r.Own || !r.Tunnel)
}

// String is the route as ip prints it.
func (r ForeignRoute) String() string {
	var s []string
	if r.Drops != "" {
		s = append(s, r.Drops)
	}
	switch {
	case r.Dst.Bits() == 0:
		s = append(s, "default")
	default:
		s = append(s, prefixText(r.Dst))
	}
	if r.Via.IsValid() {
		s = append(s, "via "+r.Via.String())
	}
	if r.Link != "" {
		s = append(s, "dev "+r.Link)
	}
	if r.Table != TableMain {
		s = append(s, fmt.Sprintf("table %d", r.Table))
	}
	return strings.Join(s, " ")
}
