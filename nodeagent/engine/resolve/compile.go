package resolve

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
func (rv *Resolver) addDirty(batch map[netstate.Owner]bool, kind string) {
	for _, o := range rv.facts.Take(func(o netstate.Owner) bool { return o.Kind == kind }) {
		if u := rv.Resources[o]; u != nil && u.Accepted() && !rv.Unknown(u) {
			batch[o] = true
		}
	}
}

// ownerKinds are the kinds of owners, in the order in which they depend on
// each other.
var ownerKinds = []string{netstate.OwnerNetwork, netstate.OwnerAttachment, netstate.OwnerPublish}

// ofKind returns the resources of a batch of a kind in the order in which they may
// claim: who is built already, who has addresses, who names some, the oldest, by
// name.
func (rv *Resolver) ofKind(batch map[netstate.Owner]bool, kind string) []*Resource {
	var list []*Resource
	for o := range batch {
		if u := rv.Resource(o); o.Kind == kind && u.Accepted() {
			list = append(list, u)
		}
	}
	slices.SortFunc(list, func(a, b *Resource) int {
		return cmp.Or(first(a.built(), b.built()), first(a.recorded(), b.recorded()), first(a.static(), b.static()),
			a.In.Object().GetCreationTimestamp().Compare(b.In.Object().GetCreationTimestamp().Time), a.Owner.Compare(b.Owner))
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
func (u *Resource) built() bool { return !u.Empty() || u.recordedReady() }

// release takes away all that an owner wants, and has those look again who
// waited for it or, of a network, depend on it.
func (rv *Resolver) release(u *Resource) {
	rv.want(u, netstate.Set{})
	u.outcome = u.next()
	u.joined = nil
	rv.HostPorts.Forget(u.Owner)
	if u.Owner.Kind == netstate.OwnerNetwork {
		rv.claims.DropPools(u.Owner.Name)
		rv.claims.Unlimit(compile.PortOf(u.Network.Bridge), u.Owner)
	}
	rv.lease(u)
	rv.facts.Leave(u.siblings, u.Owner)
	u.siblings = fact{}
	rv.show(u)
}

// compile computes what an owner wants.
func (rv *Resolver) compile(u *Resource) (r compile.Result) {
	rv.Log.Debug("compile", "owner", u.Owner)
	rv.facts.Begin(u.Owner)
	rv.claims.Begin(u.Owner)
	u.outcome = u.next()
	switch u.Owner.Kind {
	case netstate.OwnerNetwork:
		rv.hearOfNode(u)
		c := rv.context(u)
		c.Attached = rv.attached(u)
		r, u.Problem = compile.Network(u.In.Network, c)
		u.Network = compile.View(u.In.Network, rv.Node)
		rv.claims.SetPools(u.Network, rv.Node)
	case netstate.OwnerAttachment:
		r = rv.compileAttachment(u)
	case netstate.OwnerPublish:
		r = rv.compilePublish(u)
	}
	return r
}

// adopt makes a compiled result what the owner wants, as far as it gets what
// it claims, and shows it.
func (rv *Resolver) adopt(u *Resource, r compile.Result) {
	u.Notes = slices.Clone(r.Notes)
	// A network that is there stays, with its attachments, when the node
	// changes under it: a new route, an uplink that is gone.
	u.kept = u.Problem != nil && u.Owner.Kind == netstate.OwnerNetwork && (!u.Empty() || len(u.Inherited) > 0)
	found := u.Problem
	if u.kept {
		u.Problem = nil
	}
	rv.claim(u, &r)
	rv.giveWay(u, &r)
	u.kept = u.kept && u.Problem == nil
	if u.Problem != nil {
		r.Objects = netstate.Set{}
	} else {
		u.Problem = found
	}
	u.adopted, u.joined = true, nil
	if u.Problem == nil {
		u.joined = u.View.Addresses
	}
	if u.Owner.Kind == netstate.OwnerNetwork {
		rv.limitPorts(u)
	}
	rv.want(u, r.Objects)
	for k := range r.Objects {
		if k.Kind == netstate.KindForwardGuard {
			for _, b := range rv.Bridged {
				u.Hold(b)
			}
		}
	}
	if u.Problem != nil {
		// Whatever it is, the node's links and routes may be what it lacks.
		rv.hearOfNode(u)
	}
	if u.In.Attachment != nil {
		rv.enterSiblings(u)
	}
	rv.show(u)
}

func (rv *Resolver) compileAttachment(u *Resource) (r compile.Result) {
	at, network, problem := rv.place(u)
	if u.Problem = problem; problem == nil {
		u.Given, at.Routing = at.Addresses, rv.routingOf(u, at.Target.Netns)
		if p := u.In.Attachment.Spec.PointToPoint; p != nil && p.Netns != nil {
			at.PeerRouting = rv.routingOf(u, string(p.Netns.Name))
		}
		at.NoIPv6 = rv.noIPv6(u, at)
		u.NoIPv6 = len(at.NoIPv6) > 0
		// An attachment behind Patchbay's gateway looks at the node only to refuse the node's addresses.
		if u.In.Attachment.Spec.PointToPoint != nil || network != nil && network.Mode == v1alpha1.GatewayExternal {
			rv.hearOfNode(u)
		}
		r, u.View, u.Problem = compile.Attachment(u.In.Attachment, network, at, rv.context(u))
	}
	if u.Problem == nil {
		u.Problem = rv.identify(u, &r)
	}
	if u.Problem == nil && network != nil {
		rv.addSiblings(u, network.AntiSpoof && rv.Firewall.AntiSpoof(), &r)
	}
	if u.Problem != nil {
		r = compile.Result{Objects: netstate.Set{}, Claims: rv.leased(u)}
	}
	return r
}

func (rv *Resolver) compilePublish(u *Resource) (r compile.Result) {
	r.Objects = netstate.Set{}
	var views []compile.AttachmentView
	if u.Targets, views = rv.targetsOf(u); len(views) == 0 {
		first := append(rv.candidates(u), attachmentOf(u.In.Publish))[0]
		u.Problem = rv.waitsFor(u, "attachment "+u.In.Publish.Spec.Attachment, first)
		return r
	}
	c := rv.context(u)
	c.Own = rv.ownAddresses(u)
	if slices.ContainsFunc(views, func(v compile.AttachmentView) bool { return !v.Bridged }) {
		rv.hearOfNode(u)
	} else {
		c.Node = rv.facts.Get(u.Owner, fact{kind: routerFact}).(netstate.Node)
	}
	r, u.Problem = compile.Publish(u.In.Publish, views, c)
	return r
}

// claim asks for what only one owner may have. Who loses goes without the one
// object, or without everything.
func (rv *Resolver) claim(u *Resource, r *compile.Result) {
	u.Partial = slices.Clone(r.Lacks)
	for _, l := range rv.claims.Settle(u.Owner, r.Claims, u.Problem != nil) {
		switch {
		case l.Claim.Key == netstate.Key{}:
			u.Problem = rv.takenBy(l)
		case l.Claim.Soft:
			u.Notes = append(u.Notes, compile.Stays(l.Claim, l.Holder.Title()))
		default:
			u.Partial = append(u.Partial, rv.takenBy(l))
		}
		delete(r.Objects, l.Claim.Key)
	}
	if u.Problem != nil {
		_ = rv.leased(u)
		if u.Problem.Reason == v1alpha1.ReasonInterfaceConflict {
			rv.awaitNames(u)
		}
	}
	if u.short != nil && u.Problem == nil {
		u.Partial = append(u.Partial, u.short)
	}
}

// takenBy says who has what an owner lost.
func (rv *Resolver) takenBy(l claims.Loss) *compile.Problem {
	switch l.Claim.Thing.Kind {
	case compile.BridgePort:
		return compile.BridgeFull(l.Claim)
	case compile.NetnsItself:
		return compile.SecondName(l.Claim.Field, l.Claim.Netns, rv.claims.Holders(l.Claim.Thing)[l.Holder].Netns, l.Holder.Title())
	}
	return compile.Taken(l.Claim, l.Holder.Title())
}

// WakeLosers has the owners look again, the oldest first, whose lost claim is free or has
// another holder now.
func (rv *Resolver) WakeLosers() {
	born := func(o netstate.Owner) (t time.Time) {
		if u := rv.Resources[o]; u != nil && u.In != nil {
			t = u.In.Object().GetCreationTimestamp().Time
		}
		return t
	}
	rv.Again(rv.claims.Woken(func(a, b netstate.Owner) int { return cmp.Or(born(a).Compare(born(b)), a.Compare(b)) })...)
}

// Claims returns what an owner has for good.
func (rv *Resolver) Claims(o netstate.Owner) []compile.Claim { return rv.claims.Of(o) }
