package kernel

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
	"github.com/patchbay-dev/patchbay/nodeagent/plan"
	"github.com/patchbay-dev/patchbay/test/netlab"
	"github.com/patchbay-dev/patchbay/test/sandbox"
)

func TestLinksGoTogether(t *testing.T) {
	if !sandbox.Enter(t) {
		return
	}
	k := open(t)
	sh(t, "ip link add theirs type veth peer peer")
	links := []netstate.Link{bridge("br-red")}
	var objects []netstate.Object
	for i := range 10 {
		a, b := pair(netstate.End{Name: fmt.Sprint("veth-a", i)}, netstate.End{Name: fmt.Sprint("veth-b", i)}, "br-red")
		links = append(links, a, b)
		objects = append(objects, a)
	}
	objects = append(objects, links[0])
	build(t, k, links...)
	writes := k.Writes()
	apply(t, k, append(remove(objects...), remove(netstate.Link{Name: "veth-absent"})...))
	if got := k.Writes() - writes; got != 12 {
		t.Errorf("deleting 10 pairs and a bridge took %d messages, want 11 to group them and one to delete the group", got)
	}
	if got := sh(t, "ip -br link | cut -d' ' -f1 | sort"); got != "lo\npeer@theirs\ntheirs@peer" {
		t.Errorf("links: %s", got)
	}
}

func TestNothingToDoSendsNothing(t *testing.T) {
	if !sandbox.Enter(t) {
		return
	}
	k := open(t)
	br, host, inside := attachment(t, k)
	writes := k.Writes()
	links := []netstate.Object{br, host, inside, loopback("net1")}
	for _, op := range []plan.Op{plan.Mark, plan.Update, plan.Activate} {
		apply(t, k, steps(op, links))
	}
	observe(t, k, keysOf(links...)...)
	inventory(t, k)
	if got := k.Writes(); got != writes {
		t.Errorf("sent %d messages", got-writes)
	}
}

func TestAttachmentTakesFewMessages(t *testing.T) {
	if !sandbox.Enter(t) {
		return
	}
	k := open(t)
	build(t, k, bridge("br-red"))
	apply(t, k, create(managed("net0"))) // prepares the folder
	host, inside := pair(netstate.End{Name: "veth1"}, netstate.End{Netns: "net1", Name: "eth0"}, "br-red")
	writes := k.Writes()
	apply(t, k, create(managed("net1")))
	build(t, k, host, inside)
	// File, loopback, mount, nsid; pair; two aliases; host end isolated and up,
	// inner end up.
	if got := k.Writes() - writes; got != 4+1+2+2 {
		t.Errorf("took %d messages and writes", got)
	}
	wantObserved(t, k, keysOf(host, inside), host, inside)
}

// TestForeignNamespaceIsKnown: when a veth has made the kernel speak of a
// foreign namespace, the monitor knows its name and need not open all namespaces.
func TestForeignNamespaceIsKnown(t *testing.T) {
	if !sandbox.Enter(t) {
		return
	}
	k := open(t)
	sh(t, "ip netns add theirs")
	host, inside := pair(netstate.End{Name: "veth1"}, netstate.End{Netns: "theirs", Name: "eth0"}, "")
	apply(t, k, []plan.Step{{Op: plan.Create, Key: host.Key(), New: host, Peer: inside}})
	var known []any
	k.hints.Range(func(_, name any) bool {
		known = append(known, name)
		return true
	})
	if !slices.Contains(known, any("theirs")) {
		t.Errorf("known are %v", known)
	}
}

// TestLinkIndex: either end of a pair tells the indexes of both.
func TestLinkIndex(t *testing.T) {
	if !sandbox.Enter(t) {
		return
	}
	k := open(t)
	sh(t, "ip netns add ns1; ip link add veth1 index 41 type veth peer name eth0 index 17 netns ns1")
	for end, want := range map[netstate.End][2]int32{{Name: "veth1"}: {41, 17}, {Netns: "ns1", Name: "eth0"}: {17, 41}} {
		index, peer, err := k.LinkIndex(end)
		if got := [2]int32{index, peer}; got != want || err != nil {
			t.Errorf("%s: %v, %v, want %v", end, got, err, want)
		}
	}
}

// TestMarkTakesTwoRequests: to mark an end of a veth, the end is read and changed. Its peer,
// neighbours and filters are not read.
func TestMarkTakesTwoRequests(t *testing.T) {
	if !sandbox.Enter(t) {
		return
	}
	k := open(t)
	_, _, inside := attachment(t, k)
	sh(t, "ip -n %s link set %s alias mine", inside.Netns, inside.Name)
	requests := k.requests.Load()
	apply(t, k, steps(plan.Mark, []netstate.Object{inside}))
	if got := k.requests.Load() - requests; got != 2 {
		t.Errorf("%d requests", got)
	}
	wantObserved(t, k, keysOf(inside), inside)
}

func TestLinkUpdate(t *testing.T) {
	if !sandbox.Enter(t) {
		return
	}
	k := open(t)
	br, host, inside := attachment(t, k)
	for _, l := range []*netstate.Link{&br, &host, &inside} {
		l.MAC[0], l.MTU = 6, 1300
	}
	inside.Mark = netstate.Mark(netstate.SourceLocal, red)
	apply(t, k, steps(plan.Update, []netstate.Object{br, host, inside}))
	wantObserved(t, k, keysOf(br, host, inside), br, host, inside)

	sh(t, "ip link set veth1 alias mine")
	overwritten := host
	overwritten.Mark = netstate.HalfMade
	wantObserved(t, k, keysOf(host), overwritten)
	apply(t, k, steps(plan.Mark, []netstate.Object{host}))
	wantObserved(t, k, keysOf(host), host)

	other := bridge("br-blue")
	build(t, k, other)
	host.Master, host.Isolated, inside.Up = "br-blue", false, false
	apply(t, k, steps(plan.Activate, []netstate.Object{host, inside}))
	wantObserved(t, k, keysOf(host, inside), host, inside)
	host.Isolated = true
	apply(t, k, steps(plan.Activate, []netstate.Object{host}))
	wantObserved(t, k, keysOf(host), host)
	host.Master, host.Isolated = "", false
	apply(t, k, steps(plan.Activate, []netstate.Object{host}))
	wantObserved(t, k, keysOf(host), host)
}

// TestBridgeAttributes: each attribute is as wanted from the creating message on,
// the kernel's notification tells when another program changes it, and an update puts it
// back, and it alone.
func TestBridgeAttributes(t *testing.T) {
	if !sandbox.Enter(t) {
		return
	}
	k := open(t)
	br := bridge("br-red")
	br.Attributes = br.Attributes.With(netstate.NoLinkLocalLearn, 1).With(netstate.MulticastSnooping, 1).
		With(netstate.MulticastHashMax, 512).With(netstate.FDBMaxLearned, 77)
	build(t, k, br)
	wantObserved(t, k, keysOf(br), br)
	seen := watch(t, k)
	for a, other := range map[netstate.Attribute]uint32{
		netstate.NoLinkLocalLearn: 0, netstate.MulticastSnooping: 0, netstate.MulticastHashMax: 4096, netstate.FDBMaxLearned: 0,
	} {
		changed := br
		changed.Attributes = br.Attributes.With(a, other)
		apply(t, k, steps(plan.Update, []netstate.Object{changed}))
		seen.want(t, a.String()+" changed", isObject(changed))
		wantObserved(t, k, keysOf(br), changed)
		writes := k.Writes()
		apply(t, k, steps(plan.Update, []netstate.Object{br}))
		if got := k.Writes() - writes; got != 1 {
			t.Errorf("%s took %d messages", a, got)
		}
		wantObserved(t, k, keysOf(br), br)
	}
}

// TestBridgeKeepsMTU shows that a port with a smaller MTU does not drag its
// bridge down with it, nor the last one that leaves reset it.
func TestBridgeKeepsMTU(t *testing.T) {
	if !sandbox.Enter(t) {
		return
	}
	k := open(t)
	for i, mtu := range []int{68, 1500, 9000, 65535} {
		br := bridge("br-red")
		br.MTU = mtu
		build(t, k, br)
		sh(t, "ip link add v%d type veth peer w%d; ip link set v%d mtu 1280 master br-red", i, i, i)
		wantObserved(t, k, keysOf(br), br)
		sh(t, "ip link del v%d", i)
		wantObserved(t, k, keysOf(br), br)
		apply(t, k, remove(br))
	}
}

func TestPeerBetweenNamespaces(t *testing.T) {
	if !sandbox.Enter(t) {
		return
	}
	k := open(t)
	apply(t, k, create(managed("ns1"), managed("ns2"), managed("ns3")))
	a, b := pair(netstate.End{Netns: "ns1", Name: "eth0"}, netstate.End{Netns: "ns2", Name: "eth0"}, "")
	c, d := pair(netstate.End{Netns: "ns1", Name: "c"}, netstate.End{Netns: "ns1", Name: "d"}, "")
	e, f := pair(netstate.End{Netns: "ns3", Name: "eth0"}, netstate.End{Name: "veth-f"}, "")
	build(t, k, a, b, c, d, e, f)
	wantObserved(t, k, keysOf(a, b, c, d, e, f), a, b, c, d, e, f)
	// Alone, and by a process that has seen nothing yet.
	fresh := open(t)
	for _, l := range []netstate.Link{a, b, c, d, e, f} {
		wantObserved(t, fresh, keysOf(l), l)
		l.Primary = false
		if !hasObject(inventory(t, fresh), l) {
			t.Errorf("%s is not in the inventory", l.Key())
		}
	}
	sh(t, "ip netns add hidden; ip -n ns2 link set eth0 netns hidden; touch /run/keep; mount --bind /run/netns/hidden /run/keep; umount /run/netns/hidden")
	a.Peer = netstate.End{Netns: unknown, Name: unknown}
	wantObserved(t, k, keysOf(a), a)
}

func TestMissing(t *testing.T) {
	if !sandbox.Enter(t) {
		return
	}
	k := open(t)
	apply(t, k, create(managed("net1")))
	host, inside := pair(netstate.End{Name: "veth1"}, netstate.End{Netns: "absent", Name: "eth0"}, "")
	create := []plan.Step{{Op: plan.Create, Key: host.Key(), New: host, Peer: inside}}
	wantError(t, k, create, ErrNetnsNotFound)
	inside.Netns, host.Master = "net1", "br-absent"
	create[0].New, create[0].Peer = host, inside
	wantError(t, k, create, ErrLinkNotFound)
	wantObserved(t, k, keysOf(host, inside, addressOn(host, "10.0.0.1/24"), routeVia(inside, "10.0.0.0/8", ""),
		netstate.Sysctl{Link: "veth1", Path: "net/ipv6/conf/veth1/accept_ra"}, netstate.Port{Link: "veth1"}, netstate.Hairpin{Link: "veth1"}))
	wantError(t, k, steps(plan.Create, []netstate.Object{addressOn(host, "10.0.0.1/24")}), ErrLinkNotFound)
	wantError(t, k, steps(plan.Create, []netstate.Object{routeVia(host, "10.0.0.0/8", "")}), ErrLinkNotFound)
	wantError(t, k, steps(plan.Create, []netstate.Object{netstate.Sysctl{Link: "veth1", Path: "net/ipv6/conf/veth1/accept_ra", Value: "0"}}), ErrLinkNotFound)
	if _, _, err := k.LinkIndex(netstate.End{Netns: "absent", Name: "eth0"}); err == nil {
		t.Error("an index in an absent namespace")
	}
	if i, _, err := k.LinkIndex(netstate.End{Netns: "net1", Name: "lo"}); err != nil || i != 1 {
		t.Errorf("lo has index %d, %v", i, err)
	}
}

func TestAddressUpdate(t *testing.T) {
	if !sandbox.Enter(t) {
		return
	}
	k := open(t)
	_, _, inside := attachment(t, k)
	for _, prefix := range []string{"10.68.0.101/24", "fd00::1/64"} {
		a := addressOn(inside, prefix)
		apply(t, k, create(a))
		wantError(t, k, create(a), ErrExists)
		a.NoPrefixRoute = true
		apply(t, k, steps(plan.Update, []netstate.Object{a}))
		wantObserved(t, k, keysOf(a), a)
	}
}

func TestRouteUpdate(t *testing.T) {
	if !sandbox.Enter(t) {
		return
	}
	k := open(t)
	_, _, inside := attachment(t, k)
	apply(t, k, create(addressOn(inside, "10.68.0.101/24"), addressOn(inside, "fd00::1/64")))
	for _, c := range []struct{ dst, from, to string }{{"0.0.0.0/0", "10.68.0.1", "10.68.0.2"}, {"fd01::/64", "fd00::2", "fd00::3"}, {"10.9.0.0/16", "", "10.68.0.1"}} {
		r := routeVia(inside, c.dst, c.from)
		apply(t, k, create(r))
		wantError(t, k, create(r), ErrExists)
		r = routeVia(inside, c.dst, c.to)
		apply(t, k, steps(plan.Update, []netstate.Object{r}))
		wantObserved(t, k, keysOf(r), r)
		if got := sh(t, "ip -n net1 route show %s proto 147", c.dst); strings.Count(got, "\n") > 0 {
			t.Errorf("more than one route to %s:\n%s", c.dst, got)
		}
	}
}

// TestNothingKeepsNamespaces shows that a namespace ends with its name and that
// neither descriptors nor threads pile up.
func TestNothingKeepsNamespaces(t *testing.T) {
	if !sandbox.Enter(t) {
		return
	}
	k := open(t)
	_, host, _ := attachment(t, k)
	inventory(t, k)
	sh(t, "ip netns del net1")
	netlab.Until(t, 5*time.Second, "the veth goes with the namespace", func() bool { return len(observe(t, k, host.Key())) == 0 })

	before := descriptors(t)
	for range 200 {
		n := managed("net2")
		a, b := pair(netstate.End{Name: "veth2"}, netstate.End{Netns: "net2", Name: "eth0"}, "br-red")
		apply(t, k, create(n))
		build(t, k, a, b)
		observe(t, k, keysOf(n, a, b)...)
		apply(t, k, remove(a))
		apply(t, k, remove(n))
	}
	if after := descriptors(t); after > before {
		t.Errorf("%d open files before, %d after", before, after)
	}
	netlab.Until(t, 5*time.Second, "all threads are in the host's namespace", func() bool {
		own, err := os.Readlink("/proc/self/ns/net")
		if err != nil {
			t.Fatal(err)
		}
		tasks, _ := filepath.Glob("/proc/self/task/*/ns/net")
		for _, task := range tasks {
			if ns, err := os.Readlink(task); err == nil && ns != own {
				return false
			}
		}
		return true
	})
}

func descriptors(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}
