// Package fights counts how often kernel objects are put back that another program undoes
// again and again, and says how long to wait with the next repair. It is pure: the caller
// says the time.
package fights

import (
	"fmt"
	"slices"
	"time"

	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
	"github.com/patchbay-dev/patchbay/nodeagent/plan"
)

const (
	// Window is the time in which the repairs of a fight are counted, and how long
	// an object stays whole before its fight is over.
	Window = 10 * time.Second
	// FewRepairs is how often an object is put back in a window before that is a fight:
	// faster than twice a second no person and no start-up script breaks one.
	FewRepairs = 20
	// FirewallBout is the time in which several repairs of the firewall count as one:
	// a reload flushes it table by table.
	FirewallBout = time.Second
	// FewBouts is how many bouts are no fight.
	FewBouts = 5
	// firstPause doubles with every repair, up to lastPause.
	firstPause = time.Second
	lastPause  = time.Minute
)

// Undoing is one way in which an object was found not as wanted.
type Undoing struct {
	Key netstate.Key
	// Found is nil where the object was missing.
	Found netstate.Object
}

// fight counts how often an object was put back after the same undoing.
type fight struct {
	since, last time.Time
	count       int
	// bouts are the repairs that count towards a fight, a bout apart from each other, of
	// which the last began at begun; few bouts are no fight.
	bouts int
	begun time.Time
	bout  time.Duration
	few   int
	// pause is zero until the repairs are too many; until then no repair waits.
	pause time.Duration
	until time.Time
	// text describes the fight as of the beginning of its last pause.
	text string
	// owners is how many owners share the fight.
	owners int
}

// Book is all fights. All owners of an object share its fight.
type Book struct {
	fights map[Undoing]*fight
	of     map[netstate.Owner]map[Undoing]bool
}

// New makes a book without fights.
func New() *Book {
	return &Book{fights: map[Undoing]*fight{}, of: map[netstate.Owner]map[Undoing]bool{}}
}

// Begun is a pause that begins.
type Begun struct {
	Text  string
	Pause time.Duration
}

// Repaired counts a repair of an object, which owners want. It reports whether the object
// is contested, and the pause that begins with this repair; nil for none.
func (b *Book) Repaired(u Undoing, owners []netstate.Owner, at time.Time) (contested bool, begun *Begun) {
	f := b.fights[u]
	if f == nil {
		f = &fight{since: at, few: FewRepairs}
		if u.Key.Kind.Firewall() {
			f.bout, f.few = FirewallBout, FewBouts
		}
		b.fights[u] = f
	}
	for _, o := range owners {
		if b.of[o] == nil {
			b.of[o] = map[Undoing]bool{}
		}
		if !b.of[o][u] {
			b.of[o][u] = true
			f.owners++
		}
	}
	if f.again(at) {
		f.text = f.describe(u)
		begun = &Begun{f.text, f.pause}
	}
	return f.pause > 0, begun
}

// again counts a repair and reports whether a new pause begins.
func (f *fight) again(at time.Time) bool {
	if f.pause == 0 && at.Sub(f.since) > Window {
		f.since, f.count, f.bouts = at, 0, 0
	}
	f.count, f.last = f.count+1, at
	if f.bouts == 0 || at.Sub(f.begun) >= f.bout {
		f.bouts, f.begun = f.bouts+1, at
	}
	if f.pause == 0 && f.bouts <= f.few || at.Before(f.until) {
		return false
	}
	f.pause = min(max(2*f.pause, firstPause), lastPause)
	f.until = at.Add(f.pause)
	return true
}

// Pauses reports whether the pause of an undoing is not over.
func (b *Book) Pauses(u Undoing, at time.Time) bool {
	f := b.fights[u]
	return f != nil && at.Before(f.until)
}

// End forgets the objects of an owner that stayed whole for a while, and returns when to
// look at contested ones; zero for never. Waits says which objects wait for the end of a pause.
func (b *Book) End(o netstate.Owner, at time.Time, waits func(netstate.Key) bool) (next time.Time) {
	for u := range b.of[o] {
		f := b.fights[u]
		due := f.last.Add(Window)
		switch {
		case waits(u.Key) && f.until.After(at):
			due = f.until
		case !at.Before(due):
			b.forget(o, u)
			continue
		}
		if f.pause > 0 && (next.IsZero() || due.Before(next)) {
			next = due
		}
	}
	return next
}

// Forget ends all fights of an owner.
func (b *Book) Forget(o netstate.Owner) {
	for u := range b.of[o] {
		b.forget(o, u)
	}
}

func (b *Book) forget(o netstate.Owner, u Undoing) {
	if delete(b.of[o], u); len(b.of[o]) == 0 {
		delete(b.of, o)
	}
	if b.fights[u].owners--; b.fights[u].owners == 0 {
		delete(b.fights, u)
	}
}

// Any reports whether an owner has repairs of late.
func (b *Book) Any(o netstate.Owner) bool { return len(b.of[o]) > 0 }

// Contested says which object of an owner another program keeps undoing, the first of
// several; empty for none.
func (b *Book) Contested(o netstate.Owner) string {
	var texts []string
	for u := range b.of[o] {
		if f := b.fights[u]; f.pause > 0 {
			texts = append(texts, f.text)
		}
	}
	switch slices.Sort(texts); len(texts) {
	case 0:
		return ""
	case 1:
		return texts[0]
	}
	return fmt.Sprintf("%s; so with %d more of its objects", texts[0], len(texts)-1)
}

// describe says which object was undone how often, where the program may be, and how to
// find it.
func (f *fight) describe(u Undoing) string {
	what := "rules of the firewall were changed"
	if u.Key.Kind != netstate.KindRuleset {
		what = fmt.Sprintf("%s %s was %s", u.Key.Kind, plan.Describe(u.Key), u.verb())
	}
	where, find := "on the node", "each change as it comes: ip -timestamp monitor"
	switch {
	case u.Key.Kind.Firewall():
		find = "nft monitor names the process of each change"
	case u.Key.Netns != "" && u.Key.Kind != netstate.KindNetns:
		where = "in network namespace " + u.Key.Netns + ", or on the node"
		find = fmt.Sprintf("processes there: ip netns pids %s; each change as it comes: ip -n %s -timestamp monitor", u.Key.Netns, u.Key.Netns)
	}
	return fmt.Sprintf("%s %d times in %s by another program %s: find it and stop it (%s)", what, f.count, max(f.last.Sub(f.since).Round(time.Second), time.Second), where, find)
}

func (u Undoing) verb() string {
	switch l, link := u.Found.(netstate.Link); {
	case u.Found == nil:
		return "removed"
	case link && !l.Up:
		return "set down"
	}
	return "changed"
}
