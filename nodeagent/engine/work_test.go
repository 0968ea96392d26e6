package engine

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/patchbay-dev/patchbay/nodeagent/kernel"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
	"github.com/patchbay-dev/patchbay/nodeagent/plan"
)

// countingKernel counts the objects that are observed.
type countingKernel struct {
	*fake
	observed map[netstate.Kind]int
}

func (c *countingKernel) Observe(keys []netstate.Key) (netstate.Set, map[netstate.Key]error) {
	for _, k := range keys {
		if !k.Kind.Firewall() {
			c.observed[k.Kind]++
		}
	}
	return c.fake.Observe(keys)
}

// populated is a world of four networks with n attachments and n publishes.
func populated(t *testing.T, n int) *world {
	w := newWorld(t)
	w.e.Synced(true)
	for i := range 4 {
		w.set(bnet(fmt.Sprint("red", i), fmt.Sprintf("10.%d.0.0/16", i)))
	}
	for i := range n {
		name := fmt.Sprint("a", i)
		w.set(nsa(name, fmt.Sprint("red", i%4)))
		w.set(pp(fmt.Sprint("web", i), name, "", int32(10000+i)))
	}
	w.turns(20)
	w.later(nodePause)
	w.turns(20)
	if s := w.r.status[own(pp(fmt.Sprint("web", n-1), "", "", 1))].Ready; s.Status != "True" {
		t.Fatalf("the last publish is not ready: %s; %v", s.Message, w.r.status[own(nsa(fmt.Sprint("a", n-1), ""))].Ready)
	}
	return w
}

// TestWorkIsWhatAChangeConcerns holds a change among 3,000 attachments and 3,000 publishes
// to the owners compiled, the objects observed and the steps taken that the same change
// costs among 12.
func TestWorkIsWhatAChangeConcerns(t *testing.T) {
	const few, many = 12, 3000
	small, large := populated(t, few), populated(t, many)
	veth := func(w *world) netstate.Key {
		for k, o := range w.k.set {
			if l, ok := o.(netstate.Link); ok && l.Peer.Netns == "a5" {
				return k
			}
		}
		w.t.Fatal("a5 has no veth")
		return netstate.Key{}
	}
	event := func(o netstate.Object, gone bool) func(*world) {
		return func(w *world) { w.k.fn(kernel.Event{Key: o.Key(), Object: o, Gone: gone}) }
	}
	guest := netstate.Route{Link: "eth0", Dst: pfx("203.0.113.7/32")}
	damage := func(which func(netstate.Key) bool) func(*world) {
		return func(w *world) {
			maps.DeleteFunc(w.n.set, func(k netstate.Key, _ netstate.Object) bool { return which(k) })
			w.e.firewallChanged()
		}
	}
	for _, c := range []struct {
		what   string
		change func(*world)
		// all says that the steps are as many as there are publishes.
		all bool
	}{
		{what: "an attachment more", change: func(w *world) { w.set(nsa("new", "red0")) }},
		{what: "an attachment less", change: func(w *world) { w.e.Remove(yes(InputOf(nsa("new", "red0")))) }},
		{what: "a publish edited", change: func(w *world) { w.set(pp("web5", "a5", "", 9)) }},
		{what: "a veth deleted", change: func(w *world) {
			k := veth(w)
			w.k.step(plan.Step{Op: plan.Delete, Key: k, Old: w.k.set[k]})
			w.k.fn(kernel.Event{Key: k, Gone: true})
		}},
		{what: "a foreign link", change: func(w *world) { w.foreignLink("eth7") }},
		{what: "a foreign link that goes", change: func(w *world) {
			delete(w.k.node.Links, "eth7")
			event(netstate.Link{Name: "eth7"}, true)(w)
		}},
		{what: "a foreign route", change: func(w *world) {
			w.k.node.Routes = []netstate.ForeignRoute{{Table: netstate.TableMain, Dst: pfx("203.0.113.7/32"), Link: "eth0"}}
			event(guest, false)(w)
		}},
		{what: "a foreign route that goes", change: func(w *world) { w.k.node.Routes = nil; event(guest, true)(w) }},
		{what: "a foreign rule", change: damage(func(netstate.Key) bool { return false })},
		{what: "a damaged rule", change: damage(func(k netstate.Key) bool {
			return k.Kind == netstate.KindPublish && strings.Contains(fmt.Sprint(k), "10007")
		})},
		{what: "a flush", all: true, change: damage(func(netstate.Key) bool { return true })},
	} {
		t.Run(c.what, func(t *testing.T) {
			work := func(w *world) (compiled string, steps int, observed map[netstate.Kind]int) {
				count := &countingKernel{w.k, map[netstate.Kind]int{}}
				w.e.Kernel = count
				h := newHistory(w)
				c.change(w)
				w.turns(20)
				w.later(nodePause)
				w.turns(20)
				return strings.Join(slices.Sorted(maps.Keys(h.compiled)), " "), len(h.steps), count.observed
			}
			compiled, steps, observed := work(small)
			compiledMany, stepsMany, observedMany := work(large)
			t.Logf("compiled %.200q, %d steps, observed %v; among %d: %d steps", compiled, steps, observed, many, stepsMany)
			if compiled != compiledMany {
				t.Errorf("compiled are %.200q, among %d %.200q", compiled, many, compiledMany)
			}
			if !maps.Equal(observed, observedMany) {
				t.Errorf("observed are %v, among %d %v", observed, many, observedMany)
			}
			if !c.all && steps != stepsMany {
				t.Errorf("%d steps, among %d %d", steps, many, stepsMany)
			}
			if c.all && (stepsMany < many || len(observedMany) > 0 || compiledMany != "") {
				t.Errorf("a flush of %d publishes takes %d steps, observes %v and compiles %.200q", many, stepsMany, observedMany, compiledMany)
			}
		})
	}
}
