package engine

import (
	"net/netip"
	"slices"

	"github.com/patchbay-dev/patchbay/nodeagent/compile"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
)

// twin is what twins have in common.
type twin struct{ netns, network string }

func (e *Engine) twinOf(u *unit) (t twin, ok bool) {
	if !u.accepted() || u.in.Attachment == nil || u.in.Attachment.Spec.Network == "" {
		return twin{}, false
	}
	netns, problem := e.netnsOf(u.in.Attachment)
	return twin{netns, u.in.Attachment.Spec.Network}, problem == nil
}

// others are the attachments that have a target and network in common, but for one
// of them. They are looked up once a pass.
func (e *Engine) others(than netstate.Owner, t twin) []netstate.Owner {
	if t == (twin{}) {
		return nil
	}
	if e.twins == nil {
		e.twins = map[twin][]netstate.Owner{}
		for o, u := range e.units {
			if t, ok := e.twinOf(u); ok {
				e.twins[t] = append(e.twins[t], o)
			}
		}
	}
	return slices.DeleteFunc(slices.Clone(e.twins[t]), func(o netstate.Owner) bool { return o == than })
}

// addTwins has an attachment get along with its twins.
func (e *Engine) addTwins(u *unit, antiSpoof bool, r *compile.Result) {
	u.twin, _ = e.twinOf(u)
	var theirs []netip.Prefix
	list := e.others(u.owner, u.twin)
	for _, o := range list {
		theirs = append(theirs, e.units[o].expected()...)
	}
	if len(list) > 0 {
		r.Twins(u.view, theirs, antiSpoof)
	}
}

// expected are the addresses that an attachment has, or will have by its spec or
// the record once it is compiled.
func (u *unit) expected() []netip.Prefix {
	switch {
	case u.static():
		return compile.Prefixes(u.in.Attachment.Spec.Addresses)
	case len(u.given) > 0:
		return u.given
	}
	return u.had()
}
