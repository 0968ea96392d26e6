package engine

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/patchbay-dev/patchbay/nodeagent/engine/failure"
	"github.com/patchbay-dev/patchbay/nodeagent/engine/fights"
	"github.com/patchbay-dev/patchbay/nodeagent/engine/resolve"
	"github.com/patchbay-dev/patchbay/nodeagent/kernel"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
	"github.com/patchbay-dev/patchbay/nodeagent/plan"
)

// noteFights counts what a pass put back, logs one line per owner whose objects begin a
// new pause, and returns the objects that these lines stand for. What came back with the
// link, the namespace or the address under it is no fight of its own.
func (e *Engine) noteFights(batch map[netstate.Owner]bool, applied []plan.Step) map[netstate.Key]bool {
	repaired, seen := e.repaired(applied), map[fights.Undoing]bool{}
	summed, begun := map[netstate.Key]bool{}, map[netstate.Owner][]*fights.Begun{}
	for _, s := range applied {
		u := fights.Undoing{Key: s.Key, Found: s.Old}
		owner, drift := e.blame(s.Key)
		if !drift || seen[u] || s.Op == plan.Delete || under(s, repaired) != (netstate.Key{}) {
			continue
		}
		seen[u] = true
		contested, pause := e.fights.Repaired(u, slices.Collect(e.ledger.Owners(s.Key).All()), e.Now())
		if pause != nil {
			begun[owner] = append(begun[owner], pause)
		}
		if contested {
			summed[s.Key] = true
		}
	}
	if mends(applied) {
		e.noteMended(batch, begun)
	}
	for _, s := range applied {
		if _, drift := e.blame(s.Key); drift && summed[under(s, repaired)] {
			summed[s.Key] = true
		}
	}
	e.sumUp(begun)
	return summed
}

// noteMended counts that rules of the firewall were put back, once for all owners.
func (e *Engine) noteMended(batch map[netstate.Owner]bool, begun map[netstate.Owner][]*fights.Begun) {
	owners := slices.DeleteFunc(slices.Collect(maps.Keys(batch)), func(o netstate.Owner) bool { return !rulesPutBack(e.resolver.Resources[o]) })
	if len(owners) == 0 {
		return
	}
	if _, pause := e.fights.Repaired(fights.Undoing{Key: netstate.Ruleset{}.Key()}, owners, e.Now()); pause != nil {
		first := slices.MinFunc(owners, netstate.Owner.Compare)
		begun[first] = append(begun[first], pause)
	}
}

// sumUp logs the pauses that begin, one line per owner.
func (e *Engine) sumUp(begun map[netstate.Owner][]*fights.Begun) {
	for o, list := range begun {
		args := []any{"owner", ownerText(o), "what", list[0].Text, "pause", list[0].Pause}
		if more := len(list) - 1; more > 0 {
			args = append(args, "more", more)
		}
		e.Log.Warn("put back again and again", args...)
	}
}

// repaired returns the objects that steps put back.
func (e *Engine) repaired(steps []plan.Step) map[netstate.Key]netstate.Key {
	keys := map[netstate.Key]netstate.Key{}
	for _, s := range steps {
		if _, drift := e.blame(s.Key); drift && s.Op != plan.Delete {
			keys[s.Key] = s.Key
			if s.Key.Kind == netstate.KindAddress {
				keys[onPlace(s.Key)] = s.Key
			}
		}
	}
	return keys
}

// onPlace is a key under which the addresses of an interface are found.
func onPlace(k netstate.Key) netstate.Key {
	return netstate.Key{Kind: netstate.KindAddress, Netns: k.Netns, Link: k.Link}
}

// under returns which of some objects a step stands on; zero for none. The routes of an
// interface stand on its addresses, and the second end of a veth on the first. Rules of
// the firewall stand by themselves.
func under(s plan.Step, objects map[netstate.Key]netstate.Key) netstate.Key {
	if len(objects) == 0 || s.Key.Kind.Firewall() {
		return netstate.Key{}
	}
	below := append(plan.Below(s), s.Needs...)
	if s.Key.Kind == netstate.KindRoute {
		below = append(below, onPlace(s.Key))
	}
	l, _ := s.New.(netstate.Link)
	second := netstate.Link{Netns: l.Peer.Netns, Name: l.Peer.Name}.Key()
	for _, k := range below {
		if on, ok := objects[k]; ok && on != s.Key && !(l.Primary && k == second) {
			return on
		}
	}
	return netstate.Key{}
}

// holdContested leaves out the repairs whose pause is not over, with the steps that stand
// on them, and tells the owners so. A change that is wanted never waits.
func (e *Engine) holdContested(batch map[netstate.Owner]bool, steps []plan.Step) []plan.Step {
	held := map[netstate.Key]netstate.Key{}
	for _, s := range steps {
		if !e.fights.Pauses(fights.Undoing{Key: s.Key, Found: s.Old}, e.Now()) || !mayWait(s) {
			continue
		}
		if _, drift := e.blame(s.Key); drift {
			held[s.Key] = s.Key
			if s.Key.Kind == netstate.KindAddress {
				held[onPlace(s.Key)] = s.Key
			}
		}
	}
	if len(held) == 0 {
		return steps
	}
	return slices.DeleteFunc(steps, func(s plan.Step) bool {
		if _, is := held[s.Key]; is {
			e.failIn(batch, s.Key, failure.ErrContested)
			return true
		}
		on := under(s, held)
		if on != (netstate.Key{}) && e.ledger.Owners(s.Key).Len() > 0 {
			e.failIn(batch, s.Key, fmt.Errorf("%w %s", failure.ErrWaits, plan.Describe(on)))
			return true
		}
		return false
	})
}

// failIn notes an error with the owners of a batch that want an object.
func (e *Engine) failIn(batch map[netstate.Owner]bool, k netstate.Key, err error) {
	for o := range e.ledger.Owners(k).All() {
		if batch[o] {
			e.resolver.Resources[o].Errs[k] = err
		}
	}
}

// mayWait reports whether nothing is open while a repair waits: packets only fail to
// pass. Filters, sysctls, limits, attributes of ports and ports that are in another
// bridge never wait.
func mayWait(s plan.Step) bool {
	switch s.Key.Kind {
	case netstate.KindNetns, netstate.KindAddress, netstate.KindRoute, netstate.KindRule:
		return true
	case netstate.KindPort:
		return s.Old == nil
	case netstate.KindLink:
		old, exists := s.Old.(netstate.Link)
		want, _ := s.New.(netstate.Link)
		if want.Type == netstate.IFB {
			return false
		}
		return !exists || old.Isolated == want.Isolated && old.Mark == want.Mark && (old.Master == "" || old.Master == want.Master) &&
			old.Attributes.Unlike(want.Attributes) == netstate.Attributes{}
	}
	return false
}

// endFights forgets the fights over objects of an owner that stayed whole for a while, and
// returns when to look at a contested object; zero for never. Where a namespace of another program went,
// all objects in it did: that is no fight.
func (e *Engine) endFights(u *resolve.Resource) time.Time {
	for _, err := range u.Errs {
		if errors.Is(err, failure.ErrMissing) || errors.Is(err, kernel.ErrNetnsNotFound) {
			e.fights.Forget(u.Owner)
		}
	}
	return e.fights.End(u.Owner, e.Now(), func(k netstate.Key) bool { return errors.Is(u.Errs[k], failure.ErrContested) })
}
