package resolve

import (
	"slices"

	"github.com/patchbay-dev/patchbay/nodeagent/compile"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
	"github.com/patchbay-dev/patchbay/nodeagent/plan"
)

// One network namespace may have several names under /run/netns. The first name by
// which an attachment uses it counts; every other name is a conflict, and what the
// kernel tells under another name is about the first.

const peerField = "spec.pointToPoint.netns"

// identify claims what the namespaces of a compiled attachment are, as far as they
// exist.
func (rv *Resolver) identify(u *Resource, r *compile.Result) *compile.Problem {
	names := map[netstate.NetnsID]string{}
	var claims []compile.Claim
	for _, end := range netnsEnds(r.Objects) {
		id, ok := rv.Kernel.NetnsID(end.Netns)
		if !ok {
			continue
		}
		if first := names[id]; first != "" && first != end.Netns {
			return compile.SecondName(peerField, end.Netns, first, "this attachment")
		}
		names[id] = end.Netns
		c := compile.NetnsClaim(id, end)
		switch {
		case end.Netns != u.View.Target.Netns && u.View.Target.Netns != "":
			c.Field = peerField
		case u.In.Attachment.Spec.Target.Pod != nil:
			c.Field = "spec.target.pod"
		}
		claims = append(claims, c)
	}
	r.Claims = slices.Concat(claims, r.Claims)
	return nil
}

// awaitNames has an attachment in conflict look again when another namespace gets one of
// its names, which then may be no second name any more.
func (rv *Resolver) awaitNames(u *Resource) {
	if u.In.Attachment == nil {
		return
	}
	if name, problem := rv.netnsOf(u); problem == nil {
		rv.facts.Get(u.Owner, named(netnsFact, name))
	}
	if p := u.In.Attachment.Spec.PointToPoint; p != nil && p.Netns != nil {
		rv.facts.Get(u.Owner, named(netnsFact, string(p.Netns.Name)))
	}
}

// netnsEnds are the namespaces among objects, each with one of our links in it if
// there is one.
func netnsEnds(objects netstate.Set) []netstate.End {
	var ends []netstate.End
	for _, k := range objects.Keys() {
		if k.Kind == netstate.KindNetns {
			ends = append(ends, netstate.End{Netns: k.Netns})
		}
		if k.Kind != netstate.KindLink || k.Netns == "" || k.Link == "lo" {
			continue
		}
		for i := range ends {
			if ends[i].Netns == k.Netns {
				ends[i].Name = k.Link
			}
		}
	}
	return ends
}

// IdentifyMade claims what a namespace is that was just made for its owners.
func (rv *Resolver) IdentifyMade(s plan.Step) {
	if s.Key.Kind != netstate.KindNetns || s.Op == plan.Delete {
		return
	}
	if id, ok := rv.Kernel.NetnsID(s.Key.Netns); ok {
		for o := range rv.Ledger.Owners(s.Key).All() {
			rv.claims.Grant(o, compile.NetnsClaim(id, netstate.End{Netns: s.Key.Netns}))
		}
	}
}

// UsedName returns the name by which an attachment uses the namespace that a name
// leads to; the name itself if none does.
func (rv *Resolver) UsedName(name string) string {
	if name == "" || rv.Ledger.Owners(netstate.Netns{Name: name}.Key()).Len() > 0 {
		return name
	}
	id, ok := rv.Kernel.NetnsID(name)
	if !ok {
		return name
	}
	for _, c := range rv.claims.Holders(compile.NetnsClaim(id, netstate.End{}).Thing) {
		return c.Netns
	}
	return name
}

// IsSecondName reports whether a key that an owner holds is an object that it wants,
// under another name of the namespace: the inventory lists a namespace by each name.
func (rv *Resolver) IsSecondName(u *Resource, k netstate.Key) bool {
	if k.Netns == "" || k.Kind == netstate.KindNetns || len(u.Wanted()) == 0 {
		return false
	}
	used := k
	used.Netns = rv.UsedName(k.Netns)
	return used.Netns != k.Netns && u.Wanted()[used] != nil
}
