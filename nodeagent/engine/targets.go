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
	for _, o := range e.referrersOf(refTo(attachmentOf(p)), netstate.OwnerAttachment) {
		children = append(children, e.units[o])
	}
	return children
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
	out := e.referrersOf(refTo(a), netstate.OwnerPublish)
	if u := e.units[a]; u != nil && u.in != nil {
		parent := ref{a.Kind, a.Namespace, v1alpha1.Parent(u.in.Attachment)}
		out = append(out, e.referrersOf(parent, netstate.OwnerPublish)...)
	}
	slices.SortFunc(out, netstate.Owner.Compare)
	return slices.Compact(out)
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
