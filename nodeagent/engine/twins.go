package engine

import (
	"net/netip"
	"slices"

	"github.com/patchbay-dev/patchbay/nodeagent/compile"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
)

// twins are the other attachments of a unit's target to its network.
func (e *Engine) twins(u *unit) []netstate.Owner {
	i := slices.IndexFunc(u.refs, func(r ref) bool { return r.kind == refTwins("", "").kind })
	if i < 0 {
		return nil
	}
	return slices.DeleteFunc(e.referrers(u.refs[i]), func(o netstate.Owner) bool { return o == u.owner })
}

// addTwins has an attachment get along with its twins.
func (e *Engine) addTwins(u *unit, antiSpoof bool, r *compile.Result) {
	var theirs []netip.Prefix
	list := e.twins(u)
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
