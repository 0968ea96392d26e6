package resolve

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
func (rv *Resolver) viewOf(reader *Resource, o netstate.Owner) (view, bool) {
	v, ok := rv.facts.Get(reader.Owner, about(viewFact, o)).(view)
	return v, ok
}

// show lets other owners see what became of one.
func (rv *Resolver) show(u *Resource) {
	if u.In == nil {
		rv.facts.Set(about(viewFact, u.Owner), nil)
		rv.facts.Set(about(whyFact, u.Owner), nil)
		return
	}
	why := u.In.Accepted.Message
	if u.Problem != nil {
		why = u.Problem.Message
	}
	built := u.Accepted() && u.adopted && (u.Problem == nil || u.kept)
	rv.facts.Set(about(viewFact, u.Owner), view{u.Network, u.View, built})
	rv.facts.Set(about(whyFact, u.Owner), why)
}

// waitsFor reads why an owner is not built, for one that waits for it.
func (rv *Resolver) waitsFor(reader *Resource, what string, o netstate.Owner) *compile.Problem {
	why, ok := rv.facts.Get(reader.Owner, about(whyFact, o)).(string)
	if !ok {
		why = "it is not there"
	}
	return &compile.Problem{Reason: v1alpha1.ReasonPending, Message: "waits for " + what + ": " + why}
}

// enter has an owner found by what its resource names, in place of what the resource
// before named.
func (rv *Resolver) enter(u *Resource, next *Input) {
	before, now := groups(u.In), groups(next)
	for _, f := range before {
		if !slices.Contains(now, f) {
			rv.facts.Leave(f, u.Owner)
		}
	}
	for _, f := range now {
		rv.facts.Join(f, u.Owner, nil)
	}
	for _, f := range slices.Concat(before, now) {
		if f.kind == attachedFact {
			rv.facts.Set(about(roomFact, f.owner), compile.Room(len(rv.facts.PeekMembers(f))))
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
func (rv *Resolver) attached(reader *Resource) int {
	n := len(rv.facts.PeekMembers(about(attachedFact, reader.Owner)))
	rv.facts.Learn(about(roomFact, reader.Owner), compile.Room(n))
	rv.facts.Get(reader.Owner, about(roomFact, reader.Owner))
	return n
}

// A publish leads to the attachment that it names or, where that one chose pods and is
// itself on no node, to all that were made for it on this node.

// candidates are the attachments that a publish is about, built or not.
func (rv *Resolver) candidates(u *Resource) []netstate.Owner {
	named := attachmentOf(u.In.Publish)
	if rv.facts.Peek(about(viewFact, named)) != nil {
		return []netstate.Owner{named}
	}
	return slices.SortedFunc(maps.Keys(rv.facts.PeekMembers(about(childrenFact, named))), netstate.Owner.Compare)
}

// targetsOf reads the candidates that a publish leads to, and their views. One that
// fails is left out unless all do: then they are waited for.
func (rv *Resolver) targetsOf(u *Resource) (targets []netstate.Owner, views []compile.AttachmentView) {
	named := attachmentOf(u.In.Publish)
	rv.facts.Get(u.Owner, about(viewFact, named))
	rv.facts.Get(u.Owner, about(childrenFact, named))
	candidates := rv.candidates(u)
	var all []netstate.Owner
	for _, a := range candidates {
		if v, _ := rv.viewOf(u, a); !v.built {
			continue
		}
		all = append(all, a)
		if len(candidates) == 1 || rv.facts.Get(u.Owner, about(failingFact, a)) == nil {
			targets = append(targets, a)
		}
	}
	if len(targets) == 0 {
		targets = all
	}
	for _, a := range targets {
		v, _ := rv.viewOf(u, a)
		views = append(views, v.attachment)
	}
	return targets, views
}

// siblings is the fact that the attachments of a target to one network share; false for
// one that has no such target.
func (rv *Resolver) siblings(u *Resource) (fact, bool) {
	if !u.Accepted() || u.In.Attachment == nil || u.In.Attachment.Spec.Network == "" {
		return fact{}, false
	}
	netns, problem := rv.netnsOf(u)
	return fact{siblingsFact, networkOf(u.In.Attachment.Spec.Network), netns}, problem == nil
}

// enterSiblings makes an attachment a sibling of the other attachments of its target,
// with the addresses that it has.
func (rv *Resolver) enterSiblings(u *Resource) {
	f, ok := rv.siblings(u)
	if u.siblings != f || !ok {
		rv.facts.Leave(u.siblings, u.Owner)
		u.siblings = fact{}
	}
	if ok {
		u.siblings = f
		rv.facts.Join(f, u.Owner, rv.expected(u))
	}
}

// addSiblings has an attachment get along with its siblings.
func (rv *Resolver) addSiblings(u *Resource, antiSpoof bool, r *compile.Result) {
	f, ok := rv.siblings(u)
	if !ok {
		return
	}
	members := rv.facts.Members(u.Owner, f)
	var theirs []netip.Prefix
	for _, o := range slices.SortedFunc(maps.Keys(members), netstate.Owner.Compare) {
		if o != u.Owner {
			theirs = append(theirs, members[o].([]netip.Prefix)...)
		}
	}
	if _, self := members[u.Owner]; len(members) > 1 || !self && len(members) > 0 {
		r.Siblings(u.View, theirs, antiSpoof)
	}
}

// expected are the addresses that an attachment has or, before it is adopted for the
// first time, will have by the record or the kernel's marks. One that is refused has
// none: another attachment may have the addresses that it names.
func (rv *Resolver) expected(u *Resource) []netip.Prefix {
	if u.adopted {
		return u.joined
	}
	marked := u.marked()
	return slices.DeleteFunc(u.had(), func(p netip.Prefix) bool {
		claimed := rv.claims.Has(u.Owner, compile.AddressClaim(u.In.Attachment.Spec.Network, p.Addr()).Thing)
		return !claimed || !u.recordedReady() && !slices.Contains(marked, p)
	})
}

// giveHostAddress notes that the node gets an address of a resource, or loses it: a
// gateway, or an end of a link. Other addresses of the node are in netstate.Node.
func (rv *Resolver) giveHostAddress(k netstate.Key, more int) {
	if p, err := netip.ParsePrefix(k.Name); k.Kind == netstate.KindAddress && k.Netns == "" && err == nil {
		f := named(hostAddressFact, p.Addr().String())
		n, _ := rv.facts.Peek(f).(int)
		if n += more; n > 0 {
			rv.facts.Set(f, n)
		} else {
			rv.facts.Set(f, nil)
		}
	}
}

// ownAddresses reads which of the addresses that a publish names the node has of
// resources.
func (rv *Resolver) ownAddresses(reader *Resource) (own []netip.Addr) {
	for _, h := range reader.In.Publish.Spec.HostAddresses {
		a, err := netip.ParseAddr(string(h))
		if err == nil && rv.facts.Get(reader.Owner, named(hostAddressFact, a.String())) != nil {
			own = append(own, a)
		}
	}
	return own
}

// context is all that a compilation may know. An owner whose objects depend on the node has
// to hear of its changes: hearOfNode, or the fact of the router.
func (rv *Resolver) context(reader *Resource) compile.Context {
	rv.facts.Get(reader.Owner, fact{kind: blockersFact})
	return compile.Context{Source: rv.Source, Node: rv.Node, Blockers: rv.Firewall.Blockers(), NoAntiSpoof: !rv.Firewall.AntiSpoof()}
}

// hearOfNode has an owner hear of all changes that other programs make to the node.
func (rv *Resolver) hearOfNode(reader *Resource) { rv.facts.Get(reader.Owner, fact{kind: nodeFact}) }

// ShowFailing lets other owners see which owners of a batch fail. An owner that fails itself
// hears of the end of that: it may be what it waits for.
func (rv *Resolver) ShowFailing(batch map[netstate.Owner]bool) {
	for o := range batch {
		var failing any
		if len(rv.Resources[o].Errs) > 0 {
			failing = true
		}
		rv.facts.Set(about(failingFact, o), failing)
	}
	for o := range batch {
		u := rv.Resources[o]
		if len(u.Errs) == 0 || u.In == nil {
			continue
		}
		rv.hearOfNode(u)
		if u.In.Attachment != nil && u.In.Attachment.Spec.Network != "" {
			rv.facts.Get(o, about(failingFact, networkOf(u.In.Attachment.Spec.Network)))
		}
		for _, a := range u.Targets {
			rv.facts.Get(o, about(failingFact, a))
		}
	}
}

// HearOfFailing has an owner looked at when another one no longer fails.
func (rv *Resolver) HearOfFailing(reader, o netstate.Owner) {
	rv.facts.Get(reader, about(failingFact, o))
}

// Rebuilt has the owners looked at that have read a network whose bridge was made anew: they
// lost their place in it.
func (rv *Resolver) Rebuilt(network netstate.Owner) { rv.facts.Touch(about(viewFact, network)) }

// SetBlockers takes over the chains of other programs that the firewall read last.
func (rv *Resolver) SetBlockers() { rv.facts.Set(fact{kind: blockersFact}, rv.Firewall.Blockers()) }
