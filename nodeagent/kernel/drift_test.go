package kernel

import (
	"strings"
	"testing"
	"time"

	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
	"github.com/patchbay-dev/patchbay/nodeagent/plan"
	"github.com/patchbay-dev/patchbay/test/netlab"
	"github.com/patchbay-dev/patchbay/test/sandbox"
)

// repaired changes an object by hand, and expects it to be told of, to be seen as
// another than is wanted, and to be as wanted after an update.
func repaired(t *testing.T, k *Kernel, want netstate.Object, byHand string, seen *journal, told func(Event) bool) {
	t.Helper()
	wantObserved(t, k, keysOf(want), want)
	seen.clear()
	sh(t, "%s", byHand)
	seen.want(t, byHand, told)
	if got := observe(t, k, want.Key())[want.Key()]; plan.Same(want, got) {
		t.Errorf("%s: not seen: %v", byHand, got)
	}
	apply(t, k, steps(plan.Update, []netstate.Object{want}))
	wantObserved(t, k, keysOf(want), want)
}

// TestAddressHasItsRoutes: the kernel's own routes of an address are missed and come
// back, on a link with and without carrier, and foreign routes stay.
func TestAddressHasItsRoutes(t *testing.T) {
	if !sandbox.Enter(t) {
		return
	}
	k := open(t)
	br, _, _ := attachment(t, k)
	idle := bridge("br-idle")
	idle.MAC[5] = 7
	build(t, k, idle)
	for _, l := range []netstate.Link{br, idle} {
		a4, a6 := addressOn(l, "10.68.0.1/24"), addressOn(l, "fd00:68::1/64")
		apply(t, k, create(a4, a6))
		sh(t, "ip address add 10.68.0.9/24 dev %s", l.Name)
		seen := watch(t, k)
		gone := func(dst string) func(Event) bool { return isGone(routeVia(l, dst, "")) }
		repaired(t, k, a4, "ip route del 10.68.0.0/24 dev "+l.Name, seen, gone("10.68.0.0/24"))
		repaired(t, k, a4, "ip route del table local local 10.68.0.1 dev "+l.Name, seen, gone("10.68.0.1/32"))
		repaired(t, k, a6, "ip -6 route del fd00:68::/64 dev "+l.Name, seen, gone("fd00:68::/64"))
		repaired(t, k, a6, "ip -6 route del table local fd00:68::1 dev "+l.Name, seen, gone("fd00:68::1/128"))
		mortal := func(a netstate.Address) func(Event) bool {
			return func(e Event) bool { return e.Object != nil && e.Key == a.Key() && !plan.Same(a, e.Object) }
		}
		repaired(t, k, a6, "ip address change fd00:68::1/64 preferred_lft 0 dev "+l.Name, seen, mortal(a6))
		repaired(t, k, a6, "ip address change fd00:68::1/64 valid_lft 3600 preferred_lft 3600 dev "+l.Name, seen, mortal(a6))
		repaired(t, k, a4, "ip address change 10.68.0.1/24 valid_lft 3600 preferred_lft 3600 dev "+l.Name, seen, mortal(a4))
		if got := sh(t, "ip -o -4 address show dev %s", l.Name); !strings.Contains(got, "10.68.0.9/24") {
			t.Errorf("an address of others went with the repair:\n%s", got)
		}
		apply(t, k, remove(a4, a6))
	}
}

// TestGroupsHaveTheirRoute: without it no IPv6 neighbour is found.
func TestGroupsHaveTheirRoute(t *testing.T) {
	if !sandbox.Enter(t) {
		return
	}
	k := open(t)
	_, _, inside := attachment(t, k)
	a := addressOn(inside, "fd00:68::101/64")
	apply(t, k, create(a))
	repaired(t, k, a, "ip -n net1 -6 route del table local multicast ff00::/8 dev eth0", watch(t, k), isGone(routeVia(inside, "ff00::/8", "")))
}

// TestLinkRunsAgain: a link that gets its carrier back is told of, a new one is not.
func TestLinkRunsAgain(t *testing.T) {
	if !sandbox.Enter(t) {
		return
	}
	k := open(t)
	seen := watch(t, k)
	_, host, inside := attachment(t, k)
	seen.want(t, "the link runs", func(e Event) bool {
		return e.Key == host.Key() && e.Object != nil && plan.Same(unPrimary(host), e.Object)
	})
	runs := func(e Event) bool { return e.Key == host.Key() && e.Runs }
	for _, e := range seen.events {
		if runs(e) {
			t.Errorf("a new link is told of: %+v", e)
		}
	}
	// The kernel tells of carriers once a second, and of none that was away in between.
	state := func(want string) {
		netlab.Until(t, 5*time.Second, host.Name+" is "+want, func() bool { return strings.Contains(sh(t, "ip -o link show %s", host.Name), " state "+want+" ") })
	}
	state("UP")
	sh(t, "ip -n net1 link set %s down", inside.Name)
	state("DOWN")
	sh(t, "ip -n net1 link set %s up", inside.Name)
	seen.want(t, "the link runs again", runs)
}

// TestTakenPackets: foreign filters that take all packets are told of and seen, by a
// process with a monitor and by one without.
func TestTakenPackets(t *testing.T) {
	if !sandbox.Enter(t) {
		return
	}
	k := open(t)
	_, host, inside := attachment(t, k)
	seen, fresh := watch(t, k), open(t)
	for _, c := range []struct {
		link       netstate.Link
		in, side   string
		match, say string
	}{
		{host, "", "ingress", "u32 match u32 0 0", "ingress"},
		{inside, "-n net1", "egress", "u32 match u32 0 0", "egress"},
		{host, "", "ingress", "u32 match ip dst 192.0.2.1", ""},
	} {
		taken := func(k *Kernel) string { return observe(t, k, c.link.Key())[c.link.Key()].(netstate.Link).Taken }
		seen.clear()
		sh(t, "tc %s qdisc add dev %s clsact; tc %s filter add dev %s %s protocol ip %s action mirred egress redirect dev %s", c.in, c.link.Name, c.in, c.link.Name, c.side, c.match, c.link.Name)
		seen.want(t, "the filter", isLook(c.link))
		if one, other := taken(k), taken(fresh); one != c.say || other != c.say {
			t.Errorf("%s %s: taken at %q, and %q without a monitor, want %q", c.side, c.match, one, other, c.say)
		}
		seen.clear()
		sh(t, "tc %s qdisc del dev %s clsact", c.in, c.link.Name)
		seen.want(t, "its end", isLook(c.link))
		if got := taken(k); got != "" {
			t.Errorf("still taken: %q", got)
		}
	}
}

// TestDriftOfLinks: each attribute of a bridge, a port, an interface in a namespace
// and a loopback is missed and put back.
func TestDriftOfLinks(t *testing.T) {
	if !sandbox.Enter(t) {
		return
	}
	k := open(t)
	apply(t, k, create(managed("net1")))
	br := bridge("br-red")
	br.Attributes = netstate.LinkAttributes.With(netstate.STP, 0).With(netstate.ForwardDelay, 0).With(netstate.Ageing, 30000).With(netstate.GroupForward, 0).With(netstate.OwnMAC, 1).With(netstate.LinkLocal, 1)
	host, inside := pair(netstate.End{Name: "veth1"}, netstate.End{Netns: "net1", Name: "eth0"}, "br-red")
	host.Attributes, inside.Attributes = netstate.LinkAttributes.And(netstate.PortAttributes), netstate.LinkAttributes
	build(t, k, br, host, inside)
	lo := loopback("net1")
	lo.Attributes = netstate.LoopbackAttributes
	seen := watch(t, k)
	for _, c := range []struct {
		want   netstate.Link
		byHand string
	}{
		{br, "ip link set br-red type bridge stp_state 1 forward_delay 3000"},
		{br, "ip link set br-red type bridge forward_delay 1500"},
		{br, "ip link set br-red type bridge ageing_time 0"},
		{br, "ip link set br-red type bridge group_fwd_mask 0x4000"},
		{br, "ip link set br-red arp off"},
		{br, "ip link set br-red multicast off"},
		{br, "bridge fdb flush dev br-red"},
		{br, "ip -6 address flush dev br-red scope link"},
		{host, "bridge link set dev veth1 state 0"},
		{host, "bridge link set dev veth1 learning off"},
		{host, "bridge link set dev veth1 flood off"},
		{host, "bridge link set dev veth1 mcast_flood off"},
		{host, "bridge link set dev veth1 bcast_flood off"},
		{host, "bridge link set dev veth1 locked on"},
		{host, "bridge link set dev veth1 neigh_suppress on"},
		{host, "ip link set veth1 type bridge_slave proxy_arp on"},
		{inside, "ip -n net1 link set eth0 arp off"},
		{inside, "ip -n net1 link set eth0 multicast off"},
		{lo, "ip -n net1 address del 127.0.0.1/8 dev lo"},
		{lo, "ip -n net1 address del ::1/128 dev lo"},
		{lo, "ip -n net1 route del table local local 127.0.0.1 dev lo"},
		{lo, "ip -n net1 -6 route del table local ::1 dev lo"},
		{lo, "ip netns exec net1 sysctl -qw net.ipv6.conf.lo.disable_ipv6=1"},
	} {
		want := unPrimary(c.want)
		repaired(t, k, want, c.byHand, seen, func(e Event) bool {
			return e.Key == want.Key() && (e.Object == nil || !plan.Same(want, e.Object))
		})
	}
}

// TestForeignTreeKeepsPort: what a spanning tree of another's bridge does to a port
// is said, and not changed.
func TestForeignTreeKeepsPort(t *testing.T) {
	if !sandbox.Enter(t) {
		return
	}
	k := open(t)
	sh(t, "ip link add name br0 type bridge stp_state 1 forward_delay 200; ip link set br0 up")
	apply(t, k, create(managed("net1")))
	host, inside := pair(netstate.End{Name: "veth1"}, netstate.End{Netns: "net1", Name: "eth0"}, "br0")
	host.Attributes = netstate.LinkAttributes.And(netstate.PortAttributes)
	seen := watch(t, k)
	build(t, k, host, inside)
	waits := func() string {
		l, _ := observe(t, k, host.Key())[host.Key()].(netstate.Link)
		return l.Waits
	}
	if got := waits(); got != "listening" {
		t.Errorf("it waits: %q", got)
	}
	seen.want(t, "the port listens", isLook(host))
	netlab.Until(t, 5*time.Second, "the port forwards", func() bool { return waits() == "" })
	seen.clear()
	sh(t, "ip link set br0 down")
	seen.want(t, "the bridge is down", isLook(host))
	if got := waits(); got != netstate.BridgeDown {
		t.Errorf("it waits: %q", got)
	}
	sh(t, "ip link set br0 type bridge stp_state 0; ip link set br0 up")
	netlab.Until(t, 5*time.Second, "the port forwards again", func() bool { return waits() == "" })
	wantObserved(t, k, keysOf(host), unPrimary(host))
}

// TestPlantedNeighbour: a permanent entry of a namespace is told of and seen; one that
// the kernel found is neither.
func TestPlantedNeighbour(t *testing.T) {
	if !sandbox.Enter(t) {
		return
	}
	k := open(t)
	_, _, inside := attachment(t, k)
	seen := watch(t, k)
	planted := func() string { return observe(t, k, inside.Key())[inside.Key()].(netstate.Link).Planted }
	sh(t, "ip -n net1 neigh add 10.68.0.9 lladdr 02:00:00:00:00:09 dev eth0 nud reachable; ip -n net1 neigh add fd00::1 lladdr 02:00:00:00:00:99 dev eth0 nud permanent")
	seen.want(t, "the permanent entry", isLook(inside))
	if got := planted(); got != "fd00::1=02:00:00:00:00:99" {
		t.Errorf("planted: %q", got)
	}
	seen.clear()
	sh(t, "ip -n net1 neigh del fd00::1 dev eth0")
	seen.want(t, "its end", isLook(inside))
	if got := planted(); got != "" {
		t.Errorf("still planted: %q", got)
	}
}
