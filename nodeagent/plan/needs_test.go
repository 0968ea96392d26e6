package plan

import (
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
)

var (
	localnet = netstate.Sysctl{Link: "br-red", Path: "net/ipv4/conf/br-red/route_localnet", Value: "1", Restore: true}
	forwards = netstate.Sysctl{Path: "net/ipv4/ip_forward", Value: "1", Restore: true}
)

// guardedWorld is world with every kind of guard.
func guardedWorld() netstate.Set {
	return world().Add(localnet, netstate.LoopbackGuard{Link: "br-red"})
}

// open are what lets packets through without what must hold them back.
func open(s netstate.Set) (names []string) {
	missing := func(name string, opened bool, guard netstate.Key) {
		if opened && s[guard] == nil {
			names = append(names, name)
		}
	}
	link := func(name string) netstate.Link {
		l, _ := s[linkKey(netstate.End{Name: name})].(netstate.Link)
		return l
	}
	missing("a port without its filter", link("veth1").Up, netstate.PortFilter{Link: "veth1"}.Key())
	missing("a port of a bridge without its link policy", link("veth1").Up && link("veth1").Master != "", netstate.LinkPolicy{Link: "br-red"}.Key())
	missing("a bridge without its link policy", link("br-red").Up, netstate.LinkPolicy{Link: "br-red"}.Key())
	missing("forwarding without its guard", s[forwards.Key()] != nil, netstate.ForwardGuard{Family: netstate.IPv4}.Key())
	missing("loopback addresses without their guard", s[localnet.Key()] != nil, netstate.LoopbackGuard{Link: "br-red"}.Key())
	return names
}

// TestOpensBehindWhatCloses carries out random plans. Random steps fail, and some objects
// cannot be observed: no object is open afterwards that was closed before.
func TestOpensBehindWhatCloses(t *testing.T) {
	failures := 0
	for seed := range uint64(2000) {
		r := rand.New(rand.NewPCG(seed, 7))
		state := netstate.Set{}
		for _, k := range guardedWorld().Keys() {
			if r.IntN(2) == 0 {
				state[k] = guardedWorld()[k]
			}
		}
		heal(state)
		releasePorts(state)
		desired, release, failed := guardedWorld(), []netstate.Key(nil), map[netstate.Key]bool{}
		if r.IntN(2) == 0 {
			desired, release = netstate.Set{}, guardedWorld().Keys()
		}
		observed := carryOut(state, nil)
		for _, k := range guardedWorld().Keys() {
			if k.Kind.Firewall() && r.IntN(8) == 0 {
				failed[k] = true
				delete(desired, k)
				delete(observed, k)
				release = slices.DeleteFunc(slices.Clone(release), func(other netstate.Key) bool { return other == k })
			}
		}
		steps, _ := Diff(desired, observed, release)
		before := open(state)
		for stage := StageClosePublish; stage <= StagePublish; stage++ {
			state = carryOutStage(r, state, steps, stage, failed)
			for _, name := range open(state) {
				if !slices.Contains(before, name) {
					t.Fatalf("seed %d: %s after stage %d of\n%s", seed, name, stage, text(steps))
				}
			}
		}
		failures += len(failed)
	}
	if failures < 2000 {
		t.Errorf("%d failures in all are too few", failures)
	}
}

// carryOutStage takes the steps of a stage whose dependencies did not fail: in the
// firewall all or none, else each by itself.
func carryOutStage(r *rand.Rand, state netstate.Set, steps []Step, stage Stage, failed map[netstate.Key]bool) netstate.Set {
	whole := r.IntN(3) > 0
	for _, s := range steps {
		if s.Stage != stage {
			continue
		}
		fails := r.IntN(6) == 0
		if stage.Firewall() {
			fails = !whole
		}
		if fails || slices.ContainsFunc(Dependencies(s), func(k netstate.Key) bool { return failed[k] }) {
			failed[s.Key] = true
			continue
		}
		state = carryOut(state, []Step{withState(s)})
		releasePorts(state)
	}
	return state
}

// releasePorts has no link be a port of a bridge that is not there.
func releasePorts(s netstate.Set) {
	for _, o := range s {
		if l, ok := o.(netstate.Link); ok && l.Master != "" && s[linkKey(netstate.End{Name: l.Master})] == nil {
			l.Master = ""
			s.Add(l)
		}
	}
}

// withState has a step that only makes or marks a link leave it down, and one that changes
// its properties leave it as it is.
func withState(s Step) Step {
	was, _ := s.Old.(netstate.Link)
	down := func(o netstate.Object) netstate.Object {
		if l, ok := o.(netstate.Link); ok && s.Op != Activate {
			l.Up, l.Master = was.Up, was.Master
			return l
		}
		return o
	}
	s.New, s.Peer = down(s.New), down(s.Peer)
	return s
}
