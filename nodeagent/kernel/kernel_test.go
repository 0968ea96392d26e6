package kernel

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
	"github.com/patchbay-dev/patchbay/nodeagent/plan"
	"github.com/patchbay-dev/patchbay/test/netlab"
	"github.com/patchbay-dev/patchbay/test/sandbox"
)

var (
	red  = netstate.Owner{Kind: netstate.OwnerNetwork, Name: "red"}
	net1 = netstate.Owner{Kind: netstate.OwnerAttachment, Namespace: "lab", Name: "net1"}
)

func open(t testing.TB) *Kernel {
	t.Helper()
	k, err := Open(Options{Source: netstate.SourceLocal, NodeName: "node", RunDir: "/run"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := k.Close(); err != nil {
			t.Error(err)
		}
	})
	return k
}

// sh runs a shell command, as a person on the node would.
func sh(t testing.TB, format string, args ...any) string {
	t.Helper()
	return strings.TrimSpace(netlab.Shell(t, fmt.Sprintf(format, args...)))
}

func create(objects ...netstate.Object) []plan.Step { return steps(plan.Create, objects) }
func remove(objects ...netstate.Object) []plan.Step {
	s := steps(plan.Delete, objects)
	for i := range s {
		s[i].Old, s[i].New = s[i].New, nil
	}
	return s
}

func steps(op plan.Op, objects []netstate.Object) []plan.Step {
	var s []plan.Step
	for _, o := range objects {
		s = append(s, plan.Step{Op: op, Key: o.Key(), New: o})
	}
	return s
}

func apply(t testing.TB, k *Kernel, steps []plan.Step) {
	t.Helper()
	if err := errors.Join(k.Apply(steps)...); err != nil {
		t.Fatal(err)
	}
}

func observe(t testing.TB, k *Kernel, keys ...netstate.Key) netstate.Set {
	t.Helper()
	set, errs := k.Observe(keys)
	for key, err := range errs {
		t.Fatalf("%s: %v", key, err)
	}
	return set
}

func keysOf(objects ...netstate.Object) []netstate.Key {
	var keys []netstate.Key
	for _, o := range objects {
		keys = append(keys, o.Key())
	}
	return keys
}

// wantObserved compares what the kernel has of the keys with the objects.
func wantObserved(t testing.TB, k *Kernel, keys []netstate.Key, objects ...netstate.Object) {
	t.Helper()
	got := observe(t, k, keys...)
	for i, o := range objects {
		if have := got[o.Key()]; have != nil && plan.Same(o, have) {
			objects[i] = have
		}
	}
	if diff := cmp.Diff(netstate.Set{}.Add(objects...), got, equalObjects); diff != "" {
		t.Fatalf("observed (-want +got):\n%s", diff)
	}
}

// equalObjects compares the text about a namespace's obstacle by its beginning: advice
// follows.
var equalObjects = cmp.Comparer(func(a, b netstate.Object) bool {
	one, ok := a.(netstate.Netns)
	other, both := b.(netstate.Netns)
	if ok && both && (strings.HasPrefix(one.Instead, other.Instead) || strings.HasPrefix(other.Instead, one.Instead)) {
		one.Instead = other.Instead
		return one == other
	}
	return a == b
})

func instead(name, what string) netstate.Netns { return netstate.Netns{Name: name, Instead: what} }

func inventory(t testing.TB, k *Kernel) []netstate.Held {
	t.Helper()
	held, err := k.Inventory()
	if err != nil {
		t.Fatal(err)
	}
	return held
}

func hasObject(held []netstate.Held, o netstate.Object) bool {
	return slices.ContainsFunc(held, func(h netstate.Held) bool { return h.Object != nil && plan.Same(asListed(o), h.Object) })
}

// asListed is the object without what an inventory does not say: a link's peer and
// master.
func asListed(o netstate.Object) netstate.Object {
	if l, ok := o.(netstate.Link); ok {
		l.Peer, l.Master = netstate.End{}, ""
		return l
	}
	return o
}

func managed(name string) netstate.Netns { return netstate.Netns{Name: name, Managed: true} }

func loopback(netns string) netstate.Link {
	return netstate.Link{Netns: netns, Name: "lo", Type: netstate.Loopback, Mark: netstate.NetnsMark(netstate.SourceLocal, netns), Up: true}
}

func bridge(name string) netstate.Link {
	return netstate.Link{Name: name, Type: netstate.Bridge, MAC: netstate.MAC{2, 0, 0, 0, 1, 0}, MTU: 1500, Mark: netstate.Mark(netstate.SourceLocal, red), Up: true}
}

// pair is a veth between two ends; the first is primary.
func pair(a, b netstate.End, master string) (netstate.Link, netstate.Link) {
	one := netstate.Link{Type: netstate.Veth, MTU: 1400, Mark: netstate.Mark(netstate.SourceLocal, net1), Up: true}
	two := one
	one.Netns, one.Name, one.Peer, one.Primary, one.Master = a.Netns, a.Name, b, true, master
	two.Netns, two.Name, two.Peer = b.Netns, b.Name, a
	one.MAC, two.MAC = netstate.MAC{2, 0, 0, 0, 2, 1}, netstate.MAC{2, 0, 0, 0, 2, 2}
	one.Isolated = master != ""
	return one, two
}

func addressOn(link netstate.Link, prefix string) netstate.Address {
	return netstate.Address{Netns: link.Netns, Link: link.Name, Prefix: netip.MustParsePrefix(prefix)}
}

func routeVia(link netstate.Link, dst, via string) netstate.Route {
	r := netstate.Route{Netns: link.Netns, Link: link.Name, Dst: netip.MustParsePrefix(dst)}
	if via != "" {
		r.Via = netip.MustParseAddr(via)
	}
	return r
}

// build makes links as a pass does: all ends down, then marked, then up.
func build(t testing.TB, k *Kernel, links ...netstate.Link) {
	t.Helper()
	byEnd := map[netstate.End]netstate.Link{}
	for _, l := range links {
		byEnd[netstate.End{Netns: l.Netns, Name: l.Name}] = l
	}
	var made, marked, active []plan.Step
	for _, l := range links {
		key := l.Key()
		if l.Type != netstate.Veth {
			made = append(made, plan.Step{Op: plan.Create, Key: key, New: l})
		} else if l.Primary {
			made = append(made, plan.Step{Op: plan.Create, Key: key, New: l, Peer: byEnd[l.Peer]})
		}
		marked = append(marked, plan.Step{Op: plan.Mark, Key: key, New: l})
		active = append(active, plan.Step{Op: plan.Activate, Key: key, New: l})
	}
	apply(t, k, made)
	apply(t, k, marked)
	apply(t, k, active)
}

// attachment builds a bridge, a namespace and a veth between them.
func attachment(t testing.TB, k *Kernel) (br, host, inside netstate.Link) {
	t.Helper()
	apply(t, k, create(managed("net1")))
	br = bridge("br-red")
	host, inside = pair(netstate.End{Name: "veth1"}, netstate.End{Netns: "net1", Name: "eth0"}, "br-red")
	build(t, k, br, host, inside)
	return br, host, inside
}

func TestAppliedIsObserved(t *testing.T) {
	if !sandbox.Enter(t) {
		return
	}
	k := open(t)
	br, host, inside := attachment(t, k)
	gateway, own := addressOn(br, "10.68.0.1/24"), addressOn(inside, "10.68.0.101/24")
	own6, bare := addressOn(inside, "fd00:68::101/64"), addressOn(inside, "10.99.0.1/24")
	bare.NoPrefixRoute = true
	addresses := []netstate.Object{gateway, own, own6, bare}
	apply(t, k, create(addresses...))
	withSource := routeVia(inside, "10.1.0.0/16", "10.68.0.2")
	withSource.Src = own.Prefix.Addr()
	routes := []netstate.Object{
		routeVia(inside, "0.0.0.0/0", "10.68.0.1"), routeVia(inside, "::/0", "fd00:68::1"), withSource,
		routeVia(inside, "10.2.0.0/16", ""), routeVia(inside, "10.3.0.0/16", "192.0.2.1"), routeVia(inside, "fd01::/64", "fd02::1"),
	}
	apply(t, k, create(routes...))
	sysctls := []netstate.Object{
		netstate.Sysctl{Link: "br-red", Path: "net/ipv6/conf/br-red/accept_ra", Value: "0"},
		netstate.Sysctl{Netns: "net1", Link: "eth0", Path: "net/ipv4/conf/eth0/rp_filter", Value: "2"},
		netstate.Sysctl{Netns: "net1", Path: "net/ipv4/ping_group_range", Value: "0 0"},
	}
	apply(t, k, create(sysctls...))

	want := slices.Concat([]netstate.Object{managed("net1"), loopback("net1"), br, host, inside}, addresses, routes, sysctls)
	wantObserved(t, k, keysOf(want...), want...)
	if got := sh(t, "ip -n net1 -4 address show eth0"); !strings.Contains(got, "brd 10.68.0.255") {
		t.Errorf("no broadcast address:\n%s", got)
	}
	if got := sh(t, "ip -n net1 -6 address show dev eth0 tentative scope global"); got != "" {
		t.Errorf("the address is tentative: %s", got)
	}

	wantHeld(t, k, slices.Concat([]netstate.Object{managed("net1"), loopback("net1"), unPrimary(host), inside, br}, addresses, routes))
	apply(t, k, remove(routes...))
	apply(t, k, remove(addresses...))
	apply(t, k, remove(host, br))
	apply(t, k, remove(managed("net1")))
	wantObserved(t, k, keysOf(want...))
	if held := inventory(t, k); len(held) > 0 {
		t.Errorf("left behind: %v", held)
	}
	// Objects that are gone are deleted again without an error.
	for _, o := range []netstate.Object{routes[0], own, host, managed("net1")} {
		apply(t, k, remove(o))
	}
}

// wantHeld looks for the objects in the inventory, with their owners.
func wantHeld(t *testing.T, k *Kernel, objects []netstate.Object) {
	t.Helper()
	held := inventory(t, k)
	for _, o := range objects {
		owner := map[string]netstate.Owner{"br-red": red, "veth1": net1, "eth0": net1}[o.Key().Link]
		if !slices.ContainsFunc(held, func(h netstate.Held) bool { return h.Owner == owner && plan.Same(asListed(o), h.Object) }) {
			t.Errorf("the inventory lacks %s of %s", o.Key(), owner)
		}
	}
}

// TestConcurrently builds and removes attachments side by side.
func TestConcurrently(t *testing.T) {
	if !sandbox.Enter(t) {
		return
	}
	k := open(t)
	watch(t, k)
	build(t, k, bridge("br-red"))
	var group sync.WaitGroup
	for i := range 8 {
		group.Go(func() {
			netns := fmt.Sprint("net", i)
			a, b := pair(netstate.End{Name: fmt.Sprint("veth-a", i)}, netstate.End{Netns: netns, Name: "eth0"}, "br-red")
			c, d := pair(netstate.End{Name: fmt.Sprint("veth-c", i)}, netstate.End{Netns: netns, Name: "eth1"}, "br-red")
			for range 5 {
				errs := k.Apply(create(managed(netns)))
				errs = append(errs, k.Apply([]plan.Step{{Op: plan.Create, Key: a.Key(), New: a, Peer: b}, {Op: plan.Create, Key: c.Key(), New: c, Peer: d}})...)
				errs = append(errs, k.Apply(steps(plan.Mark, []netstate.Object{a, b, c, d}))...)
				set, _ := k.Observe(keysOf(managed(netns), a, b, c, d))
				if len(set) != 5 {
					t.Errorf("observed %v", set)
				}
				_, err := k.Inventory()
				errs = append(errs, err)
				errs = append(errs, k.Apply(remove(a, c))...)
				errs = append(errs, k.Apply(remove(managed(netns)))...)
				if err := errors.Join(errs...); err != nil {
					t.Error(err)
				}
			}
		})
	}
	group.Wait()
}
