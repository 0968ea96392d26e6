package engine

import (
	"maps"
	"net/netip"
	"slices"

	"github.com/patchbay-dev/patchbay/api/v1alpha1"
	"github.com/patchbay-dev/patchbay/nodeagent/compile"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
)

// ref is something that owners have in common: another owner that they refer to, a
// place where twins meet, or that they are to be removed. So a pass finds whom a
// change concerns without a look at everybody.
type ref struct {
	kind, namespace, name string
}

func refTo(o netstate.Owner) ref { return ref{o.Kind, o.Namespace, o.Name} }

// refLeaving is that of attachments that are not to be built, whatever the kernel
// holds of them.
var refLeaving = ref{kind: "leaving"}

// refTwins is that of attachments of one namespace to one network.
func refTwins(netns, network string) ref { return ref{"twins", netns, network} }

// refAddress is that of publishes that name an address of the node.
func refAddress(a netip.Addr) ref { return ref{kind: "address", name: a.String()} }

// refer brings an owner's refs up to date.
func (e *Engine) refer(u *unit) { e.setRefs(u, e.refsOf(u)) }

// forget ends a unit.
func (e *Engine) forget(u *unit) {
	e.setRefs(u, nil)
	delete(e.units, u.owner)
	delete(e.stuck, u.owner)
	e.calm(u)
	e.ledger.Close(u.owner)
}

// setRefs replaces the refs of a unit. Twins that it leaves look again.
func (e *Engine) setRefs(u *unit, now []ref) {
	for _, r := range u.refs {
		if slices.Contains(now, r) {
			continue
		}
		delete(e.refs[r], u.owner)
		if r.kind == refTwins("", "").kind {
			e.requeue(e.referrers(r))
		}
		if len(e.refs[r]) == 0 {
			delete(e.refs, r)
		}
	}
	for _, r := range now {
		if e.refs[r] == nil {
			e.refs[r] = map[netstate.Owner]bool{}
		}
		e.refs[r][u.owner] = true
	}
	before := u.refs
	u.refs = now
	for _, r := range slices.Concat(before, now) {
		e.makeRoom(r)
	}
}

// makeRoom has a network look again that has room for another number of attachments
// than refer to it now.
func (e *Engine) makeRoom(r ref) {
	if r.kind != netstate.OwnerNetwork {
		return
	}
	o := netstate.Owner{Kind: r.kind, Name: r.name}
	if n := e.units[o]; n != nil && n.room != 0 && n.room != compile.Room(len(e.refs[r])) {
		e.requeue([]netstate.Owner{o})
	}
}

func (e *Engine) refsOf(u *unit) (list []ref) {
	if u.owner.Kind == netstate.OwnerAttachment && !u.accepted() {
		list = append(list, refLeaving)
	}
	switch {
	case u.in == nil:
	case u.in.Attachment != nil:
		a := u.in.Attachment
		if a.Spec.Network != "" {
			list = append(list, ref{kind: netstate.OwnerNetwork, name: a.Spec.Network})
		}
		if parent := v1alpha1.Parent(a); parent != "" {
			list = append(list, ref{netstate.OwnerAttachment, a.Namespace, parent})
		}
		if netns, problem := e.netnsOf(a); problem == nil && u.accepted() && a.Spec.Network != "" {
			list = append(list, refTwins(netns, a.Spec.Network))
		}
	case u.in.Publish != nil:
		list = append(list, refTo(attachmentOf(u.in.Publish)))
		for _, t := range u.targets {
			list = append(list, refTo(t))
		}
		for _, a := range named(u.in.Publish) {
			list = append(list, refAddress(a))
		}
	}
	return list
}

// referrers are the owners that have a ref, in order.
func (e *Engine) referrers(r ref) []netstate.Owner {
	return slices.SortedFunc(maps.Keys(e.refs[r]), netstate.Owner.Compare)
}

// referrersOf are those of one kind.
func (e *Engine) referrersOf(r ref, kind string) []netstate.Owner {
	return slices.DeleteFunc(e.referrers(r), func(o netstate.Owner) bool { return o.Kind != kind })
}
