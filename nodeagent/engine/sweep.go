package engine

import (
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
)

// orphans is the owner of objects that bear our mark and name no owner: namespaces,
// half-made links, recorded sysctls and left objects of the firewall.
var orphans = netstate.Owner{}

// minSwept is from how many owners on a sweep of more than half waits.
const minSwept = 10

// sweep adds owners whose resource is gone, and orphans. Too much at once waits: an empty
// source is more often a restored or a wrong one.
func (e *Engine) sweep(batch map[netstate.Owner]bool) {
	if !e.sweepDue && e.brake.IsZero() {
		return
	}
	gone, total := e.countGone()
	tooMuch := total >= minSwept && gone*2 > total && e.SweepDelay > 0
	if tooMuch && e.brake.IsZero() {
		e.brake = e.Now().Add(e.SweepDelay)
		e.alarms.At(alarm{what: endBrake}, e.brake)
		e.Log.Warn("more than half of the resources are gone at once: nothing is removed yet", "gone", gone, "of", total, "until", e.brake.Format(time.TimeOnly))
		e.Reporter.Braked(gone, total, e.brake)
	}
	if tooMuch && e.Now().Before(e.brake) {
		return
	}
	e.brake, e.sweepDue = time.Time{}, false
	e.addSwept(batch)
}

// strays is the owner of the objects that the firewall holds, in our name, about
// interfaces of other programs.
var strays = netstate.Owner{Name: "strays"}

// addStrays adds the objects that the firewall holds about interfaces that neither
// Patchbay made nor have our ports: they are of no resource, not even of one whose record
// was lost.
func (e *Engine) addStrays(batch map[netstate.Owner]bool) {
	ports := map[string]bool{}
	for _, l := range e.node.Links {
		ports[l.Master] = ports[l.Master] || l.Ours
	}
	for k := range e.unit(orphans).Held() {
		l, there := e.node.Links[k.Link]
		if !k.Kind.Firewall() || !there || l.Ours || ports[k.Link] || k.Kind == netstate.KindForeignBridge {
			continue
		}
		e.unit(orphans).Drop(k)
		u := e.unit(strays)
		u.Hold(k)
		u.byCommand, batch[strays] = true, true
	}
}

func (e *Engine) countGone() (gone, total int) {
	for _, u := range e.units {
		if u.owner == orphans || u.Empty() {
			continue
		}
		total++
		if u.going() {
			gone++
		}
	}
	return gone, total
}

func (e *Engine) addSwept(batch map[netstate.Owner]bool) {
	for o, u := range e.units {
		if u.going() && o != orphans {
			batch[o] = true
		}
	}
	u := e.unit(orphans)
	u.DropIf(func(k netstate.Key) bool {
		return e.ledger.Owners(k).Len() > 0 || k.Kind.Firewall() && e.ledger.Holders(k).Len() > 1
	})
	if !u.Empty() {
		batch[orphans] = true
	}
}

// recall compiles the batch as it was before this process, so that all that its
// owners had is known: not everything bears its owner's name.
func (e *Engine) recall(batch map[netstate.Owner]bool) {
	round := 0
	for e.recallRound(batch, round) {
		round++
	}
	for o := range batch {
		u := e.unit(o)
		u.formerly = nil
		if round > 0 && u.fresh() {
			// What a former version claims gives it no right.
			e.claims.Settle(o, nil, false)
		}
	}
}

// holdRecalled has the owners of a batch hold the objects of their former versions.
func (e *Engine) holdRecalled(batch map[netstate.Owner]bool) {
	for o := range batch {
		u := e.unit(o)
		for _, k := range u.recalled {
			u.Hold(k)
		}
		u.recalled = nil
	}
}

// recallRound compiles one former version of each owner, and reports whether there
// was any.
func (e *Engine) recallRound(batch map[netstate.Owner]bool, round int) bool {
	then := map[*unit]*Input{}
	for o := range batch {
		if u := e.unit(o); round < len(u.formerly) {
			then[u] = u.in
			in := InputOf(u.formerly[round])
			for _, p := range recordedPorts(in.Publish) {
				u.recalled = append(u.recalled, p.Key())
			}
			in.Accepted.Status = metav1.ConditionTrue
			u.in = &in
		}
	}
	if len(then) == 0 {
		return false
	}
	e.compileKinds(batch)
	for u, in := range then {
		u.recalled = append(u.recalled, u.Wanted().Keys()...)
		u.in, u.adopted, u.joined = in, false, nil
	}
	return true
}
