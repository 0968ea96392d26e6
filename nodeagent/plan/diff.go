package plan

import (
	"cmp"
	"slices"
	"strings"

	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
)

// Conflict is a desired object whose name a foreign object has, or that waits for an
// object that Patchbay does not make. It gets no steps.
type Conflict struct {
	Key  netstate.Key
	Want netstate.Object
	// Found is the observed object; nil where an external object is missing.
	Found netstate.Object
}

// Diff returns the steps that turn observed into desired, sorted by stage, and
// the conflicts that no step may touch. Objects of release are removed if they
// are observed, whole or in part; everything else that is observed and not desired stays.
func Diff(desired, observed netstate.Set, release []netstate.Key) ([]Step, []Conflict) {
	d := differ{desired: desired, observed: netstate.Set{}, gone: map[netstate.Key]bool{}}
	for k, o := range observed {
		if p, ok := o.(netstate.Partial); !ok {
			d.observed[k] = o
		} else if desired[k] == nil {
			d.observed[k] = p.Object
		}
	}
	d.findConflicts()
	d.replaceLinks()
	d.remove(release)
	for _, k := range desired.Keys() {
		d.build(k)
	}
	d.replacePublishes()
	d.addNeeds()
	slices.SortStableFunc(d.steps, compareSteps)
	return d.steps, d.conflicts
}

// Same reports whether an observed object needs no step to be the desired one.
func Same(desired, observed netstate.Object) bool {
	if link, ok := observed.(netstate.Link); ok {
		want, ok := desired.(netstate.Link)
		return ok && sameLink(want, link)
	}
	if port, ok := observed.(netstate.Port); ok {
		want, ok := desired.(netstate.Port)
		same := port.Attributes.Unlike(want.Attributes) == netstate.Attributes{}
		port.Attributes = want.Attributes
		return ok && same && want == port
	}
	if route, ok := observed.(netstate.Route); ok {
		want, ok := desired.(netstate.Route)
		route.First, route.Behind = want.First, route.Behind && want.First
		return ok && want == route
	}
	if ns, ok := observed.(netstate.Netns); ok {
		want, ok := desired.(netstate.Netns)
		return ok && (ns == want || ns.Managed && !ns.HalfMade && !want.Managed)
	}
	return desired == observed
}

func sameLink(want, got netstate.Link) bool {
	if got.Attributes.Unlike(want.Attributes) != (netstate.Attributes{}) {
		return false
	}
	got.Primary, got.Attributes, got.Taken, got.Planted, got.XDP = want.Primary, want.Attributes, want.Taken, want.Planted, want.XDP
	if want.Type == netstate.Loopback {
		got.MAC, got.MTU = want.MAC, want.MTU
	}
	return want == got
}

type differ struct {
	desired, observed netstate.Set
	gone              map[netstate.Key]bool
	blocked           map[netstate.Key]bool
	steps             []Step
	conflicts         []Conflict
}

func (d *differ) add(s Stage, op Op, old, new netstate.Object) *Step {
	step := Step{Stage: s, Op: op, Old: old, New: new}
	if new != nil {
		step.Key = new.Key()
	} else {
		step.Key = old.Key()
	}
	d.steps = append(d.steps, step)
	return &d.steps[len(d.steps)-1]
}

// findConflicts sets aside the objects that may not be touched, and the objects on them.
func (d *differ) findConflicts() {
	d.blocked = map[netstate.Key]bool{}
	for _, k := range d.desired.Keys() {
		found, ok := d.observed[k]
		if k.Kind != netstate.KindNetns && d.blocked[netstate.Key{Kind: netstate.KindNetns, Netns: k.Netns}] {
			// The namespace says it all.
			continue
		}
		if !conflicts(d.desired[k], found, ok) {
			continue
		}
		d.conflicts = append(d.conflicts, Conflict{Key: k, Want: d.desired[k], Found: found})
		d.blocked[k] = true
		if l, ok := d.desired[k].(netstate.Link); ok && l.Type == netstate.Veth {
			d.blocked[linkKey(l.Peer)] = true
		}
	}
}

func conflicts(want, found netstate.Object, exists bool) bool {
	switch w := want.(type) {
	case netstate.Netns:
		ns, _ := found.(netstate.Netns)
		return !w.Managed && (!exists || ns.HalfMade || ns.Instead != "") || exists && w.Managed && !ns.Managed
	case netstate.Link:
		return exists && w.Mark != "" && !oursAs(found.(netstate.Link).Mark, w.Mark)
	}
	return false
}

// oursAs reports whether an observed mark is of the same source as the wanted
// one, or half-made.
func oursAs(found, want string) bool {
	if found == netstate.HalfMade {
		return true
	}
	fs, _, ok := netstate.ParseMark(found)
	ws, _, _ := netstate.ParseMark(want)
	return ok && fs == ws
}

// replaceLinks deletes links of Patchbay that cannot become the desired ones: another
// owner's, of another type, or joined to another peer.
func (d *differ) replaceLinks() {
	for _, k := range d.desired.Keys() {
		want, isLink := d.desired[k].(netstate.Link)
		got, exists := d.observed[k].(netstate.Link)
		if isLink && exists && !d.isBlocked(k) && unlike(want, got) {
			d.deleteLink(got)
		}
	}
}

func unlike(want, got netstate.Link) bool {
	return want.Type != got.Type || want.Peer != got.Peer || got.Mark != want.Mark && got.Mark != netstate.HalfMade
}

// deleteLink removes a link once, and forgets what goes with it.
func (d *differ) deleteLink(l netstate.Link) {
	if d.gone[l.Key()] || l.Type == netstate.Loopback {
		return
	}
	d.add(StageRemove, Delete, l, nil)
	for _, k := range []netstate.Key{l.Key(), linkKey(l.Peer)} {
		d.gone[k] = true
		delete(d.observed, k)
	}
	for k, o := range d.observed {
		// A wanted redirect through it leads nowhere now.
		r, redirects := o.(netstate.Redirect)
		severed := redirects && d.desired[k] != nil && d.gone[linkKey(netstate.End{Name: r.To})]
		// The link that comes has its sysctls anew, recorded or not.
		severed = severed || k.Kind == netstate.KindSysctlNode && k.Link != "" && d.desired[k] != nil && d.gone[linkKey(place(k))]
		if severed || DiesWithLink(k.Kind) && d.gone[netstate.Key{Kind: netstate.KindLink, Netns: k.Netns, Link: k.Link}] {
			delete(d.observed, k)
		}
	}
}

// DiesWithLink reports whether objects of a kind go when their link goes.
func DiesWithLink(k netstate.Kind) bool {
	switch k {
	case netstate.KindSysctl, netstate.KindAddress, netstate.KindRoute, netstate.KindHairpin, netstate.KindShaper, netstate.KindRedirect:
		return true
	}
	return false
}

func place(k netstate.Key) netstate.End { return netstate.End{Netns: k.Netns, Name: k.Link} }

func linkKey(e netstate.End) netstate.Key {
	return netstate.Key{Kind: netstate.KindLink, Netns: e.Netns, Link: e.Name}
}

// remove adds the deletions of released objects. An object that dies with its link or
// namespace needs no step of its own.
func (d *differ) remove(release []netstate.Key) {
	release = slices.SortedFunc(slices.Values(release), netstate.Key.Compare)
	for _, k := range release {
		if l, ok := d.observed[k].(netstate.Link); ok && d.desired[k] == nil && l.Mark != "" {
			d.deleteLink(l)
		}
	}
	for _, k := range slices.Backward(release) {
		found, ok := d.observed[k]
		if !ok || d.desired[k] != nil || k.Kind == netstate.KindLink || k.Kind == netstate.KindSysctl {
			continue
		}
		if ns, ok := found.(netstate.Netns); ok && !ns.Managed {
			continue
		}
		d.add(removeStage(k.Kind), Delete, found, nil)
	}
}

func removeStage(k netstate.Kind) Stage {
	switch {
	case k == netstate.KindPublish:
		return StageClosePublish
	case k.Firewall():
		return StageUnfilter
	case k == netstate.KindNetns:
		return StageRemoveNetns
	}
	return StageRemove
}

// replacePublishes has a publish go when another comes that leads some of its
// ports to the same address: in one transaction, so that no packet finds them
// closed.
func (d *differ) replacePublishes() {
	var come []netstate.Publish
	for _, s := range d.steps {
		if p, ok := s.New.(netstate.Publish); ok && s.Op == Create {
			come = append(come, p)
		}
	}
	if len(come) == 0 {
		return
	}
	replaced := successors(come)
	for i, s := range d.steps {
		if p, ok := s.Old.(netstate.Publish); ok && s.Op == Delete && replaced(p) {
			d.steps[i].Stage = StagePublish
		}
	}
}

// successors tells whether one of the publishes succeeds another. Most publishes are of one
// port, and are looked up by it.
func successors(come []netstate.Publish) func(netstate.Publish) bool {
	type port struct {
		proto string
		port  uint16
	}
	ports, ranges := map[port][]netstate.Publish{}, []netstate.Publish{}
	for _, p := range come {
		if p.HostPortEnd != 0 {
			ranges = append(ranges, p)
		} else {
			ports[port{p.Proto, p.HostPort}] = append(ports[port{p.Proto, p.HostPort}], p)
		}
	}
	return func(old netstate.Publish) bool {
		succeeds := func(p netstate.Publish) bool { return p.Succeeds(old) }
		if old.HostPortEnd != 0 {
			return slices.ContainsFunc(come, succeeds)
		}
		return slices.ContainsFunc(ports[port{old.Proto, old.HostPort}], succeeds) || slices.ContainsFunc(ranges, succeeds)
	}
}

// build adds the steps that make one desired object.
func (d *differ) build(k netstate.Key) {
	want, got := d.desired[k], d.observed[k]
	if d.isBlocked(k) || got != nil && Same(want, got) {
		return
	}
	if l, ok := want.(netstate.Link); ok {
		old, exists := got.(netstate.Link)
		if exists {
			d.changeLink(old, l)
		} else {
			d.createLink(l)
		}
		return
	}
	op := Update
	if got == nil {
		op = Create
	}
	step := d.add(updateStage(got, want), op, got, want)
	if r, ok := want.(netstate.Redirect); ok {
		step.Needs = through(r)
	}
}

// updateStage is the stage in which the object would be built. A publish that only loses
// targets is changed earlier, before the targets go.
func updateStage(got, want netstate.Object) Stage {
	old, _ := got.(netstate.Publish)
	now, _ := want.(netstate.Publish)
	if now.Targets != old.Targets && now.Targets.Without(old.Targets) == "" {
		return StageClosePublish
	}
	return buildStage(want.Key().Kind)
}

func buildStage(k netstate.Kind) Stage {
	switch k {
	case netstate.KindRuleset:
		return StageClosePublish
	case netstate.KindNetns:
		return StageNetns
	case netstate.KindLink:
		return StageLink
	case netstate.KindSysctl, netstate.KindShaper, netstate.KindRedirect:
		return StageMark
	case netstate.KindSysctlNode, netstate.KindPort, netstate.KindHairpin:
		return StageActivate
	case netstate.KindAddress:
		return StageAddress
	case netstate.KindRoute, netstate.KindRule:
		return StageRoute
	case netstate.KindPublish:
		return StagePublish
	}
	return StageFilter
}

// isBlocked reports whether the object, or an object below it, is in conflict.
func (d *differ) isBlocked(k netstate.Key) bool {
	return d.blocked[k] || d.blocked[netstate.Key{Kind: netstate.KindNetns, Netns: k.Netns}] ||
		d.blocked[netstate.Key{Kind: netstate.KindLink, Netns: k.Netns, Link: k.Link}] || d.peerBlocked(k)
}

func (d *differ) peerBlocked(k netstate.Key) bool {
	l, ok := d.desired[netstate.Key{Kind: netstate.KindLink, Netns: k.Netns, Link: k.Link}].(netstate.Link)
	return ok && l.Type == netstate.Veth && (d.blocked[linkKey(l.Peer)] || d.blocked[netstate.Key{Kind: netstate.KindNetns, Netns: l.Peer.Netns}])
}

// createLink makes a link in three steps: down, marked, active. The peer of a
// primary veth comes with the first. The loopback comes with its namespace.
func (d *differ) createLink(l netstate.Link) {
	if l.Type != netstate.Loopback {
		if l.Type != netstate.Veth || l.Primary {
			d.add(StageLink, Create, nil, l).Peer = d.desired[linkKey(l.Peer)]
		}
		d.add(StageMark, Mark, nil, l)
	}
	if l.Up && l.Type != netstate.Loopback {
		d.activate(nil, l)
	}
}

// changeLink makes an existing link the desired one without remaking it.
func (d *differ) changeLink(old, l netstate.Link) {
	if old.Mark != l.Mark {
		d.add(StageMark, Mark, old, l)
	}
	changed := old.Attributes.Unlike(l.Attributes) != netstate.Attributes{}
	if changed || l.Type != netstate.Loopback && (old.MAC != l.MAC || old.MTU != l.MTU) {
		d.add(StageMark, Update, old, l)
	}
	if old.Master != l.Master || old.Isolated != l.Isolated || old.Up != l.Up {
		d.activate(old, l)
	}
}

// compareSteps orders by stage and, within a stage, bridges before the veths
// that join them and everything in building order; removals in reverse.
func compareSteps(a, b Step) int {
	if a.Stage != b.Stage {
		return cmp.Compare(a.Stage, b.Stage)
	}
	if a.Op == Delete && b.Op == Delete {
		return cmp.Or(cmp.Compare(b.Key.Kind, a.Key.Kind), -cmp.Compare(linkRank(a), linkRank(b)), a.Key.Compare(b.Key))
	}
	return cmp.Or(cmp.Compare(a.Key.Kind, b.Key.Kind), cmp.Compare(linkRank(a), linkRank(b)), a.Key.Compare(b.Key))
}

func linkRank(s Step) int {
	o := cmp.Or(s.New, s.Old)
	if l, ok := o.(netstate.Link); ok && l.Type == netstate.Bridge {
		return 0
	}
	return 1
}

// Below returns the namespaces and links that the object of a step stands on.
func Below(s Step) []netstate.Key {
	below := []netstate.Key{{Kind: netstate.KindNetns, Netns: s.Key.Netns}, {Kind: netstate.KindLink, Netns: s.Key.Netns, Link: s.Key.Link}}
	switch o := s.New.(type) {
	case netstate.Link:
		below = append(below, linkKey(o.Peer), netstate.Key{Kind: netstate.KindNetns, Netns: o.Peer.Netns},
			netstate.Key{Kind: netstate.KindLink, Netns: o.Netns, Link: o.Master})
	case netstate.Port:
		below = append(below, netstate.Key{Kind: netstate.KindLink, Link: o.Master})
	}
	return slices.DeleteFunc(below, func(k netstate.Key) bool { return k == s.Key || k.Netns == "" && k.Link == "" })
}

// Describe is the object of a step as a person reads it: kind, place and name.
func Describe(k netstate.Key) string {
	place := k.Link
	switch {
	case k.Kind == netstate.KindNetns:
		place = k.Netns
	case k.Kind == netstate.KindSysctl && k.Netns == "":
		// The path names the link.
		place = ""
	case k.Netns != "":
		place = netstate.End{Netns: k.Netns, Name: k.Link}.String()
	}
	return strings.Join(slices.DeleteFunc([]string{place, k.Name}, func(s string) bool { return s == "" }), " ")
}
