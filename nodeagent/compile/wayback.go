package compile

import (
	"net/netip"
	"slices"

	"github.com/patchbay-dev/patchbay/api/v1alpha1"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
)

// otherWay is a way out that is not the node's usual one: packets from some addresses leave
// by it.
type otherWay struct {
	family netstate.Family
	link   string
	table  uint32
}

// otherWays returns the ways out of a node that routes by sender, the first for each
// family and interface.
func otherWays(node netstate.Node) []otherWay {
	var ways []otherWay
	for _, r := range node.Rules {
		if !r.From.IsValid() || r.To.IsValid() || r.Narrow || r.Drops != "" || r.Table == netstate.TableMain {
			continue
		}
		for _, route := range node.Routes {
			w := otherWay{r.Family, route.Link, r.Table}
			usual := route.Link == node.DefaultLink || node.Links[route.Link].Ours
			if route.Table != r.Table || route.Dst.Bits() > 0 || netstate.FamilyOf(route.Dst.Addr()) != r.Family || route.Drops != "" || usual || !netstate.LinkName.MatchString(route.Link) {
				continue
			}
			if !slices.ContainsFunc(ways, func(o otherWay) bool { return o.family == w.family && o.link == w.link }) {
				ways = append(ways, w)
			}
		}
	}
	return ways
}

// waysBack has connections that come in by another way than the usual one answered by that
// way.
func (b *publish) waysBack(targets []AttachmentView) {
	ways := otherWays(b.c.Node)
	var links []string
	for _, w := range ways {
		if !slices.Contains(links, w.link) {
			links = append(links, w.link)
		}
	}
	slices.Sort(links)
	for _, w := range ways {
		n := slices.Index(links, w.link) + 1
		if n > netstate.WaysBack {
			b.r.note(problem(v1alpha1.ReasonRoutedElsewhere, "published; but who comes in by %s of node %s is answered by %s: more than %d interfaces with routes of their own cannot be told apart", w.link, b.c.Node.Name, b.c.Node.DefaultLink, netstate.WaysBack))
			continue
		}
		for _, t := range targets {
			if _, reached := ofFamily(oneOfEachFamily(t.Reached), ident, anyOf(w.family)); reached && t.Reachable {
				b.r.add(netstate.WayBack{Link: w.link, TargetLink: t.Way, Way: n}, netstate.Rule{Family: w.family, Way: n, Table: w.table})
			}
		}
		if w.family == netstate.IPv4 && b.c.Node.Links[w.link].Strict {
			b.r.note(problem(v1alpha1.ReasonRoutedElsewhere, "published; but node %[1]s drops who comes in by %[2]s and is reached by another interface (strict rp_filter): set net.ipv4.conf.%[2]s.rp_filter to 2", b.c.Node.Name, w.link))
		}
	}
	for _, r := range b.c.Node.Rules {
		if len(ways) > 0 && r.Mask&netstate.MarkMask != 0 && r.Mask != ^uint32(0) {
			b.r.note(problem(v1alpha1.ReasonRoutedElsewhere, "published; but the rule %s of node %s looks at marks among %#x, by which answers find the interface that they leave by: use others there", r, b.c.Node.Name, netstate.MarkMask))
		}
	}
}

func anyOf(f netstate.Family) netip.Addr {
	if f == netstate.IPv6 {
		return netip.IPv6Unspecified()
	}
	return netip.IPv4Unspecified()
}
