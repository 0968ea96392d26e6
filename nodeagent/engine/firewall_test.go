package engine

import (
	"context"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/patchbay-dev/patchbay/api/v1alpha1"
	"github.com/patchbay-dev/patchbay/nodeagent/firewall/program"
	"github.com/patchbay-dev/patchbay/nodeagent/kernel"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
	"github.com/patchbay-dev/patchbay/nodeagent/plan"
)

// await turns the loop whenever it is woken, until it is as wanted.
func (w *world) await(what string, is func() bool) {
	w.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !is(); {
		if time.Now().After(deadline) {
			w.t.Fatalf("not in 20 s: %s", what)
		}
		next := w.turn()
		select {
		case <-w.e.wake:
		case <-time.After(min(next, 10*time.Millisecond)):
		}
	}
}

func (w *world) ready(o netstate.Owner, status, part string) bool {
	c := w.r.status[o].Ready
	return string(c.Status) == status && strings.Contains(c.Message, part)
}

func (w *world) linksOf(name string) (links []netstate.Key) {
	for k := range w.k.set {
		if k.Kind == netstate.KindLink && (k.Netns == name || k.Link == name) {
			links = append(links, k)
		}
	}
	return links
}

// TestHangingFirewall: while a program of the firewall hangs, Ready says so, links of
// built attachments are repaired, and nothing new comes up. When it ends, everything goes on.
func TestHangingFirewall(t *testing.T) {
	w := newWorld(t)
	red, a, b := bnet("red", "10.0.0.0/24"), nsa("a", "red"), nsa("b", "red")
	w.set(red)
	w.set(a)
	w.await("built", func() bool { return w.ready(own(a), "True", "") })
	hangs := &program.NoAnswer{Program: "fake", After: time.Second}
	w.n.err, w.n.unreadable, w.n.stale = hangs, hangs, true
	w.e.firewallChanged()
	w.await("said", func() bool { return w.ready(own(a), "False", "fake did not answer within") })
	if c := w.r.status[own(red)].Ready; c.Reason != v1alpha1.ReasonKernelError {
		t.Errorf("the network is %s %s: %s", c.Status, c.Reason, c.Message)
	}

	w.set(b)
	lost := w.linksOf("a")
	if len(lost) == 0 {
		t.Fatal("no link to lose")
	}
	for _, k := range lost {
		w.k.remove(k)
		w.e.event(kernel.Event{Key: k, Gone: true})
	}
	w.await("repaired meanwhile", func() bool { return len(w.linksOf("a")) == len(lost) })
	for range 20 {
		w.turn()
	}
	if up := slices.ContainsFunc(w.linksOf("b"), func(k netstate.Key) bool { return w.k.set[k].(netstate.Link).Up }); up {
		t.Error("a new attachment is up beside a firewall that is not known")
	}
	w.n.err, w.n.unreadable = nil, nil
	w.e.firewallChanged()
	w.await("Ready again", func() bool {
		return w.ready(own(a), "True", "") && w.ready(own(b), "True", "") && w.ready(own(red), "True", "")
	})
}

// TestAlive: a loop that waits is alive, and one that is kept in a turn is not.
func TestAlive(t *testing.T) {
	w := newWorld(t)
	w.set(bnet("red", "10.0.0.0/24"))
	w.turns(20)
	if err := w.e.Alive(); err != nil {
		t.Errorf("between turns: %v", err)
	}
	w.e.progressed()
	if err := w.e.Alive(); err != nil {
		t.Errorf("in a turn: %v", err)
	}
	w.e.progress.Store(time.Now().Add(-turnLimit - time.Second).UnixNano())
	if err := w.e.Alive(); err == nil || !strings.Contains(err.Error(), "the loop has not turned since") {
		t.Errorf("in a turn that does not get on: %v", err)
	}
}

// TestStraysInTheFirewall: a command plans and removes the rules that the firewall holds in
// Patchbay's name about a foreign interface, and sweeps nothing else; a foreign bridge that
// a network uses keeps its rules.
func TestStraysInTheFirewall(t *testing.T) {
	w := newWorld(t)
	external := bnet("lan", "10.9.0.0/24")
	external.Spec.Bridge.Name, external.Spec.Bridge.Lifecycle = "br0", v1alpha1.External
	external.Spec.Gateway.Mode = v1alpha1.GatewayExternal
	w.k.node.Links["br0"] = netstate.NodeLink{Type: netstate.Bridge, MTU: 1500}
	w.k.node.Links["br-lost"] = netstate.NodeLink{Type: netstate.Bridge, MTU: 1500, Ours: true}
	stray, lost := netstate.LinkPolicy{Link: "eth0", Guarded: true}, netstate.LinkPolicy{Link: "br-lost", Guarded: true}
	w.n.set.Add(stray, lost, netstate.LinkPolicy{Link: "br0", Guarded: true})
	w.set(external)
	planned, err := w.e.Plan()
	if err != nil {
		t.Fatal(err)
	}
	var removed []string
	for _, p := range planned {
		for _, s := range p.Steps {
			if s.Op == plan.Delete {
				removed = append(removed, p.Title+": "+s.Key.String())
			}
		}
	}
	if want := []string{"Without an owner: " + stray.Key().String()}; !slices.Equal(removed, want) {
		t.Errorf("planned to remove %v, want %v", removed, want)
	}
	w.e = w.engine()
	w.set(external)
	if _, err := w.e.RunOnce(context.Background(), 5*time.Second, nil); err != nil {
		t.Fatal(err)
	}
	if w.n.set[stray.Key()] != nil || w.n.set[lost.Key()] == nil || w.n.set[netstate.LinkPolicy{Link: "br0"}.Key()] == nil {
		t.Errorf("held at the end: %v", w.n.set)
	}
}

// TestFlushTouchesNoLink: rules that are gone from the firewall come back without a look at
// any other object, for the owners who miss them; and where another step of these owners is
// due, it is done as well.
func TestFlushTouchesNoLink(t *testing.T) {
	w := newWorld(t)
	red, a, b := bnet("red", "10.0.0.0/24"), nsa("a", "red"), nsa("b", "red")
	filtered := true
	red.Spec.Isolation.AntiSpoof = &filtered
	for _, o := range []v1alpha1.Object{red, a, b} {
		w.set(o)
	}
	w.turns(20)
	whole := maps.Clone(w.n.set)
	filters := netstate.Key{}
	for k := range whole {
		if k.Kind == netstate.KindPortFilter {
			filters = k
		}
	}
	if filters == (netstate.Key{}) {
		t.Fatal("no filter to lose")
	}
	for name, damage := range map[string]func(){
		"flush":        func() { w.n.set = netstate.Set{} },
		"one object":   func() { delete(w.n.set, filters) },
		"rules around": func() { w.n.mangled = true },
	} {
		looks, repairs := w.k.passes, map[netstate.Owner]int64{}
		for o, u := range w.e.resolver.Resources {
			repairs[o] = u.Repairs
		}
		damage()
		w.e.firewallChanged()
		w.turns(5)
		if w.k.passes != looks {
			t.Errorf("%s: the kernel is looked at %d times", name, w.k.passes-looks)
		}
		if !maps.Equal(w.n.set, whole) || w.n.mangled {
			t.Errorf("%s: the firewall has %d of %d objects again", name, len(w.n.set), len(whole))
		}
		counted := 0
		for o, u := range w.e.resolver.Resources {
			counted += int(u.Repairs - repairs[o])
		}
		if want := map[string]int{"flush": 3, "one object": 1, "rules around": 3}[name]; counted != want {
			t.Errorf("%s: %d repairs are counted, want %d", name, counted, want)
		}
	}
	w.n.set = netstate.Set{}
	for _, k := range w.linksOf("a") {
		w.k.remove(k)
		w.e.event(kernel.Event{Key: k, Gone: true})
	}
	w.e.firewallChanged()
	w.turns(20)
	if len(w.linksOf("a")) == 0 || !maps.Equal(w.n.set, whole) {
		t.Errorf("with links gone as well: links %v, %d of %d objects", w.linksOf("a"), len(w.n.set), len(whole))
	}
}
