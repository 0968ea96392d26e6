package engine

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/patchbay-dev/patchbay/api/v1alpha1"
	"github.com/patchbay-dev/patchbay/nodeagent/engine/fights"
	"github.com/patchbay-dev/patchbay/nodeagent/kernel"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
)

// ring is a world in which a program fights over objects of the attachment net1.
type ring struct {
	*world
	log     bytes.Buffer
	a       *v1alpha1.NamespaceAttachment
	address netstate.Key
}

func newRing(t *testing.T) *ring {
	r := &ring{world: newWorld(t), a: nsa("net1", "red", "10.0.0.2/24")}
	r.e.Log = slog.New(slog.NewTextHandler(&r.log, nil))
	r.set(bnet("red", "10.0.0.0/24"))
	r.set(r.a)
	r.turns(20)
	r.address = netstate.Key{Kind: netstate.KindAddress, Netns: "net1", Link: "eth0", Name: "10.0.0.2/24"}
	if r.k.set[r.address] == nil || r.ready() != v1alpha1.ReasonProgrammed {
		t.Fatalf("%s: %v", r.ready(), r.k.set.Keys())
	}
	return r
}

func (r *ring) ready() string { return r.r.status[own(r.a)].Ready.Reason }

// undo removes an object and reports whether it is back after the next turns.
func (r *ring) undo(k netstate.Key) bool {
	r.k.remove(k)
	r.k.fn(kernel.Event{Key: k, Gone: true})
	r.turns(20)
	return r.k.set[k] != nil
}

// later lets time pass, and the agent work.
func (r *ring) later(d time.Duration) {
	r.world.later(d)
	r.turns(20)
}

// fight undoes the repair of an object until it is contested.
func (r *ring) fight(k netstate.Key) {
	r.t.Helper()
	for i := range fights.FewRepairs + 1 {
		if !r.undo(k) {
			r.t.Fatalf("repair %d waits", i+1)
		}
	}
	if r.ready() != v1alpha1.ReasonContested {
		r.t.Fatalf("Ready: %s", r.ready())
	}
}

// TestFightIsRepairedWithPauses shows that the first repairs come at once, further ones
// after pauses that double up to a minute, each with one line; that Ready says so, and
// that an object which stays whole is repaired at once again.
func TestFightIsRepairedWithPauses(t *testing.T) {
	r := newRing(t)
	r.fight(r.address)
	for pause := time.Second; pause < 70*time.Second; pause *= 2 {
		pause = min(pause, lastRetry)
		if r.undo(r.address) {
			t.Fatal("it is put back without a pause")
		}
		d := r.turn()
		if d > pause || d < pause-500*time.Millisecond {
			t.Errorf("next look in %s, want %s", d, pause)
		}
		if c := r.r.status[own(r.a)].Ready; c.Status != "False" || c.Reason != v1alpha1.ReasonContested ||
			!strings.Contains(c.Message, "address net1/eth0 10.0.0.2/24 was removed ") || !strings.Contains(c.Message, "ip netns pids net1") {
			t.Errorf("Ready: %s %s %s", c.Status, c.Reason, c.Message)
		}
		lines := strings.Count(r.log.String(), "\n")
		r.later(pause)
		if r.k.set[r.address] == nil {
			t.Fatalf("it is not back after %s", pause)
		}
		if n := strings.Count(r.log.String(), "\n") - lines; n != 1 {
			t.Errorf("%d lines for a pause of %s:\n%s", n, pause, r.log.String())
		}
	}
	r.later(fights.Window)
	if r.ready() != v1alpha1.ReasonProgrammed || r.e.fights.Any(own(r.a)) {
		t.Errorf("not calm: %s", r.ready())
	}
	if !r.undo(r.address) {
		t.Error("a new repair waits")
	}
}

// TestFightOverLinkIsOne shows that what goes with a link, or with an address, is no
// fight of its own, and waits for it.
func TestFightOverLinkIsOne(t *testing.T) {
	r := newRing(t)
	link := netstate.Link{Netns: "net1", Name: "eth0"}.Key()
	host := netstate.Link{Name: r.e.resolver.Resources[own(r.a)].View.Host.Name}.Key()
	for i := range fights.FewRepairs + 2 {
		if r.k.set[host] == nil {
			t.Fatalf("repair %d waits", i)
		}
		r.k.remove(host)
		r.k.remove(link)
		r.k.fn(kernel.Event{Key: host, Gone: true})
		r.turns(20)
	}
	c := r.r.status[own(r.a)].Ready
	if c.Reason != v1alpha1.ReasonContested || !strings.HasPrefix(c.Message, "link "+host.Link+" was removed 21 times in 1s by another program on the node") || strings.Contains(c.Message, "more of its objects") {
		t.Errorf("Ready: %s %s", c.Reason, c.Message)
	}
	if n := strings.Count(r.log.String(), "put back again and again"); n != 1 || r.k.set[host] != nil {
		t.Errorf("%d lines, link %v", n, r.k.set[host])
	}
	r.later(time.Second)
	if r.k.set[host] == nil || r.k.set[link] == nil || r.k.set[r.address] == nil {
		t.Error("not all is back after the pause")
	}
}

// TestDriftOfManyIsNoFight shows that many objects that go at once, or one that is
// changed in another way each time, are put back at once.
func TestDriftOfManyIsNoFight(t *testing.T) {
	r := newRing(t)
	for range fights.FewRepairs {
		for k := range r.k.set {
			if k.Kind == netstate.KindAddress || k.Kind == netstate.KindRoute {
				r.k.remove(k)
				r.k.fn(kernel.Event{Key: k, Gone: true})
			}
		}
		r.turns(20)
	}
	link := netstate.Link{Netns: "net1", Name: "eth0"}.Key()
	for i := range 3 * fights.FewRepairs {
		l := r.k.set[link].(netstate.Link)
		l.MTU = 1300 + i
		r.k.set.Add(l)
		r.k.fn(kernel.Event{Key: link, Object: l})
		r.turns(20)
		if r.k.set[link].(netstate.Link).MTU == l.MTU {
			t.Fatalf("change %d is not repaired", i)
		}
	}
	if r.k.set[r.address] == nil || r.ready() != v1alpha1.ReasonProgrammed {
		t.Errorf("Ready: %s", r.ready())
	}
}

// TestRestartsOfNamespaceAreNoFight shows that an External namespace which comes and goes
// is wired at once each time.
func TestRestartsOfNamespaceAreNoFight(t *testing.T) {
	r := newRing(t)
	r.a.Spec.Target.Netns.Lifecycle = v1alpha1.External
	r.set(r.a)
	r.turns(20)
	ns := netstate.Netns{Name: "net1"}
	host := netstate.Link{Name: r.e.resolver.Resources[own(r.a)].View.Host.Name}.Key()
	for i := range 3 * fights.FewRepairs {
		r.k.remove(ns.Key())
		r.k.remove(host)
		r.k.fn(kernel.Event{Key: ns.Key(), Gone: true})
		r.turns(20)
		r.k.set.Add(ns)
		r.k.fn(kernel.Event{Key: ns.Key(), Object: ns})
		r.turns(20)
		if r.k.set[host] == nil || r.ready() != v1alpha1.ReasonProgrammed {
			t.Fatalf("start %d: %s", i+1, r.ready())
		}
	}
}

// TestFightDelaysNoWantedChange shows that a change by the user goes through at once.
func TestFightDelaysNoWantedChange(t *testing.T) {
	r := newRing(t)
	r.fight(r.address)
	if r.undo(r.address) {
		t.Fatal("it is put back without a pause")
	}
	r.a.Spec.Addresses = append(r.a.Spec.Addresses, "10.0.0.3/24")
	r.set(r.a)
	r.turns(20)
	if added := (netstate.Key{Kind: netstate.KindAddress, Netns: "net1", Link: "eth0", Name: "10.0.0.3/24"}); r.k.set[added] == nil || r.k.set[r.address] == nil {
		t.Error("the addresses are not there")
	}
}

// TestFightOverFilterNeverWaits shows that what closes something is put back at once
// each time, with one line per pause.
func TestFightOverFilterNeverWaits(t *testing.T) {
	r := newRing(t)
	var filter netstate.Key
	for k := range r.n.set {
		if k.Kind == netstate.KindPortFilter {
			filter = k
		}
	}
	lose := func() {
		delete(r.n.set, filter)
		r.e.firewallChanged()
		r.turns(20)
		if r.n.set[filter] == nil {
			t.Fatal("the filter is not put back at once")
		}
	}
	for range fights.FewBouts {
		lose()
		r.later(fights.FirewallBout)
	}
	lose()
	if c := r.r.status[own(r.a)].Ready; c.Status != "False" || c.Reason != v1alpha1.ReasonContested || !strings.Contains(c.Message, "nft monitor") {
		t.Fatalf("Ready: %s %s", c.Reason, c.Message)
	}
	lines := strings.Count(r.log.String(), "\n")
	for range 30 {
		lose()
	}
	if n := strings.Count(r.log.String(), "\n") - lines; n > 0 {
		t.Errorf("%d lines within a pause", n)
	}
	r.later(fights.Window)
	if r.ready() != v1alpha1.ReasonProgrammed {
		t.Errorf("not calm: %s", r.ready())
	}
}

// TestReloadOfFirewallIsNoFight shows that a burst of flushes is put back without a word.
func TestReloadOfFirewallIsNoFight(t *testing.T) {
	r := newRing(t)
	for range 3 * fights.FewRepairs {
		clear(r.n.set)
		r.e.firewallChanged()
		r.turns(20)
	}
	if len(r.n.set) == 0 || r.ready() != v1alpha1.ReasonProgrammed {
		t.Errorf("Ready: %s, %d objects", r.ready(), len(r.n.set))
	}
}

// TestFightOverIsolationNeverWaits shows that a port which another program lets reach its
// neighbours, or puts into another bridge, is closed at once each time.
func TestFightOverIsolationNeverWaits(t *testing.T) {
	for name, open := range map[string]func(*netstate.Link){
		"isolated": func(l *netstate.Link) { l.Isolated = !l.Isolated },
		"master":   func(l *netstate.Link) { l.Master = "br-other" },
	} {
		r := newRing(t)
		key := netstate.Link{Name: r.e.resolver.Resources[own(r.a)].View.Host.Name}.Key()
		want := r.k.set[key]
		for i := range 3 * fights.FewRepairs {
			l := want.(netstate.Link)
			open(&l)
			r.k.set.Add(l)
			r.k.fn(kernel.Event{Key: key, Object: l})
			r.turns(20)
			if r.k.set[key] != want {
				t.Fatalf("%s: repair %d waits", name, i+1)
			}
		}
		if r.ready() != v1alpha1.ReasonContested {
			t.Errorf("%s: Ready: %s", name, r.ready())
		}
	}
}

// TestFightOverFirewallRulesNeverWaits shows the same for rules that are no objects.
func TestFightOverFirewallRulesNeverWaits(t *testing.T) {
	r := newRing(t)
	for range fights.FewBouts + 1 {
		r.n.mangled = true
		r.e.firewallChanged()
		r.turns(20)
		if r.n.mangled {
			t.Fatal("the rules are not put back at once")
		}
		r.later(fights.FirewallBout)
	}
	if c := r.r.status[own(r.a)].Ready; c.Reason != v1alpha1.ReasonContested || !strings.HasPrefix(c.Message, "rules of the firewall were changed 6 times in 5s") {
		t.Errorf("Ready: %s %s", c.Reason, c.Message)
	}
	if n := strings.Count(r.log.String(), "put back again and again"); n != 1 {
		t.Errorf("%d lines:\n%s", n, r.log.String())
	}
}
