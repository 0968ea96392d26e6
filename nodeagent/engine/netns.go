package engine

import (
	"slices"

	"github.com/patchbay-dev/patchbay/nodeagent/compile"
	"github.com/patchbay-dev/patchbay/nodeagent/kernel"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
	"github.com/patchbay-dev/patchbay/nodeagent/plan"
)

// One network namespace may have several names under /run/netns. The first name by
// which an attachment uses it counts; every other name is a conflict, and what the
// kernel tells under another name is about the first.

const peerField = "spec.pointToPoint.netns"

// identify claims what the namespaces of a compiled attachment are, as far as they
// exist.
func (e *Engine) identify(u *unit, r *compile.Result) *compile.Problem {
	names := map[netstate.NetnsID]string{}
	var claims []compile.Claim
	for _, end := range netnsEnds(r.Objects) {
		id, ok := e.Kernel.NetnsID(end.Netns)
		if !ok {
			continue
		}
		if first := names[id]; first != "" && first != end.Netns {
			return compile.SecondName(peerField, end.Netns, first, "this attachment")
		}
		names[id] = end.Netns
		c := compile.NetnsClaim(id, end)
		switch {
		case end.Netns != u.view.Target.Netns && u.view.Target.Netns != "":
			c.Field = peerField
		case u.in.Attachment.Spec.Target.Pod != nil:
			c.Field = "spec.target.pod"
		}
		claims = append(claims, c)
	}
	r.Claims = slices.Concat(claims, r.Claims)
	return nil
}

// awaitNames has an attachment in conflict look again when another namespace gets one of
// its names, which then may be no second name any more.
func (e *Engine) awaitNames(u *unit) {
	if u.in.Attachment == nil {
		return
	}
	if name, problem := e.netnsOf(u); problem == nil {
		e.facts.Get(u.owner, named(netnsFact, name))
	}
	if p := u.in.Attachment.Spec.PointToPoint; p != nil && p.Netns != nil {
		e.facts.Get(u.owner, named(netnsFact, string(p.Netns.Name)))
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

// identifyMade claims what a namespace is that was just made for its owners.
func (e *Engine) identifyMade(s plan.Step) {
	if s.Key.Kind != netstate.KindNetns || s.Op == plan.Delete {
		return
	}
	if id, ok := e.Kernel.NetnsID(s.Key.Netns); ok {
		for o := range e.ledger.Owners(s.Key).All() {
			e.claims.Grant(o, compile.NetnsClaim(id, netstate.End{Netns: s.Key.Netns}))
		}
	}
}

// usedName returns the name by which an attachment uses the namespace that a name
// leads to; the name itself if none does.
func (e *Engine) usedName(name string) string {
	if name == "" || e.ledger.Owners(netstate.Netns{Name: name}.Key()).Len() > 0 {
		return name
	}
	id, ok := e.Kernel.NetnsID(name)
	if !ok {
		return name
	}
	for _, c := range e.claims.Holders(compile.NetnsClaim(id, netstate.End{}).Thing) {
		return c.Netns
	}
	return name
}

// byUsedName turns an event in a namespace under another name than the used one into
// one that says to look again.
func (e *Engine) byUsedName(ev kernel.Event) kernel.Event {
	if ev.Key.Kind == netstate.KindNetns {
		return ev
	}
	name := e.usedName(ev.Key.Netns)
	if name == ev.Key.Netns {
		return ev
	}
	ev.Key.Netns, ev.Object = name, nil
	return ev
}

// isSecondName reports whether a key that an owner holds is an object that it wants,
// under another name of the namespace: the inventory lists a namespace by each name.
func (e *Engine) isSecondName(u *unit, k netstate.Key) bool {
	if k.Netns == "" || k.Kind == netstate.KindNetns || len(u.Wanted()) == 0 {
		return false
	}
	used := k
	used.Netns = e.usedName(k.Netns)
	return used.Netns != k.Netns && u.Wanted()[used] != nil
}
