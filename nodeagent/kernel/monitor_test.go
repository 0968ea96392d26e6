package kernel

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/patchbay-dev/patchbay/nodeagent/kernel/rtnl"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
	"github.com/patchbay-dev/patchbay/nodeagent/plan"
	"github.com/patchbay-dev/patchbay/test/netlab"
	"github.com/patchbay-dev/patchbay/test/sandbox"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// journal collects events.
type journal struct {
	mu     sync.Mutex
	events []Event
}

func watch(t *testing.T, k *Kernel) *journal {
	t.Helper()
	l := &journal{}
	err := k.Watch(t.Context(), func(e Event) {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.events = append(l.events, e)
	})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func (l *journal) clear() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.events = nil
}

// want waits for an event, at most the second that repairing drift may take.
func (l *journal) want(t *testing.T, what string, match func(Event) bool) {
	t.Helper()
	netlab.Eventually(t, time.Second, what, func() error {
		l.mu.Lock()
		defer l.mu.Unlock()
		var got strings.Builder
		for _, e := range l.events {
			if match(e) {
				return nil
			}
			fmt.Fprintf(&got, "\n%+v", e)
		}
		return fmt.Errorf("no such event in%s", got.String())
	})
}

func isGone(o netstate.Object) func(Event) bool {
	return func(e Event) bool { return e.Gone && e.Key == o.Key() }
}

func isObject(o netstate.Object) func(Event) bool {
	return func(e Event) bool { return !e.Gone && e.Object != nil && plan.Same(o, e.Object) }
}

// isLook matches an event that tells no more than to look at the object.
func isLook(o netstate.Object) func(Event) bool {
	return func(e Event) bool { return !e.Gone && e.Key == o.Key() && e.Object == nil }
}

func unPrimary(l netstate.Link) netstate.Link {
	l.Primary = false
	return l
}

func TestWatchSeesOurOwnChanges(t *testing.T) {
	if !sandbox.Enter(t) {
		return
	}
	k := open(t)
	events := watch(t, k)
	br, host, inside := attachment(t, k)
	addr, route := addressOn(inside, "10.68.0.101/24"), routeVia(inside, "0.0.0.0/0", "10.68.0.1")
	apply(t, k, create(addr))
	apply(t, k, create(route))
	for _, o := range []netstate.Object{br, unPrimary(host), inside, addr, route} {
		events.want(t, o.Key().String(), isObject(o))
	}
	events.want(t, "netns net1", isLook(managed("net1")))
}

func TestWatchSeesDrift(t *testing.T) {
	if !sandbox.Enter(t) {
		return
	}
	k := open(t)
	br, host, inside := attachment(t, k)
	gateway, addr, own6 := addressOn(br, "10.68.0.1/24"), addressOn(inside, "10.68.0.101/24"), addressOn(inside, "fd00::1/64")
	def, far := routeVia(inside, "0.0.0.0/0", "10.68.0.1"), routeVia(br, "10.9.0.0/16", "10.68.0.101")
	far6 := routeVia(inside, "fd01::/64", "fd00::2")
	apply(t, k, create(gateway, addr, own6))
	apply(t, k, create(def, far, far6))
	events := watch(t, k)
	isolated, down, innerDown, loDown := unPrimary(host), unPrimary(host), inside, loopback("net1")
	isolated.Isolated, down.Up, innerDown.Up, loDown.Up = false, false, false, false
	released := unPrimary(host)
	released.Master, released.Isolated = "", false
	renamed := br
	renamed.Name, renamed.Up, renamed.MTU = "br-blue", false, 1400
	for _, c := range []struct {
		command string
		match   func(Event) bool
	}{
		{"ip address del 10.68.0.1/24 dev br-red", isGone(gateway)},
		{"ip address add 10.68.0.1/24 dev br-red", isObject(gateway)},
		{"ip route add 10.9.0.0/16 via 10.68.0.101 proto 147 && ip route del 10.9.0.0/16", isGone(far)},
		{"ip -n net1 route replace default via 10.68.0.2 proto static", isLook(def)},
		{"ip -n net1 route del fd01::/64", isGone(far6)},
		{"ip -n net1 address del 10.68.0.101/24 dev eth0", isGone(addr)},
		{"ip -n net1 address del fd00::1/64 dev eth0", isGone(own6)},
		{"ip -n net1 link set lo down", isObject(loDown)},
		{"ip -n net1 link set eth0 down", isObject(innerDown)},
		{"ip link set veth1 down", isObject(down)},
		{"ip link set veth1 up && ip link set veth1 type bridge_slave isolated off", isLook(host)},
		{"bridge link set dev veth1 isolated on hairpin on", isLook(host)},
		{"ip link set veth1 nomaster", isObject(released)},
		{"sysctl -qw net.ipv4.conf.br-red.rp_filter=1", func(e Event) bool { return e.Key.Kind == netstate.KindSysctl && e.Key.Link == "br-red" }},
		{"ip netns exec net1 sysctl -qw net.ipv4.conf.eth0.forwarding=1", func(e Event) bool {
			return e.Key == netstate.Key{Kind: netstate.KindSysctl, Netns: "net1", Link: "eth0"}
		}},
		{"sysctl -qw net.ipv4.ip_forward=1", func(e Event) bool { return e.Key == netstate.Key{Kind: netstate.KindSysctl} }},
		{"ip link set br-red down && ip link set br-red name br-blue", isGone(br)},
		{"ip link set br-blue mtu 1400", isObject(renamed)},
		{"ip link del br-blue", isGone(renamed)},
		{"ip -n net1 link del eth0", isGone(host)},
		{"ip netns del net1", isGone(managed("net1"))},
	} {
		events.clear()
		sh(t, "%s", c.command)
		events.want(t, c.command, c.match)
	}
}

// TestWatchSeesReplacedRoute shows that a route of Patchbay is looked at when a route
// through another link has taken its place.
func TestWatchSeesReplacedRoute(t *testing.T) {
	if !sandbox.Enter(t) {
		return
	}
	k := open(t)
	_, _, inside := attachment(t, k)
	apply(t, k, create(addressOn(inside, "10.68.0.101/24"), addressOn(inside, "fd00::1/64")))
	def, def6 := routeVia(inside, "0.0.0.0/0", "10.68.0.1"), routeVia(inside, "::/0", "fd00::2")
	apply(t, k, create(def))
	events := watch(t, k)
	apply(t, k, create(def6))
	sh(t, "ip -n net1 link add eth1 type veth peer eth2; ip -n net1 link set eth1 up; ip -n net1 link set eth2 up; ip -n net1 -6 address add fd02::1/64 dev eth1 nodad")
	sh(t, "ip -n net1 route replace default dev eth1; ip -n net1 route replace default via fd02::2 dev eth1")
	events.want(t, "the replaced IPv4 route", isLook(def))
	events.want(t, "the replaced IPv6 route", isLook(def6))
}

// TestWatchSeesRouteBefore shows that a default route of Patchbay is looked at when one
// through another link may go before it.
func TestWatchSeesRouteBefore(t *testing.T) {
	if !sandbox.Enter(t) {
		return
	}
	k := open(t)
	_, _, inside := attachment(t, k)
	apply(t, k, create(addressOn(inside, "10.68.0.101/24")))
	def := routeVia(inside, "0.0.0.0/0", "10.68.0.1")
	apply(t, k, create(def))
	sh(t, "ip -n net1 link add eth1 type veth peer eth2; ip -n net1 link set eth1 up; ip -n net1 link set eth2 up")
	events := watch(t, k)
	sh(t, "ip -n net1 route prepend default dev eth1")
	events.want(t, "the route that is not the first any more", isLook(def))
}

func TestWatchSeesPorts(t *testing.T) {
	if !sandbox.Enter(t) {
		return
	}
	k := open(t)
	events := watch(t, k)
	build(t, k, bridge("br-red"))
	sh(t, "ip link add eth1 type veth peer peer1")
	port := netstate.Port{Link: "eth1", Master: "br-red", Up: true}
	apply(t, k, create(port))
	eth1 := netstate.Link{Name: "eth1"}
	events.want(t, "port added", isLook(eth1))
	events.clear()
	sh(t, "ip link set eth1 nomaster")
	events.want(t, "port removed", isLook(eth1))
}

// TestWatchSeesForeignNetns covers namespaces that appear after the watch, whose
// file is there before the namespace is, and a folder that is not there yet.
func TestWatchSeesForeignNetns(t *testing.T) {
	if !sandbox.Enter(t) {
		return
	}
	k := open(t)
	events := watch(t, k)
	sh(t, "mkdir -p /run/netns; touch /run/netns/net1")
	key := managed("net1").Key()
	events.want(t, "file that is no namespace yet", isLook(managed("net1")))
	events.clear()
	sh(t, "unshare -n mount --bind /proc/self/ns/net /run/netns/net1")
	events.want(t, "namespace on that file", func(e Event) bool { return e.Key == key && !e.Gone && len(observe(t, k, key)) == 1 })
	events.clear()
	sh(t, "ip link add veth1 type veth peer eth0 netns net1; ip -n net1 address add 10.0.0.1/24 dev eth0")
	a := netstate.Address{Netns: "net1", Link: "eth0", Prefix: netip.MustParsePrefix("10.0.0.1/24")}
	events.want(t, "address in it", isObject(a))
	sh(t, "ip netns del net1")
	events.want(t, "its end", isGone(managed("net1")))
	sh(t, "ip netns add net1; ip link add veth2 type veth peer eth7 netns net1; ip -n net1 address add 10.0.0.1/24 dev eth7")
	a.Link = "eth7"
	events.want(t, "address in another one of that name", isObject(a))
}

// TestListen hears a namespace in which Patchbay has no object yet, that routes end
// there, those through two interfaces too, and knows it by either of two names.
func TestListen(t *testing.T) {
	if !sandbox.Enter(t) {
		return
	}
	k := open(t)
	sh(t, "ip netns add net1; ip -n net1 link set lo up; ip -n net1 link add eth8 type bridge; ip -n net1 link add eth9 type bridge; ip -n net1 link set eth8 up; ip -n net1 link set eth9 up; ip -n net1 route add 10.9.0.0/24 nexthop dev eth8 nexthop dev eth9")
	events := watch(t, k)
	for _, want := range []bool{true, false} {
		if news, err := k.Listen("net1"); err != nil || news != want {
			t.Errorf("Listen says %t, %v, want %t", news, err, want)
		}
	}
	sh(t, "ip -n net1 route del 10.9.0.0/24; ip -n net1 link del eth9")
	events.want(t, "the end of the route", isGone(netstate.Route{Netns: "net1", Dst: netip.MustParsePrefix("10.9.0.0/24")}))
	events.want(t, "the end of the link", isGone(netstate.Link{Netns: "net1", Name: "eth9"}))
	sh(t, "touch /run/netns/net2 && mount --bind /run/netns/net1 /run/netns/net2 && ip netns add net3")
	one, ok1 := k.NetnsID("net1")
	two, ok2 := k.NetnsID("net2")
	three, ok3 := k.NetnsID("net3")
	if _, ok := k.NetnsID("net4"); !ok1 || !ok2 || !ok3 || ok || one != two || one == three {
		t.Errorf("namespaces are %v, %v and %v", one, two, three)
	}
}

// TestBridgeFull fills a bridge with foreign ports.
func TestBridgeFull(t *testing.T) {
	if !sandbox.Enter(t) {
		return
	}
	k := open(t)
	build(t, k, bridge("br-red"))
	sh(t, "for i in $(seq 1023); do echo link add tap$i master br-red type veth peer name far$i; done | ip -batch -")
	sh(t, "ip link add tap0 type veth peer far0")
	errs := k.Apply(create(netstate.Port{Link: "tap0", Master: "br-red", Up: true}))
	if len(errs) != 1 || !errors.Is(errs[0], ErrBridgeFull) {
		t.Errorf("a full bridge says %v", errs)
	}
}

func TestWatchTellsOfLosses(t *testing.T) {
	if !sandbox.Enter(t) {
		return
	}
	k := open(t)
	k.receiveBuffer = 4 << 10
	build(t, k, bridge("br-red"))
	var once sync.Once
	stuck, goOn := make(chan bool), make(chan bool)
	lost, later := make(chan bool, 100), make(chan bool, 100)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	err := k.Watch(ctx, func(e Event) {
		once.Do(func() { close(stuck); <-goOn })
		if e.Lost {
			lost <- true
		}
		if e.Key.Name == "10.9.9.9/32" {
			later <- true
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	sh(t, "ip address add 10.1.0.0/32 dev br-red")
	<-stuck
	for i := range 100 {
		apply(t, k, create(addressOn(bridge("br-red"), fmt.Sprintf("10.1.1.%d/32", i))))
	}
	close(goOn)
	within(t, "the loss is told", lost)
	sh(t, "ip address add 10.9.9.9/32 dev br-red")
	within(t, "the watch goes on", later)
}

func TestWatchEnds(t *testing.T) {
	if !sandbox.Enter(t) {
		return
	}
	k := open(t)
	before := descriptors(t)
	ctx, cancel := context.WithCancel(t.Context())
	if err := k.Watch(ctx, func(Event) {}); err != nil {
		t.Fatal(err)
	}
	cancel()
	netlab.Until(t, 5*time.Second, "its files are closed", func() bool { return descriptors(t) <= before+1 }) // the poller's own
}

func within(t *testing.T, what string, c <-chan bool) {
	t.Helper()
	select {
	case <-c:
	case <-time.After(netlab.Stretched(time.Second)):
		t.Errorf("in vain: %s", what)
	}
}

func FuzzMessages(f *testing.F) {
	link := nl.NewNetlinkRequest(unix.RTM_NEWLINK, 0)
	link.AddData(nl.NewIfInfomsg(unix.AF_UNSPEC))
	for _, a := range rtnl.Properties(bridge("br-red")) {
		link.AddData(a)
	}
	link.AddData(rtnl.PortFlag(nl.IFLA_BRPORT_MODE, true))
	addr := nl.NewNetlinkRequest(unix.RTM_NEWADDR, 0)
	addr.AddData(nl.NewIfAddrmsg(unix.AF_INET))
	for _, a := range rtnl.AddressAttributes(addressOn(bridge("br-red"), "10.0.0.1/24")) {
		addr.AddData(a)
	}
	body, attrs := rtnl.RouteMessage(&link0, routeVia(bridge("br-red"), "10.0.0.0/8", "10.0.0.1"))
	route := nl.NewNetlinkRequest(unix.RTM_NEWROUTE, 0)
	route.AddData(body)
	for _, a := range attrs {
		route.AddData(a)
	}
	qdisc := nl.NewNetlinkRequest(unix.RTM_NEWQDISC, 0)
	qdisc.AddData(&nl.TcMsg{Ifindex: 1, Handle: rtnl.ShaperHandle, Parent: rtnl.RootQdisc})
	qdisc.AddData(rtnl.Text(nl.TCA_KIND, "tbf"))
	qdisc.AddData(rtnl.ShaperOptions(shaperOn(bridge("br-red"), 1_000_000_000_000, 0)))
	filter := nl.NewNetlinkRequest(unix.RTM_NEWTFILTER, 0)
	filter.AddData(&nl.TcMsg{Ifindex: 1, Parent: rtnl.IngressFilters})
	filter.AddData(rtnl.Text(nl.TCA_KIND, "u32"))
	filter.AddData(rtnl.RedirectOptions(1))
	for _, r := range []*nl.NetlinkRequest{link, addr, route, qdisc, filter} {
		b := r.Serialize()
		f.Add(b)
		for _, kind := range []uint16{unix.RTM_DELLINK, unix.RTM_NEWNETCONF, unix.RTM_DELNSID} {
			other := slices.Clone(b)
			binary.NativeEndian.PutUint16(other[4:], kind)
			f.Add(other)
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		k, err := Open(Options{Source: netstate.SourceLocal, RunDir: t.TempDir()})
		if err != nil {
			t.Fatal(err)
		}
		defer k.Close()
		m := newMonitor(k, func(Event) {})
		m.handle(rtnl.Datagram{NSID: rtnl.OwnNetns, Data: b})
		for _, parse := range []func([]byte){
			func(b []byte) { rtnl.ParseLink(b) }, func(b []byte) { rtnl.ParseAddress(b) }, func(b []byte) { rtnl.ParseRoute(b) }, func(b []byte) { rtnl.SenderNSID(b) },
			func(b []byte) { rtnl.ParseFilter(b) },
			func(b []byte) {
				if q, ok := rtnl.ParseQdisc(b); ok {
					q.Parent, q.Handle, q.Kind = rtnl.RootQdisc, rtnl.ShaperHandle, "tbf"
					q.Shaper("", "veth1")
				}
			},
		} {
			parse(b)
		}
	})
}

var (
	link0 = rtnl.Link{Index: 1}
)
