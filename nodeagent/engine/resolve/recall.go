package resolve

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
)

// recall compiles the batch as it was before this process, so that all that its
// owners had is known: not everything bears its owner's name.
func (rv *Resolver) recall(batch map[netstate.Owner]bool) {
	round := 0
	for rv.recallRound(batch, round) {
		round++
	}
	for o := range batch {
		u := rv.Resource(o)
		u.Formerly = nil
		if round > 0 && u.fresh() {
			// What a former version claims gives it no right.
			rv.claims.Settle(o, nil, false)
		}
	}
}

// holdRecalled has the owners of a batch hold the objects of their former versions.
func (rv *Resolver) holdRecalled(batch map[netstate.Owner]bool) {
	for o := range batch {
		u := rv.Resource(o)
		for _, k := range u.Recalled {
			u.Hold(k)
		}
		u.Recalled = nil
	}
}

// recallRound compiles one former version of each owner, and reports whether there
// was any.
func (rv *Resolver) recallRound(batch map[netstate.Owner]bool, round int) bool {
	then := map[*Resource]*Input{}
	for o := range batch {
		if u := rv.Resource(o); round < len(u.Formerly) {
			then[u] = u.In
			in := InputOf(u.Formerly[round])
			for _, p := range recordedPorts(in.Publish) {
				u.Recalled = append(u.Recalled, p.Key())
			}
			in.Accepted.Status = metav1.ConditionTrue
			u.In = &in
		}
	}
	if len(then) == 0 {
		return false
	}
	rv.compileKinds(batch)
	for u, in := range then {
		u.Recalled = append(u.Recalled, u.Wanted().Keys()...)
		u.In, u.adopted, u.joined = in, false, nil
	}
	return true
}
