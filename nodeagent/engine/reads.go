package engine

import (
	"maps"
	"net/netip"
	"slices"

	"github.com/patchbay-dev/patchbay/api/v1alpha1"
	"github.com/patchbay-dev/patchbay/nodeagent/compile"
	"github.com/patchbay-dev/patchbay/nodeagent/engine/facts"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
)

// fact is something that is read while an owner is compiled. The owners that have read a
// fact are compiled again when it changes, and no other ones.
type fact struct {
	kind  factKind
	owner netstate.Owner
	name  string
}

type factKind uint8

const (
	// viewFact is a network or an attachment as other owners see it: a view. There is
	// none of an owner without a resource.
	viewFact factKind = iota
	// whyFact is the text that says why an owner is not built.
	whyFact
	// failingFact is true of an owner some of whose objects could not be made.
	failingFact
	// attachedFact has as members the attachments that name a network, roomFact is
	// compile.Room of their number.
	attachedFact
	roomFact
	// childrenFact has as members the attachments that were made for a parent.
	childrenFact
	// siblingsFact has as members the attachments of one namespace to one network, with
	// the addresses that each of them has.
	siblingsFact
	// hostAddressFact is how many wanted objects give the node an address.
	hostAddressFact
	// nodeFact is the part of the node that other programs made, routerFact the part of
	// it that publishes see, blockersFact the chains of other programs that drop packets.
	nodeFact
	routerFact
	blockersFact
	// podFact is a running Pod by its UID. podsFact is true once the pods are known;
	// its members are the attachments that name a pod.
	podFact
	podsFact
	// routingFact are the routes and rules of other programs in a namespace, ipv6OffFact
	// says whether IPv6 is off there.
	routingFact
	ipv6OffFact
	// netnsFact is touched when the kernel tells of a name of a namespace.
	netnsFact
)

type factBook = facts.Book[netstate.Owner, fact]

func about(kind factKind, o netstate.Owner) fact { return fact{kind: kind, owner: o} }
func named(kind factKind, name string) fact      { return fact{kind: kind, name: name} }
func networkOf(name string) netstate.Owner {
	return netstate.Owner{Kind: netstate.OwnerNetwork, Name: name}
}
func attachmentIn(ns, name string) netstate.Owner {
	return netstate.Owner{Kind: netstate.OwnerAttachment, Namespace: ns, Name: name}
}
func attachmentOf(p *v1alpha1.PortPublish) netstate.Owner {
	return attachmentIn(p.Namespace, p.Spec.Attachment)
}

// view is what other owners see of a network or an attachment.
type view struct {
	network    compile.NetworkView
	attachment compile.AttachmentView
	built      bool
}

// viewOf reads what an owner sees of another one; false where that has no resource.
func (e *Engine) viewOf(reader *unit, o netstate.Owner) (view, bool) {
	v, ok := e.facts.Get(reader.owner, about(viewFact, o)).(view)
	return v, ok
}

// show lets other owners see what became of one.
func (e *Engine) show(u *unit) {
	if u.in == nil {
		e.facts.Set(about(viewFact, u.owner), nil)
		e.facts.Set(about(whyFact, u.owner), nil)
		return
	}
	why := u.in.Accepted.Message
	if u.problem != nil {
		why = u.problem.Message
	}
	built := u.accepted() && u.adopted && (u.problem == nil || u.kept)
	e.facts.Set(about(viewFact, u.owner), view{u.network, u.view, built})
	e.facts.Set(about(whyFact, u.owner), why)
}

// waitsFor reads why an owner is not built, for one that waits for it.
func (e *Engine) waitsFor(reader *unit, what string, o netstate.Owner) *compile.Problem {
	why, ok := e.facts.Get(reader.owner, about(whyFact, o)).(string)
	if !ok {
		why = "it is not there"
	}
	return &compile.Problem{Reason: v1alpha1.ReasonPending, Message: "waits for " + what + ": " + why}
}

// enter has an owner found by what its resource names, in place of what the resource
// before named.
func (e *Engine) enter(u *unit, next *Input) {
	before, now := groups(u.in), groups(next)
	for _, f := range before {
		if !slices.Contains(now, f) {
			e.facts.Leave(f, u.owner)
		}
	}
	for _, f := range now {
		e.facts.Join(f, u.owner, nil)
	}
	for _, f := range slices.Concat(before, now) {
		if f.kind == attachedFact {
			e.facts.Set(about(roomFact, f.owner), compile.Room(len(e.facts.PeekMembers(f))))
		}
	}
}

// groups are the facts that a resource is a member of by the names in its spec.
func groups(in *Input) (list []fact) {
	if in == nil || in.Attachment == nil {
		return nil
	}
	a := in.Attachment
	if a.Spec.Network != "" {
		list = append(list, about(attachedFact, networkOf(a.Spec.Network)))
	}
	if parent := v1alpha1.Parent(a); parent != "" {
		list = append(list, about(childrenFact, attachmentIn(a.Namespace, parent)))
	}
	if a.Spec.Target.Pod != nil {
		list = append(list, fact{kind: podsFact})
	}
	return list
}

// attached reads how many attachments name a network, as far as that matters.
func (e *Engine) attached(reader *unit) int {
	n := len(e.facts.PeekMembers(about(attachedFact, reader.owner)))
	e.facts.Learn(about(roomFact, reader.owner), compile.Room(n))
	e.facts.Get(reader.owner, about(roomFact, reader.owner))
	return n
}

// A publish leads to the attachment that it names or, where that one chose pods and is
// itself on no node, to all that were made for it on this node.

// candidates are the attachments that a publish is about, built or not.
func (e *Engine) candidates(u *unit) []netstate.Owner {
	named := attachmentOf(u.in.Publish)
	if e.facts.Peek(about(viewFact, named)) != nil {
		return []netstate.Owner{named}
	}
	return slices.SortedFunc(maps.Keys(e.facts.PeekMembers(about(childrenFact, named))), netstate.Owner.Compare)
}

// targetsOf reads the candidates that a publish leads to, and their views. One that
// fails is left out unless all do: then they are waited for.
func (e *Engine) targetsOf(u *unit) (targets []netstate.Owner, views []compile.AttachmentView) {
	named := attachmentOf(u.in.Publish)
	e.facts.Get(u.owner, about(viewFact, named))
	e.facts.Get(u.owner, about(childrenFact, named))
	candidates := e.candidates(u)
	var all []netstate.Owner
	for _, a := range candidates {
		if v, _ := e.viewOf(u, a); !v.built {
			continue
		}
		all = append(all, a)
		if len(candidates) == 1 || e.facts.Get(u.owner, about(failingFact, a)) == nil {
			targets = append(targets, a)
		}
	}
	if len(targets) == 0 {
		targets = all
	}
	for _, a := range targets {
		v, _ := e.viewOf(u, a)
		views = append(views, v.attachment)
	}
	return targets, views
}

// siblings is the fact that the attachments of a target to one network share; false for
// one that has no such target.
func (e *Engine) siblings(u *unit) (fact, bool) {
	if !u.accepted() || u.in.Attachment == nil || u.in.Attachment.Spec.Network == "" {
		return fact{}, false
	}
	netns, problem := e.netnsOf(u)
	return fact{siblingsFact, networkOf(u.in.Attachment.Spec.Network), netns}, problem == nil
}

// enterSiblings makes an attachment a sibling of the other attachments of its target,
// with the addresses that it has.
func (e *Engine) enterSiblings(u *unit) {
	f, ok := e.siblings(u)
	if u.siblings != f || !ok {
		e.facts.Leave(u.siblings, u.owner)
		u.siblings = fact{}
	}
	if ok {
		u.siblings = f
		e.facts.Join(f, u.owner, e.expected(u))
	}
}

// addSiblings has an attachment get along with its siblings.
func (e *Engine) addSiblings(u *unit, antiSpoof bool, r *compile.Result) {
	f, ok := e.siblings(u)
	if !ok {
		return
	}
	members := e.facts.Members(u.owner, f)
	var theirs []netip.Prefix
	for _, o := range slices.SortedFunc(maps.Keys(members), netstate.Owner.Compare) {
		if o != u.owner {
			theirs = append(theirs, members[o].([]netip.Prefix)...)
		}
	}
	if _, self := members[u.owner]; len(members) > 1 || !self && len(members) > 0 {
		r.Siblings(u.view, theirs, antiSpoof)
	}
}

// expected are the addresses that an attachment has or, before it is adopted for the
// first time, will have by the record or the kernel's marks. One that is refused has
// none: another attachment may have the addresses that it names.
func (e *Engine) expected(u *unit) []netip.Prefix {
	if u.adopted {
		return u.joined
	}
	marked := u.marked()
	return slices.DeleteFunc(u.had(), func(p netip.Prefix) bool {
		claimed := e.claims.Has(u.owner, compile.AddressClaim(u.in.Attachment.Spec.Network, p.Addr()).Thing)
		return !claimed || !u.recordedReady() && !slices.Contains(marked, p)
	})
}

// giveHostAddress notes that the node gets an address of a resource, or loses it: a
// gateway, or an end of a link. Other addresses of the node are in netstate.Node.
func (e *Engine) giveHostAddress(k netstate.Key, more int) {
	if p, err := netip.ParsePrefix(k.Name); k.Kind == netstate.KindAddress && k.Netns == "" && err == nil {
		f := named(hostAddressFact, p.Addr().String())
		n, _ := e.facts.Peek(f).(int)
		if n += more; n > 0 {
			e.facts.Set(f, n)
		} else {
			e.facts.Set(f, nil)
		}
	}
}

// ownAddresses reads which of the addresses that a publish names the node has of
// resources.
func (e *Engine) ownAddresses(reader *unit) (own []netip.Addr) {
	for _, h := range reader.in.Publish.Spec.HostAddresses {
		a, err := netip.ParseAddr(string(h))
		if err == nil && e.facts.Get(reader.owner, named(hostAddressFact, a.String())) != nil {
			own = append(own, a)
		}
	}
	return own
}

// context is all that a compilation may know. Whoever compiles reads e.node only where the
// owner hears of its changes.
func (e *Engine) context(reader *unit) compile.Context {
	e.facts.Get(reader.owner, fact{kind: blockersFact})
	return compile.Context{Source: e.Source, Node: e.node, Blockers: e.Firewall.Blockers(), NoAntiSpoof: !e.Firewall.AntiSpoof()}
}

// hearOfNode has an owner hear of all changes that other programs make to the node.
func (e *Engine) hearOfNode(reader *unit) { e.facts.Get(reader.owner, fact{kind: nodeFact}) }

// requeue has owners looked at in the next turn.
func (e *Engine) requeue(owners ...netstate.Owner) { e.again = append(e.again, owners...) }
