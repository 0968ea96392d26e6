package engine

import (
	"maps"
	"slices"

	"github.com/patchbay-dev/patchbay/api/v1alpha1"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
)

// A publish leads to the attachment that it names or, where that one chose pods
// and is itself on no node, to all that were made for it on this node.

func attachmentOf(p *v1alpha1.PortPublish) netstate.Owner {
	return netstate.Owner{Kind: netstate.OwnerAttachment, Namespace: p.Namespace, Name: p.Spec.Attachment}
}

// candidates are the attachments that a publish is about, built or not.
func (e *Engine) candidates(p *v1alpha1.PortPublish) []*unit {
	if a := e.units[attachmentOf(p)]; a != nil && a.in != nil {
		return []*unit{a}
	}
	var children []*unit
	for o, u := range e.units {
		if u.in != nil && childOf(u, attachmentOf(p)) && o.Namespace == p.Namespace {
			children = append(children, u)
		}
	}
	slices.SortFunc(children, func(a, b *unit) int { return a.owner.Compare(b.owner) })
	return children
}

// childOf says whether a unit is an attachment made for the parent.
func childOf(u *unit, parent netstate.Owner) bool {
	a := u.in.Attachment
	return a != nil && a.Namespace == parent.Namespace && v1alpha1.Parent(a) == parent.Name
}

// targetsOf are the candidates that a publish leads to. One that fails is left
// out unless all do: then they are waited for.
func (e *Engine) targetsOf(p *v1alpha1.PortPublish) []netstate.Owner {
	var sound, all []netstate.Owner
	for _, a := range e.candidates(p) {
		if !a.accepted() || a.problem != nil {
			continue
		}
		all = append(all, a.owner)
		if len(a.errs) == 0 {
			sound = append(sound, a.owner)
		}
	}
	if len(sound) == 0 {
		return all
	}
	return sound
}

// anyTarget is a candidate that can say why there is no target; nil where there
// is no candidate.
func (e *Engine) anyTarget(p *v1alpha1.PortPublish) *unit {
	for _, a := range e.candidates(p) {
		return a
	}
	return e.units[attachmentOf(p)]
}

// publishesOf are the publishes that lead to an attachment, or may.
func (e *Engine) publishesOf(a netstate.Owner) []netstate.Owner {
	if a.Kind != netstate.OwnerAttachment {
		return nil
	}
	parent := netstate.Owner{}
	if u := e.units[a]; u != nil && u.in != nil {
		parent = netstate.Owner{Kind: a.Kind, Namespace: a.Namespace, Name: v1alpha1.Parent(u.in.Attachment)}
	}
	var out []netstate.Owner
	for o, u := range e.units {
		if u.in == nil || u.in.Publish == nil {
			continue
		}
		if about := attachmentOf(u.in.Publish); about == a || about == parent || slices.Contains(u.targets, a) {
			out = append(out, o)
		}
	}
	return out
}

// turned are the publishes that should lead to some of these attachments and do
// not, or do and should not, now that it is known which of them fail.
func (e *Engine) turned(attachments []netstate.Owner) []netstate.Owner {
	about := map[netstate.Owner]bool{}
	for _, a := range attachments {
		if u := e.units[a]; u != nil && u.in != nil && u.in.Attachment != nil && v1alpha1.Parent(u.in.Attachment) != "" {
			e.add(about, e.publishesOf(a))
		}
	}
	maps.DeleteFunc(about, func(o netstate.Owner, _ bool) bool {
		u := e.units[o]
		return !u.accepted() || slices.Equal(u.targets, e.targetsOf(u.in.Publish))
	})
	return slices.Collect(maps.Keys(about))
}
