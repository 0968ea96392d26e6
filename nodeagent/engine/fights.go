package engine

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/patchbay-dev/patchbay/nodeagent/kernel"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
	"github.com/patchbay-dev/patchbay/nodeagent/plan"
)

const (
	// fightWindow is the time in which the repairs of a fight are counted, and how long
	// an object stays whole before its fight is over.
	fightWindow = 10 * time.Second
	// fewRepairs is how often an object is put back in a window before that is a fight:
	// faster than twice a second no person and no start-up script breaks one.
	fewRepairs = 20
	// firewallBout is the time in which several repairs of the firewall count as one:
	// a reload flushes it table by table. Of these bouts fewBouts are no fight.
	firewallBout = time.Second
	fewBouts     = 5
	// firstFightPause doubles with every repair, up to lastRetry.
	firstFightPause = time.Second
)

// errContested marks objects that another program undoes again and again.
var errContested = errors.New("is changed again and again")

// undoing is one way in which an object was found not as wanted. The zero key stands
// for the rules that the firewall's objects need.
type undoing struct {
	key netstate.Key
	// found is nil where the object was missing.
	found netstate.Object
}

func (u undoing) firewall() bool { return u.key == netstate.Key{} || u.key.Kind.Firewall() }

// fight counts how often an object was put back after the same undoing. All owners of
// the object share it.
type fight struct {
	since, last time.Time
	count       int
	// bouts are the repairs that count towards a fight, those a bout apart, of which the
	// last began at begun; few of them are none.
	bouts int
	begun time.Time
	bout  time.Duration
	few   int
	// pause is zero until the repairs are too many; until then none waits.
	pause time.Duration
	until time.Time
	// text is the sum as last logged.
	text string
}

// again counts a repair and reports whether a new pause begins.
func (f *fight) again(at time.Time) bool {
	if f.pause == 0 && at.Sub(f.since) > fightWindow {
		f.since, f.count, f.bouts = at, 0, 0
	}
	f.count, f.last = f.count+1, at
	if f.bouts == 0 || at.Sub(f.begun) >= f.bout {
		f.bouts, f.begun = f.bouts+1, at
	}
	if f.pause == 0 && f.bouts <= f.few || at.Before(f.until) {
		return false
	}
	f.pause = min(max(2*f.pause, firstFightPause), lastRetry)
	f.until = at.Add(f.pause)
	return true
}

// noteFights counts what a pass put back, logs one line per owner whose objects begin a
// new pause, and returns the objects that these lines stand for. What came back with the
// link, the namespace or the address under it is no fight of its own.
func (e *Engine) noteFights(batch map[netstate.Owner]bool, applied []plan.Step, rules bool) map[netstate.Key]bool {
	repaired, seen := e.repaired(applied), map[undoing]bool{}
	summed, begun := map[netstate.Key]bool{}, map[netstate.Owner][]*fight{}
	for _, s := range applied {
		u := undoing{key: s.Key, found: s.Old}
		owner, drift := e.blame(s.Key)
		if !drift || seen[u] || s.Op == plan.Delete || under(s, repaired) != (netstate.Key{}) {
			continue
		}
		seen[u] = true
		f := e.fightOf(u, slices.Collect(e.ledger.Owners(s.Key).All()))
		if f.again(e.Now()) {
			f.text = f.describe(u)
			begun[owner] = append(begun[owner], f)
		}
		if f.pause > 0 {
			summed[s.Key] = true
		}
	}
	if rules {
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
func (e *Engine) noteMended(batch map[netstate.Owner]bool, begun map[netstate.Owner][]*fight) {
	owners := slices.DeleteFunc(slices.Collect(maps.Keys(batch)), func(o netstate.Owner) bool { return !e.units[o].mended() })
	if len(owners) == 0 {
		return
	}
	if f := e.fightOf(undoing{}, owners); f.again(e.Now()) {
		f.text = f.describe(undoing{})
		begun[slices.MinFunc(owners, netstate.Owner.Compare)] = []*fight{f}
	}
}

// sumUp logs the pauses that begin, one line per owner.
func (e *Engine) sumUp(begun map[netstate.Owner][]*fight) {
	for o, fights := range begun {
		f := fights[0]
		args := []any{"owner", ownerText(o), "what", f.text, "pause", f.pause}
		if more := len(fights) - 1; more > 0 {
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

// fightOf returns the count of an undoing, which owners share.
func (e *Engine) fightOf(u undoing, owners []netstate.Owner) *fight {
	f := e.knownFight(u, owners)
	if f == nil {
		f = &fight{since: e.Now(), few: fewRepairs}
		if u.firewall() {
			f.bout, f.few = firewallBout, fewBouts
		}
	}
	for _, o := range owners {
		if e.units[o].fights == nil {
			e.units[o].fights = map[undoing]*fight{}
		}
		e.units[o].fights[u] = f
	}
	return f
}

func (e *Engine) knownFight(u undoing, owners []netstate.Owner) *fight {
	for _, o := range owners {
		if f := e.units[o].fights[u]; f != nil {
			return f
		}
	}
	return nil
}

// holdContested leaves out the repairs whose pause is not over, with those that stand
// on them, and tells the owners so. A change that is wanted never waits.
func (e *Engine) holdContested(batch map[netstate.Owner]bool, steps []plan.Step) []plan.Step {
	held := map[netstate.Key]netstate.Key{}
	for _, s := range steps {
		f := e.knownFight(undoing{key: s.Key, found: s.Old}, slices.Collect(e.ledger.Owners(s.Key).All()))
		if f == nil || !e.Now().Before(f.until) || !mayWait(s) {
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
			e.failIn(batch, s.Key, errContested)
			return true
		}
		on := under(s, held)
		if on != (netstate.Key{}) && e.ledger.Owners(s.Key).Len() > 0 {
			e.failIn(batch, s.Key, fmt.Errorf("%w %s", errWaits, plan.Describe(on)))
			return true
		}
		return false
	})
}

// failIn notes an error with those of the batch that want an object.
func (e *Engine) failIn(batch map[netstate.Owner]bool, k netstate.Key, err error) {
	for o := range e.ledger.Owners(k).All() {
		if batch[o] {
			e.units[o].errs[k] = err
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

// endFights forgets what stayed whole for a while, and returns when to look at what is
// contested still; zero for never. Where the namespace of others went, all that was in it
// did: that is no fight.
func (u *unit) endFights(at time.Time) (next time.Time) {
	for _, err := range u.errs {
		if errors.Is(err, errMissing) || errors.Is(err, kernel.ErrNetnsNotFound) {
			clear(u.fights)
		}
	}
	for d, f := range u.fights {
		due := f.last.Add(fightWindow)
		switch {
		case errors.Is(u.errs[d.key], errContested) && f.until.After(at):
			due = f.until
		case !at.Before(due):
			delete(u.fights, d)
			continue
		}
		if f.pause > 0 && (next.IsZero() || due.Before(next)) {
			next = due
		}
	}
	return next
}

// contested says which object another program keeps undoing; empty for none. Of several
// it is the first.
func (u *unit) contested() string {
	var texts []string
	for _, f := range u.fights {
		if f.pause > 0 {
			texts = append(texts, f.text)
		}
	}
	if len(texts) == 0 {
		return ""
	}
	slices.Sort(texts)
	if len(texts) == 1 {
		return texts[0]
	}
	return fmt.Sprintf("%s; so with %d more of its objects", texts[0], len(texts)-1)
}

// describe says what was undone how often, where the program may be, and how to find it.
func (f *fight) describe(u undoing) string {
	what := "rules of the firewall were changed"
	if u.key != (netstate.Key{}) {
		what = fmt.Sprintf("%s %s was %s", u.key.Kind, plan.Describe(u.key), u.verb())
	}
	where, find := "on the node", "each change as it comes: ip -timestamp monitor"
	switch {
	case u.firewall():
		find = "nft monitor names the process of each change"
	case u.key.Netns != "" && u.key.Kind != netstate.KindNetns:
		where = "in network namespace " + u.key.Netns + ", or on the node"
		find = fmt.Sprintf("processes there: ip netns pids %s; each change as it comes: ip -n %s -timestamp monitor", u.key.Netns, u.key.Netns)
	}
	return fmt.Sprintf("%s %d times in %s by another program %s: find it and stop it (%s)", what, f.count, max(f.last.Sub(f.since).Round(time.Second), time.Second), where, find)
}

func (u undoing) verb() string {
	switch l, link := u.found.(netstate.Link); {
	case u.found == nil:
		return "removed"
	case link && !l.Up:
		return "set down"
	}
	return "changed"
}
