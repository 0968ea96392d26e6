package engine

import (
	"time"

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
	for _, l := range e.resolver.Node.Links {
		ports[l.Master] = ports[l.Master] || l.Ours
	}
	for k := range e.resolver.Resource(orphans).Held() {
		l, there := e.resolver.Node.Links[k.Link]
		if !k.Kind.Firewall() || !there || l.Ours || ports[k.Link] || k.Kind == netstate.KindForeignBridge {
			continue
		}
		e.resolver.Resource(orphans).Drop(k)
		u := e.resolver.Resource(strays)
		u.Hold(k)
		u.ByCommand, batch[strays] = true, true
	}
}

func (e *Engine) countGone() (gone, total int) {
	for _, u := range e.resolver.Resources {
		if u.Owner == orphans || u.Empty() {
			continue
		}
		total++
		if u.Going() {
			gone++
		}
	}
	return gone, total
}

func (e *Engine) addSwept(batch map[netstate.Owner]bool) {
	for o, u := range e.resolver.Resources {
		if u.Going() && o != orphans {
			batch[o] = true
		}
	}
	u := e.resolver.Resource(orphans)
	u.DropIf(func(k netstate.Key) bool {
		return e.ledger.Owners(k).Len() > 0 || k.Kind.Firewall() && e.ledger.Holders(k).Len() > 1
	})
	if !u.Empty() {
		batch[orphans] = true
	}
}

// keep has the reporter keep the keys of a batch's resources where they changed. Not every
// object bears its owner's name, and a process may be killed between any two steps.
func (e *Engine) keep(batch map[netstate.Owner]bool) {
	for o := range batch {
		if u := e.resolver.Resources[o]; u.In != nil && u.KeysChanged() {
			e.Reporter.Keep(o, u.Keys())
		}
	}
}

// Learn compiles the resources that were Set, takes their objects for objects of an ended
// process that kept no keys, and returns the keys. Then other versions may be Set.
func (e *Engine) Learn() (map[netstate.Owner][]netstate.Key, error) {
	e.once = true
	if err := e.start(); err != nil {
		return nil, err
	}
	return e.resolver.Learn(e.take()), nil
}
