package engine

import (
	"cmp"
	"slices"
	"time"

	"github.com/patchbay-dev/patchbay/api/v1alpha1"
	"github.com/patchbay-dev/patchbay/nodeagent/compile"
	"github.com/patchbay-dev/patchbay/nodeagent/engine/claims"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
)

// addDirty adds to a batch the owners of a kind that have read what changed in this
// pass: the ports that lead to an attachment turn elsewhere before it goes.
func (e *Engine) addDirty(batch map[netstate.Owner]bool, kind string) {
	for _, o := range e.facts.Take(func(o netstate.Owner) bool { return o.Kind == kind }) {
		if u := e.units[o]; u != nil && u.accepted() && !e.unknown(u) {
			batch[o] = true
		}
	}
}

// ownerKinds are the kinds of owners, in the order in which they depend on
// each other.
var ownerKinds = []string{netstate.OwnerNetwork, netstate.OwnerAttachment, netstate.OwnerPublish}

// ofKind returns the batch's units of a kind in the order in which they may
// claim: who is built already, who has addresses, who names some, the oldest, by
// name.
func (e *Engine) ofKind(batch map[netstate.Owner]bool, kind string) []*unit {
	var list []*unit
	for o := range batch {
		if u := e.unit(o); o.Kind == kind && u.accepted() {
			list = append(list, u)
		}
	}
	slices.SortFunc(list, func(a, b *unit) int {
		return cmp.Or(first(a.built(), b.built()), first(a.recorded(), b.recorded()), first(a.static(), b.static()),
			a.in.Object().GetCreationTimestamp().Compare(b.in.Object().GetCreationTimestamp().Time), a.owner.Compare(b.owner))
	})
	return list
}

func first(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return -1
	}
	return 1
}

// built says whether the owner was programmed before, by the kernel's marks or
// by the record.
func (u *unit) built() bool { return !u.Empty() || u.recordedReady() }

// release takes away all that an owner wants, and has those look again who
// waited for it or, of a network, depend on it.
func (e *Engine) release(u *unit) {
	e.want(u, netstate.Set{})
	u.outcome = u.next()
	u.joined = nil
	e.keeper.Forget(u.owner)
	if u.owner.Kind == netstate.OwnerNetwork {
		e.claims.DropPools(u.owner.Name)
		e.claims.Unlimit(compile.PortOf(u.network.Bridge), u.owner)
	}
	e.lease(u)
	e.facts.Leave(u.siblings, u.owner)
	u.siblings = fact{}
	e.show(u)
}

// compile computes what an owner wants.
func (e *Engine) compile(u *unit) (r compile.Result) {
	e.Log.Debug("compile", "owner", u.owner)
	e.facts.Begin(u.owner)
	e.claims.Begin(u.owner)
	u.outcome = u.next()
	switch u.owner.Kind {
	case netstate.OwnerNetwork:
		e.hearOfNode(u)
		c := e.context(u)
		c.Attached = e.attached(u)
		r, u.problem = compile.Network(u.in.Network, c)
		u.network = compile.View(u.in.Network, e.node)
		e.claims.SetPools(u.network, e.node)
	case netstate.OwnerAttachment:
		r = e.compileAttachment(u)
	case netstate.OwnerPublish:
		r = e.compilePublish(u)
	}
	return r
}

// adopt makes a compiled result what the owner wants, as far as it gets what
// it claims, and shows it.
func (e *Engine) adopt(u *unit, r compile.Result) {
	u.notes = slices.Clone(r.Notes)
	// A network that is there stays, with its attachments, when the node
	// changes under it: a new route, an uplink that is gone.
	u.kept = u.problem != nil && u.owner.Kind == netstate.OwnerNetwork && (!u.Empty() || len(u.recalled) > 0)
	found := u.problem
	if u.kept {
		u.problem = nil
	}
	e.claim(u, &r)
	e.giveWay(u, &r)
	u.kept = u.kept && u.problem == nil
	if u.problem != nil {
		r.Objects = netstate.Set{}
	} else {
		u.problem = found
	}
	u.adopted, u.joined = true, nil
	if u.problem == nil {
		u.joined = u.view.Addresses
	}
	if u.owner.Kind == netstate.OwnerNetwork {
		e.limitPorts(u)
	}
	e.want(u, r.Objects)
	for k := range r.Objects {
		if k.Kind == netstate.KindForwardGuard {
			for _, b := range e.bridged {
				u.Hold(b)
			}
		}
	}
	if u.problem != nil {
		// Whatever it is, the node's links and routes may be what it lacks.
		e.hearOfNode(u)
	}
	if u.in.Attachment != nil {
		e.enterSiblings(u)
	}
	e.show(u)
}

func (e *Engine) compileAttachment(u *unit) (r compile.Result) {
	at, network, problem := e.place(u)
	if u.problem = problem; problem == nil {
		u.given, at.Routing = at.Addresses, e.routingOf(u, at.Target.Netns)
		if p := u.in.Attachment.Spec.PointToPoint; p != nil && p.Netns != nil {
			at.PeerRouting = e.routingOf(u, string(p.Netns.Name))
		}
		at.NoIPv6 = e.noIPv6(u, at)
		u.noIPv6 = len(at.NoIPv6) > 0
		// One behind a gateway of ours looks at the node only to refuse the node's addresses.
		if u.in.Attachment.Spec.PointToPoint != nil || network != nil && network.Mode == v1alpha1.GatewayExternal {
			e.hearOfNode(u)
		}
		r, u.view, u.problem = compile.Attachment(u.in.Attachment, network, at, e.context(u))
	}
	if u.problem == nil {
		u.problem = e.identify(u, &r)
	}
	if u.problem == nil && network != nil {
		e.addSiblings(u, network.AntiSpoof && e.Firewall.AntiSpoof(), &r)
	}
	if u.problem != nil {
		r = compile.Result{Objects: netstate.Set{}, Claims: e.leased(u)}
	}
	return r
}

func (e *Engine) compilePublish(u *unit) (r compile.Result) {
	r.Objects = netstate.Set{}
	var views []compile.AttachmentView
	if u.targets, views = e.targetsOf(u); len(views) == 0 {
		for _, o := range append(e.candidates(u), attachmentOf(u.in.Publish)) {
			u.problem = e.waitsFor(u, "attachment "+u.in.Publish.Spec.Attachment, o)
			break
		}
		return r
	}
	c := e.context(u)
	c.Own = e.ownAddresses(u)
	if slices.ContainsFunc(views, func(v compile.AttachmentView) bool { return !v.Bridged }) {
		e.hearOfNode(u)
	} else {
		c.Node = e.facts.Get(u.owner, fact{kind: routerFact}).(netstate.Node)
	}
	r, u.problem = compile.Publish(u.in.Publish, views, c)
	return r
}

// claim asks for what only one owner may have. Who loses goes without the one
// object, or without everything.
func (e *Engine) claim(u *unit, r *compile.Result) {
	u.partial = slices.Clone(r.Lacks)
	for _, l := range e.claims.Settle(u.owner, r.Claims, u.problem != nil) {
		switch {
		case l.Claim.Key == netstate.Key{}:
			u.problem = e.takenBy(l)
		case l.Claim.Soft:
			u.notes = append(u.notes, compile.Stays(l.Claim, Title(l.Holder)))
		default:
			u.partial = append(u.partial, e.takenBy(l))
		}
		delete(r.Objects, l.Claim.Key)
	}
	if u.problem != nil {
		_ = e.leased(u)
		if u.problem.Reason == v1alpha1.ReasonInterfaceConflict {
			e.awaitNames(u)
		}
	}
	if u.short != nil && u.problem == nil {
		u.partial = append(u.partial, u.short)
	}
}

// takenBy says who has what an owner lost.
func (e *Engine) takenBy(l claims.Loss) *compile.Problem {
	switch l.Claim.Thing.Kind {
	case compile.BridgePort:
		return compile.BridgeFull(l.Claim)
	case compile.NetnsItself:
		return compile.SecondName(l.Claim.Field, l.Claim.Netns, e.claims.Holders(l.Claim.Thing)[l.Holder].Netns, Title(l.Holder))
	}
	return compile.Taken(l.Claim, Title(l.Holder))
}

// wakeLosers has the owners look again that would have now what they lost, or lost it
// to another owner than they say, the oldest first.
func (e *Engine) wakeLosers() {
	born := func(o netstate.Owner) (t time.Time) {
		if u := e.units[o]; u != nil && u.in != nil {
			t = u.in.Object().GetCreationTimestamp().Time
		}
		return t
	}
	e.requeue(e.claims.Woken(func(a, b netstate.Owner) int { return cmp.Or(born(a).Compare(born(b)), a.Compare(b)) })...)
}
