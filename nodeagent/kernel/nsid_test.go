package kernel

import (
	"fmt"
	"strconv"
	"testing"

	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
	"github.com/patchbay-dev/patchbay/nodeagent/plan"
	"github.com/patchbay-dev/patchbay/test/sandbox"
)

// veths builds one veth in each of count namespaces: to a bridge on the host, or to the
// namespace before.
func veths(t *testing.T, k *Kernel, prefix string, count int, joined bool) []netstate.Object {
	t.Helper()
	var objects []netstate.Object
	for i := range count {
		here := netstate.End{Netns: prefix + strconv.Itoa(i), Name: "eth0"}
		apply(t, k, create(managed(here.Netns)))
		there, master := netstate.End{Name: fmt.Sprint("v", prefix, i)}, "br-red"
		if joined {
			if i%2 == 0 {
				continue
			}
			there, master = netstate.End{Netns: prefix + strconv.Itoa(i-1), Name: "eth0"}, ""
		}
		one, other := pair(there, here, master)
		apply(t, k, []plan.Step{{Op: plan.Create, Key: one.Key(), New: one, Peer: other}})
		objects = append(objects, one, other)
	}
	return objects
}

// TestPeersAreFoundInLinearTime: an agent that has just started knows no nsid, and more
// namespaces than it may have open. Each further veth costs the same few requests.
func TestPeersAreFoundInLinearTime(t *testing.T) {
	for _, joined := range []bool{false, true} {
		t.Run(fmt.Sprint("joined=", joined), func(t *testing.T) {
			if !sandbox.Enter(t) {
				return
			}
			k := open(t)
			build(t, k, bridge("br-red"))
			requests := func(objects []netstate.Object) uint64 {
				fresh := open(t)
				fresh.maxOpen = 4
				set := observe(t, fresh, keysOf(objects...)...)
				for _, o := range objects {
					want := o.(netstate.Link).Peer
					if got := set[o.Key()].(netstate.Link).Peer; got != want {
						t.Fatalf("%s: peer %s, want %s", o.Key(), got, want)
					}
				}
				return fresh.requests.Load()
			}
			objects := veths(t, k, "a", 20, joined)
			few := requests(objects)
			objects = append(objects, veths(t, k, "b", 60, joined)...)
			if many := requests(objects); many > 4*few+few/2 {
				t.Errorf("%d requests for 20 namespaces, %d for 80", few, many)
			} else {
				t.Logf("%d requests for 20 namespaces, %d for 80", few, many)
			}
		})
	}
}

// TestPeerEndsWithItsName: a peer counts until its link or its namespace's name is another
// one, be its index and name the same; the peers in other namespaces stay.
func TestPeerEndsWithItsName(t *testing.T) {
	m := newMonitor(&Kernel{}, func(Event) {})
	known := func(netns string) peer {
		put(m.links, netns, 2, seen{name: "eth0"})
		return peer{index: 2, end: netstate.End{Netns: netns, Name: "eth0"}, renewals: m.renewals[netns]}
	}
	one, other := known("one"), known("other")
	check := func(when string, want bool) {
		t.Helper()
		if got := m.counts(one); got != want {
			t.Errorf("%s: counts is %v", when, got)
		}
		if !m.counts(other) {
			t.Errorf("%s: the other one does not count", when)
		}
	}
	check("known", true)
	put(m.links, "one", 2, seen{name: "eth1"})
	check("with another name", false)
	put(m.links, "one", 2, seen{name: "eth0"})
	m.forgetNetns("one")
	check("without its namespace", false)
	fresh := known("one")
	check("in another namespace of the same name", false)
	if !m.counts(fresh) {
		t.Error("a peer in a renewed namespace does not count")
	}
}

// TestRequestsAreOfOneAttachment: to make, to observe and to remove one attachment sends the
// same requests among 60 attachments as among 3.
func TestRequestsAreOfOneAttachment(t *testing.T) {
	if !sandbox.Enter(t) {
		return
	}
	k := open(t)
	build(t, k, bridge("br-red"))
	requests := func(name string) (made, observed, removed uint64) {
		count := func(do func()) uint64 {
			before := k.requests.Load()
			do()
			return k.requests.Load() - before
		}
		var objects []netstate.Object
		made = count(func() { objects = veths(t, k, name, 1, false) })
		observed = count(func() { observe(t, k, keysOf(objects...)...) })
		removed = count(func() { apply(t, k, remove(objects[0])) })
		return made, observed, removed
	}
	veths(t, k, "a", 3, false)
	made, observed, removed := requests("few")
	veths(t, k, "b", 57, false)
	made60, observed60, removed60 := requests("many")
	if made != made60 || observed != observed60 || removed != removed60 {
		t.Errorf("%d requests to make, %d to observe, %d to remove; among 60: %d, %d, %d", made, observed, removed, made60, observed60, removed60)
	}
}
