package engine

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/patchbay-dev/patchbay/nodeagent/engine/failure"
	"github.com/patchbay-dev/patchbay/nodeagent/engine/ledger"
	"github.com/patchbay-dev/patchbay/nodeagent/engine/resolve"
	"github.com/patchbay-dev/patchbay/nodeagent/kernel"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
	"github.com/patchbay-dev/patchbay/nodeagent/plan"
)

// losesRoutes reports whether a step may have taken routes along: with an
// address the kernel removes the IPv4 routes that used it, without a notification.
func losesRoutes(s plan.Step) bool {
	return s.Key.Kind == netstate.KindAddress && (s.Op == plan.Delete || s.Op == plan.Update)
}

// joinsForeign reports whether a step makes a link a port of another's bridge, which
// may not let it forward yet.
func (e *Engine) joinsForeign(s plan.Step) bool {
	l, ok := s.New.(netstate.Link)
	return ok && s.Op == plan.Activate && l.Master != "" && e.ledger.Wanted(netstate.Link{Name: l.Master}.Key()) == nil
}

// converge observes, plans and applies once.
func (e *Engine) converge(batch map[netstate.Owner]bool) []plan.Step {
	return e.execute(batch, e.holdContested(batch, e.prepare(batch)))
}

// prepare returns the steps between the objects that a compiled batch wants and the
// objects that are there.
func (e *Engine) prepare(batch map[netstate.Owner]bool) []plan.Step {
	desired, release, listed := netstate.Set{}.Add(netstate.Ruleset{}), []netstate.Key{}, map[netstate.Key]bool{}
	for o := range batch {
		u := e.resolver.Resources[o]
		for k, obj := range u.Wanted() {
			desired[k] = obj
			if h, port := netstate.HairpinOf(obj); port && !listed[h] && e.ledger.Owners(h).Len() == 0 {
				release = append(release, h)
				listed[h], e.leaving[h] = true, o
			}
		}
		for k := range u.Held() {
			switch wanted := e.ledger.Owners(k).Len() > 0; {
			case wanted && u.Wanted()[k] != nil:
			case wanted || e.resolver.IsSecondName(u, k):
				// Another owner wants the object still, which is that owner's now.
				u.Drop(k)
			default:
				if !listed[k] {
					release = append(release, k)
				}
				listed[k], e.leaving[k] = true, o
			}
		}
	}
	observed, unknown := e.observe(append(desired.Keys(), e.toSee(release)...))
	for o := range batch {
		e.resolver.Resources[o].Errs = map[netstate.Key]error{}
		e.noteEarly(e.resolver.Resources[o], observed)
	}
	// What could not be observed is neither there nor absent: it is left as it
	// is until it can be, and nothing new is opened beside it. Links that had their
	// filters are repaired: other links are up like them.
	e.unseen = map[netstate.Key]bool{}
	for k, err := range unknown {
		if e.ledger.Owners(k).Len() == 0 && errors.Is(err, kernel.ErrForeign) {
			// The host's own namespace was refused as target, so Patchbay made nothing in it.
			delete(unknown, k)
			continue
		}
		e.fail(batch, k, err)
		delete(desired, k)
		if !e.wasComplete(k) {
			e.unseen[k] = true
		}
	}
	release = slices.DeleteFunc(release, func(k netstate.Key) bool { return unknown[k] != nil })
	e.holdSeen(batch, observed, release)
	steps, conflicts := plan.Diff(desired, observed, release)
	for _, c := range conflicts {
		e.fail(batch, c.Key, failure.Conflict(c))
	}
	e.failObstructed(batch, observed)
	return steps
}

// wasComplete reports whether a firewall object was there as all owners want it, when the
// firewall was known last.
func (e *Engine) wasComplete(k netstate.Key) bool {
	owners := e.ledger.Owners(k)
	for o := range owners.All() {
		if u := e.resolver.Resources[o]; u.Complete[k] == nil || u.Complete[k] != u.Wanted()[k] {
			return false
		}
	}
	return k.Kind.Firewall() && owners.Len() > 0
}

// observe returns the objects of the keys that are there, and why other objects are unknown.
func (e *Engine) observe(keys []netstate.Key) (netstate.Set, map[netstate.Key]error) {
	observed, unknown := netstate.Set{}, map[netstate.Key]error{}
	for _, d := range []Driver{e.Kernel, e.Firewall} {
		there, errs := d.Observe(keys)
		maps.Copy(observed, there)
		maps.Copy(unknown, errs)
	}
	return observed, unknown
}

// toSee returns the released keys to look at: not the keys that die with a released link
// or namespace, nor the end of a pair whose end on the host is released.
func (e *Engine) toSee(release []netstate.Key) []netstate.Key {
	links, onHost := map[netstate.End]bool{}, map[netstate.Owner]bool{}
	for _, k := range release {
		if k.Kind == netstate.KindLink {
			links[ledger.On(k)] = true
			onHost[e.leaving[k]] = onHost[e.leaving[k]] || k.Netns == ""
		}
	}
	return slices.DeleteFunc(slices.Clone(release), func(k netstate.Key) bool {
		inner := k.Kind == netstate.KindLink && k.Netns != "" && (onHost[e.leaving[k]] || k.Link == "lo")
		return inner || plan.DiesWithLink(k.Kind) && links[ledger.On(k)]
	})
}

// holdSeen notes which of the wanted objects exist and forgets the released
// ones that do not.
func (e *Engine) holdSeen(batch map[netstate.Owner]bool, observed netstate.Set, release []netstate.Key) {
	gone := map[netstate.Key]bool{}
	for _, k := range release {
		gone[k] = observed[k] == nil && !plan.DiesWithLink(k.Kind)
	}
	for o := range batch {
		u := e.resolver.Resources[o]
		u.DropIf(func(k netstate.Key) bool { return gone[k] })
		for k := range u.Wanted() {
			if observed[k] != nil {
				u.Hold(k)
			}
		}
	}
}

// failObstructed notes with the owners of a batch what keeps a link from carrying
// packets although the link is as wanted.
func (e *Engine) failObstructed(batch map[netstate.Owner]bool, observed netstate.Set) {
	for o := range batch {
		u := e.resolver.Resources[o]
		for k := range u.Wanted() {
			l, ok := observed[k].(netstate.Link)
			switch {
			case !ok:
			case l.Waits != "":
				u.Errs[k] = failure.Port(l)
			case l.Taken != "":
				u.Errs[k] = failure.Filtered(l)
			case l.Planted != "":
				if err := e.plantedError(u, l); err != nil {
					u.Errs[k] = err
				}
			}
		}
	}
}

// plantedError returns an error where a permanent neighbour entry has a gateway at
// another MAC address than the gateway's. Other neighbours are not judged: their MAC
// addresses are not known here.
func (e *Engine) plantedError(u *resolve.Resource, l netstate.Link) error {
	way, ok := e.ledger.Wanted(netstate.Link{Name: u.View.Way}.Key()).(netstate.Link)
	if !ok || u.View.Target != (netstate.End{Netns: l.Netns, Name: l.Name}) {
		return nil
	}
	for _, entry := range strings.Fields(l.Planted) {
		address, mac, _ := strings.Cut(entry, "=")
		for _, gateway := range u.View.Gateways {
			if gateway.String() == address && mac != way.MAC.String() {
				return fmt.Errorf("a permanent neighbour entry of %s in network namespace %s %w: it has %s at %s instead of %s (ip -n %s neigh del %s dev %s)",
					l.Name, l.Netns, failure.ErrObstructed, address, mac, way.MAC, l.Netns, address, l.Name)
			}
		}
	}
	return nil
}
