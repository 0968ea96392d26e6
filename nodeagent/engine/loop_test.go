package engine

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/patchbay-dev/patchbay/api/v1alpha1"
	"github.com/patchbay-dev/patchbay/nodeagent/kernel"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
	"github.com/patchbay-dev/patchbay/nodeagent/plan"
)

// TestRetryKeepsNoAddress shows that an attachment whose second family is
// exhausted does not keep an address of the first with every retry.
func TestRetryKeepsNoAddress(t *testing.T) {
	w := newWorld(t)
	w.set(bnet("red", "10.0.0.0/24", "fd00::/126"))
	w.set(nsa("a", "red"))
	w.set(nsa("b", "red"))
	w.set(nsa("c", "red"))
	w.turns(20)
	for range 30 { // anything that makes it look again
		w.set(nsa("c", "red"))
		w.turns(20)
	}
	n := 0
	for _, c := range w.e.resolver.Claims(own(nsa("c", ""))) {
		if c.Thing.Address.Is4() {
			n++
		}
	}
	t.Logf("lab/c is %s and holds %d IPv4 addresses", w.r.status[own(nsa("c", "red"))].Ready.Reason, n)
	if n > 1 {
		t.Errorf("it holds %d IPv4 addresses", n)
	}
}

// TestMovedAttachmentFreesItsAddress shows that an address is free again when
// its attachment moves to another network.
func TestMovedAttachmentFreesItsAddress(t *testing.T) {
	w := newWorld(t)
	w.set(bnet("red", "10.0.0.0/30"))
	w.set(bnet("blue", "10.1.0.0/24"))
	w.set(nsa("a", "red"))
	w.turns(20)
	w.set(nsa("a", "blue"))
	w.turns(20)
	w.set(nsa("b", "red"))
	w.turns(20)
	c := w.r.status[own(nsa("b", "red"))].Ready
	if c.Status != "True" {
		t.Errorf("b: %s %s", c.Reason, c.Message)
	}
}

// TestWhatCannotBeSeenIsNotForgotten shows that an object which could not be
// observed is removed once it can be.
func TestWhatCannotBeSeenIsNotForgotten(t *testing.T) {
	w := newWorld(t)
	w.set(bnet("red", "10.0.0.0/24"))
	w.set(nsa("a", "red"))
	w.turns(20)
	w.e.Synced(true)
	w.k.obsErr = func(k netstate.Key) error {
		if k.Kind == netstate.KindLink && k.Link != "br-red" {
			return errors.New("dump was interrupted")
		}
		return nil
	}
	w.e.Update(nil, []netstate.Owner{own(nsa("a", "red"))})
	w.turns(20)
	w.k.obsErr = nil
	w.e.everything()
	w.turns(20)
	for k := range w.k.set {
		if k.Kind == netstate.KindLink && k.Link != "br-red" {
			t.Errorf("left: %s; Removed called %d times", k, w.r.removed[own(nsa("a", "red"))])
		}
	}
	t.Logf("inventories: %d", w.k.inv)
}

// TestFailingRemovalPauses shows that a removal that fails is tried again after a
// pause, also for one who waited for a claim.
func TestFailingRemovalPauses(t *testing.T) {
	w := newWorld(t)
	w.set(bnet("red", "10.0.0.0/24"))
	w.set(nsa("a", "red"))
	w.set(nsa("b", "red"))
	w.set(pp("one", "a", "", 80))
	two := pp("two", "b", "", 80)
	two.Spec.Ports = append(two.Spec.Ports, v1alpha1.PublishedPort{Protocol: "TCP", HostPort: 81})
	w.set(two)
	w.turns(20)
	w.e.Synced(true)
	w.n.err = errors.New("nft: no")
	before := w.k.passes
	w.e.Update(nil, []netstate.Owner{own(two)})
	n := w.turns(500)
	t.Logf("turns without pause: %d, passes %d", n, w.k.passes-before)
	if n == 500 {
		t.Errorf("no pause in %d turns", n)
	}
}

// TestLoserDoesNotSpin shows that who loses a claim waits for it at rest.
func TestLoserDoesNotSpin(t *testing.T) {
	w := newWorld(t)
	w.set(bnet("red", "10.0.0.0/24"))
	one, two := nsa("one", "red"), nsa("two", "red")
	one.Spec.HostInterface, two.Spec.HostInterface = "veth1", "veth1"
	w.set(one)
	w.set(two)
	if n := w.turns(50); n == 50 {
		t.Error("the loser of an interface name is looked at without end")
	}
	if c := w.r.status[own(two)].Ready; c.Reason != v1alpha1.ReasonInterfaceConflict {
		t.Errorf("two: %s %s", c.Reason, c.Message)
	}
}

// TestWaiterIsForgotten shows that one who waited for a claim and is gone is
// reported removed once.
func TestWaiterIsForgotten(t *testing.T) {
	w := newWorld(t)
	w.set(bnet("red", "10.0.0.0/24"))
	w.set(nsa("a", "red"))
	w.set(nsa("b", "red"))
	w.set(pp("one", "a", "", 80))
	w.turns(20)
	two := pp("two", "b", "", 80)
	w.set(two)
	w.turns(20)
	w.e.Synced(true)
	w.e.Update(nil, []netstate.Owner{own(two)})
	w.turns(20)
	w.set(pp("one", "a", "", 81))
	w.turns(20)
	w.set(pp("one", "a", "", 82))
	w.turns(20)
	if w.r.removed[own(two)] != 1 {
		t.Errorf("Removed called %d times", w.r.removed[own(two)])
	}
}

// crowd is a world with a network and twelve attachments, enough for the brake.
func crowd(t *testing.T) *world {
	w := newWorld(t)
	w.set(bnet("red", "10.0.0.0/24"))
	for i := range 12 {
		w.set(nsa(fmt.Sprint("a", i), "red"))
	}
	w.turns(20)
	w.e.Synced(true)
	w.turns(20)
	return w
}

// TestBrakeDoesNotSpin shows that a failing removal rests while the brake is on.
func TestBrakeDoesNotSpin(t *testing.T) {
	w := crowd(t)
	w.k.appErr = func(s plan.Step) error {
		if s.Op == plan.Delete {
			return errors.New("EBUSY")
		}
		return nil
	}
	w.e.Update(nil, []netstate.Owner{own(nsa("a0", "red"))})
	w.turns(20)
	var gone []netstate.Owner
	for i := 1; i < 12; i++ {
		gone = append(gone, own(nsa(fmt.Sprint("a", i), "red")))
	}
	w.e.Update(nil, gone)
	w.turns(20)
	w.later(300 * time.Millisecond)
	n := w.turns(500)
	t.Logf("braked %d; turns without pause %d", w.r.braked, n)
	if n == 500 {
		t.Errorf("no pause in %d turns", n)
	}
}

// TestSharedFailureRests: two owners that fail at an object of both do not have each other
// look again without end.
func TestSharedFailureRests(t *testing.T) {
	w := newWorld(t)
	w.e.Synced(true)
	w.set(bnet("red", "10.0.0.0/24"))
	for i, name := range []string{"a", "b"} {
		a := nsa(name, "red")
		a.Spec.Target.Netns.Name, a.Spec.Target.Netns.Lifecycle = "missing", v1alpha1.External
		a.Spec.Interface = v1alpha1.InterfaceName(fmt.Sprint("eth", i))
		w.set(a)
		if n := w.turns(100); n == 100 {
			t.Fatalf("no pause in %d turns after lab/%s", n, name)
		}
	}
	w.later(time.Minute)
	if n := w.turns(100); n == 100 {
		t.Errorf("no pause in %d turns a minute later", n)
	}
}

// TestBrakeKeepsRepairing: while the removal of gone resources waits, their objects are put
// back like any other ones.
func TestBrakeKeepsRepairing(t *testing.T) {
	w := crowd(t)
	gone := []netstate.Owner{own(bnet("red"))}
	for i := range 12 {
		gone = append(gone, own(nsa(fmt.Sprint("a", i), "red")))
	}
	w.e.Update(nil, gone)
	w.turns(20)
	if w.r.braked != 1 {
		t.Fatalf("braked %d times", w.r.braked)
	}
	kernel0, rules := maps.Clone(w.k.set), maps.Clone(w.n.set)
	differs := func(what string) {
		t.Helper()
		w.turns(50)
		if !maps.Equal(w.k.set, kernel0) || !maps.Equal(w.n.set, rules) {
			t.Errorf("not put back: %s", what)
		}
	}
	for k := range kernel0 {
		if k.Kind == netstate.KindLink && k.Netns == "" && k.Link != "br-red" {
			w.k.step(plan.Step{Op: plan.Delete, Key: k, Old: kernel0[k]})
			w.k.fn(kernel.Event{Key: k, Gone: true})
			differs("a veth")
			break
		}
	}
	clear(w.n.set)
	w.e.firewallChanged()
	differs("the flushed firewall")
	w.later(10 * time.Minute)
	w.turns(50)
	if len(w.k.set)+len(w.n.set) > 0 {
		t.Errorf("left when the brake is over: %d and %d objects", len(w.k.set), len(w.n.set))
	}
}

// TestNodeErrorKeepsFacts shows that a node that cannot be read is taken for what
// it was, and read again soon.
func TestNodeErrorKeepsFacts(t *testing.T) {
	w := newWorld(t)
	w.turn()
	w.k.nodeErr = errors.New("interrupted")
	w.e.everything()
	w.set(bnet("red", "10.0.0.0/24"))
	w.set(nsa("a", "red"))
	if d := w.turn(); d > time.Minute {
		t.Errorf("looks again in %s", d)
	}
	if l, ok := w.k.set[netstate.Link{Name: "br-red"}.Key()].(netstate.Link); !ok || l.MTU != 9000 {
		t.Errorf("built with the facts of no node: %v", l)
	}
}

// TestPublishFollowsItsAttachment shows that a publish is built as soon as what it
// waits for is, whatever its own pause.
func TestPublishFollowsItsAttachment(t *testing.T) {
	w := newWorld(t)
	a := nsa("a", "red")
	a.Spec.Target.Netns.Lifecycle = v1alpha1.External
	w.set(bnet("red", "10.0.0.0/24"))
	w.set(a)
	w.set(pp("web", "a", "", 80))
	w.turns(20)
	for range 8 {
		w.e.everything()
		w.turn()
	} // as eight retries
	ns := netstate.Netns{Name: "a"}
	w.k.set.Add(ns)
	w.k.fn(kernel.Event{Key: ns.Key()})
	w.turns(20)
	d := w.turn()
	t.Logf("a %v; web %v, next look in %s", w.r.status[own(a)].Ready.Status, w.r.status[own(pp("web", "a", "", 80))].Ready.Message, d)
	if w.r.status[own(pp("web", "a", "", 80))].Ready.Status != "True" {
		t.Errorf("publish stays closed")
	}
}

// TestExternalBridgeGone shows that a network is not Ready without its External bridge.
func TestExternalBridgeGone(t *testing.T) {
	w := newWorld(t)
	w.k.node.Links["br-ext"] = netstate.NodeLink{Type: netstate.Bridge, MTU: 1500}
	n := bnet("ext")
	n.Spec.Bridge.Name, n.Spec.Bridge.Lifecycle = "br-ext", v1alpha1.External
	n.Spec.Gateway.Mode = v1alpha1.GatewayNone
	w.set(n)
	w.turns(20)
	t.Log(w.r.status[own(n)].Ready)
	delete(w.k.node.Links, "br-ext")
	w.k.fn(kernel.Event{Key: netstate.Link{Name: "br-ext"}.Key(), Gone: true})
	w.turns(20)
	if c := w.r.status[own(n)].Ready; c.Status == "True" {
		t.Errorf("the bridge is gone: %s %s", c.Reason, c.Message)
	}
}

// TestForwardingOff shows that Patchbay switches forwarding on when the program that had it
// on switches it off.
func TestForwardingOff(t *testing.T) {
	w := newWorld(t)
	w.set(bnet("red", "10.0.0.0/24"))
	w.set(nsa("a", "red"))
	w.set(pp("web", "a", "", 80))
	w.turns(20)
	w.k.node.Forwarding = map[netstate.Family]bool{}
	w.k.fn(kernel.Event{Key: netstate.Key{Kind: netstate.KindSysctl}})
	w.k.fn(kernel.Event{Key: netstate.Key{Kind: netstate.KindSysctl, Link: "eth0"}})
	w.turns(20)
	if w.k.set[netstate.Sysctl{Path: "net/ipv4/ip_forward", Restore: true}.Key()] == nil {
		t.Errorf("forwarding stays off; red is %v", w.r.status[own(bnet("red"))].Ready.Status)
	}
}

// TestOverlapOnUplink shows that a subnet is taken when the route that was in its
// way is gone.
func TestOverlapOnUplink(t *testing.T) {
	w := newWorld(t)
	w.k.node.Links["eth1"] = netstate.NodeLink{Type: netstate.OtherLink, MTU: 1500}
	w.k.node.Routes = []netstate.ForeignRoute{{Table: netstate.TableMain, Own: true, Link: "eth1", Dst: pfx("10.5.0.0/24")}}
	up := bnet("lan")
	up.Spec.Gateway.Mode = v1alpha1.GatewayNone
	up.Spec.Uplink = &v1alpha1.UplinkSpec{Interface: "eth1"}
	w.set(up)
	w.set(bnet("red", "10.5.0.0/24"))
	w.turns(20)
	t.Log(w.r.status[own(bnet("red"))].Ready.Reason)
	w.k.node.Routes = nil
	w.k.fn(kernel.Event{Key: netstate.Address{Link: "eth1", Prefix: pfx("10.5.0.1/24")}.Key(), Gone: true})
	w.turns(20)
	if c := w.r.status[own(bnet("red"))].Ready; c.Status != "True" {
		t.Errorf("%s %s", c.Reason, c.Message)
	}
}

// TestAddressesSwapInPlace shows that two attachments swap static addresses
// without losing their links.
func TestAddressesSwapInPlace(t *testing.T) {
	w := newWorld(t)
	w.set(bnet("red", "10.0.0.0/24"))
	w.set(nsa("a", "red", "10.0.0.2/24"))
	w.set(nsa("b", "red", "10.0.0.3/24"))
	w.turns(20)
	deleted := 0
	w.k.appErr = func(s plan.Step) error {
		if s.Op == plan.Delete && s.Key.Kind == netstate.KindLink {
			deleted++
		}
		return nil
	}
	w.e.Update([]Input{yes(InputOf(nsa("a", "red", "10.0.0.3/24"))), yes(InputOf(nsa("b", "red", "10.0.0.2/24")))}, nil)
	n := w.turns(20)
	t.Logf("turns %d, links deleted %d, %v %v", n, deleted, w.r.status[own(nsa("a", ""))].Ready.Status, w.r.status[own(nsa("b", ""))].Ready.Status)
	if deleted > 0 {
		t.Errorf("links torn down for a swap of addresses")
	}
}

// TestRefusalsAndTheBrake: attachments whose network vanished count as gone; an attachment
// that is refused for another reason goes at once.
func TestRefusalsAndTheBrake(t *testing.T) {
	for reason, stays := range map[string]bool{v1alpha1.ReasonNetworkNotFound: true, v1alpha1.ReasonNamespaceNotAllowed: false} {
		t.Run(reason, func(t *testing.T) {
			w := crowd(t)
			var refused []Input
			for i := range 12 {
				in := InputOf(nsa(fmt.Sprint("a", i), "red"))
				in.Accepted = metav1.Condition{Type: "Accepted", Status: "False", Reason: reason}
				refused = append(refused, in)
			}
			var gone []netstate.Owner
			if stays {
				// As a folder's feed does, which finds no network for them.
				gone = []netstate.Owner{own(bnet("red"))}
			}
			w.e.Update(refused, gone)
			w.turns(20)
			links := 0
			for k := range w.k.set {
				if k.Kind == netstate.KindLink {
					links++
				}
			}
			if want := map[bool]int{true: 1 + 2*12, false: 1}[stays]; links < want || !stays && links > want || stays != (w.r.braked > 0) {
				t.Errorf("%d links left, braked %d times", links, w.r.braked)
			}
		})
	}
}

// TestResyncReadsMarks shows that a resync looks for what bears our mark.
func TestResyncReadsMarks(t *testing.T) {
	w := newWorld(t)
	w.set(bnet("red", "10.0.0.0/24"))
	w.turns(20)
	w.e.Synced(true)
	w.turns(20)
	w.e.everything()
	w.turns(20)
	if w.k.inv == 1 {
		t.Errorf("inventories: %d", w.k.inv)
	}
}

// TestForeignEventsAreGathered shows that a storm of foreign events does not read
// the node for each.
func TestForeignEventsAreGathered(t *testing.T) {
	w := newWorld(t)
	a := nsa("a", "red")
	a.Spec.Target.Netns.Lifecycle = v1alpha1.External
	w.set(bnet("red", "10.0.0.0/24"))
	w.set(a)
	w.turns(20)
	before := w.k.nodes
	for i := range 50 {
		w.k.fn(kernel.Event{Key: netstate.Key{Kind: netstate.KindRoute, Link: "eth0", Name: fmt.Sprintf("10.9.%d.0/24", i)}})
		w.turn()
	}
	if n := w.k.nodes - before; n > 5 {
		t.Errorf("50 foreign events led to %d readings of the node", n)
	}
}

func pfx(s string) netip.Prefix { return netip.MustParsePrefix(s) }

// TestStaticComesBeforeAllocated shows that an address which an attachment names is not
// given to another in the same pass.
func TestStaticComesBeforeAllocated(t *testing.T) {
	w := newWorld(t)
	w.e.Update([]Input{yes(InputOf(bnet("red", "10.0.0.0/24"))), yes(InputOf(nsa("a", "red"))), yes(InputOf(nsa("z", "red", "10.0.0.2/24")))}, nil)
	w.turns(20)
	for _, name := range []string{"a", "z"} {
		if c := w.r.status[own(nsa(name, ""))].Ready; c.Status != "True" {
			t.Errorf("%s: %s %s", name, c.Reason, c.Message)
		}
	}
}

// TestRepairsAreCounted shows that objects which another program takes away are counted
// with the network once per repair, that the count goes on from the record, and that no
// edit of a resource is taken for a repair.
func TestRepairsAreCounted(t *testing.T) {
	w := newWorld(t)
	in := yes(InputOf(bnet("red", "10.0.0.0/24")))
	in.Repairs = 7
	w.e.Set(in)
	w.turns(20)
	repairs := func() int64 { return w.r.status[in.Owner()].Bridge.Repairs }
	if got := repairs(); got != 7 {
		t.Fatalf("built and counts %d, want 7 as recorded", got)
	}
	clear(w.n.set)
	w.e.firewallChanged()
	w.turns(20)
	if got := repairs(); got != 8 {
		t.Errorf("after a flush it counts %d, want 8", got)
	}
	link := netstate.Link{Name: "br-red"}.Key()
	w.k.remove(link)
	w.k.fn(kernel.Event{Key: link, Gone: true})
	w.turns(20)
	if got := repairs(); got != 9 {
		t.Errorf("after its bridge was deleted it counts %d, want 9", got)
	}
	edited := bnet("red", "10.0.0.0/24")
	edited.Spec.Isolation.Ports = true
	w.set(edited)
	w.turns(20)
	if got := repairs(); got != 9 {
		t.Errorf("edited it counts %d, want 9", got)
	}
}
