package engine

import (
	"strings"
	"testing"

	"github.com/patchbay-dev/patchbay/api/v1alpha1"
	"github.com/patchbay-dev/patchbay/nodeagent/kernel"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
)

// TestRulesOfOthersInATarget has a rule come and go in one attachment's namespace: the
// other attachment is not looked at.
func TestRulesOfOthersInATarget(t *testing.T) {
	w := newWorld(t)
	a, b := nsa("a", "red"), nsa("b", "red")
	w.set(bnet("red", "10.0.0.0/24"))
	w.set(a)
	w.set(b)
	w.turns(20)
	ready := func(o *v1alpha1.NamespaceAttachment) string {
		c := w.r.status[own(o)].Ready
		return string(c.Status) + " " + c.Reason
	}
	drops := netstate.Routing{Rules: []netstate.RouteRule{{Family: netstate.IPv4, Priority: 5, Drops: "blackhole", Longer: -1}}}
	for _, c := range []struct {
		routing netstate.Routing
		want    string
	}{{drops, "False RoutedElsewhere"}, {drops, "False RoutedElsewhere"}, {netstate.Routing{}, "True Programmed"}} {
		w.k.routings = map[string]netstate.Routing{"a": c.routing}
		w.k.fn(kernel.Event{Key: netstate.Key{Kind: netstate.KindRoute, Netns: "a", Name: "rule 5"}})
		w.later(nodePause)
		w.turns(20)
		if ready(a) != c.want || ready(b) != "True Programmed" {
			t.Errorf("with %v: a is %s, b is %s", c.routing, ready(a), ready(b))
		}
	}
	// What comes by events unseen is found when events were lost.
	w.k.routings = map[string]netstate.Routing{"b": drops}
	w.k.fn(kernel.Event{Lost: true})
	w.turns(20)
	if ready(b) != "False RoutedElsewhere" {
		t.Errorf("after lost events: b is %s", ready(b))
	}
}

// TestXDPOnALinkOfOurs shows that a program which sees packets first is said of the
// link's owner, and that nothing is done about it.
func TestXDPOnALinkOfOurs(t *testing.T) {
	w := newWorld(t)
	a := nsa("a", "red")
	w.set(bnet("red", "10.0.0.0/24"))
	w.set(a)
	w.turns(20)
	key := netstate.Link{Netns: "a", Name: "eth0"}.Key()
	for _, xdp := range []bool{true, true, false} {
		l := w.k.set[key].(netstate.Link)
		l.XDP = xdp
		w.k.set[key] = l
		w.k.fn(kernel.Event{Key: key, Object: l})
		w.turns(20)
		c := w.r.status[own(a)].Ready
		if said := strings.Count(c.Message, "(XDP) at a/eth0"); c.Status != "True" || (said == 1) != xdp || said > 1 {
			t.Errorf("with a program %t: %s %s", xdp, c.Status, c.Message)
		}
		if got := w.k.set[key].(netstate.Link).XDP; got != xdp {
			t.Errorf("the link was changed: XDP %t", got)
		}
	}
}
