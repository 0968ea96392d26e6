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
		theirs = append(theirs, e.expected(e.units[o])...)
	}
	if len(list) > 0 {
		r.Twins(u.view, theirs, antiSpoof)
	}
}

// expected are the addresses that an attachment has or, before it is adopted for the
// first time, will have by the record or the kernel's marks. One that is refused has
// none: what it names may be another's.
func (e *Engine) expected(u *unit) []netip.Prefix {
	if u.adopted {
		return u.joined
	}
	marked := u.marked()
	return slices.DeleteFunc(u.had(), func(p netip.Prefix) bool {
		_, claimed := e.claims.held[compile.AddressClaim(u.in.Attachment.Spec.Network, p.Addr()).Resource][u.owner]
		return !claimed || !u.recordedReady() && !slices.Contains(marked, p)
	})
}
