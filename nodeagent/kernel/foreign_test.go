package kernel

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
	"github.com/patchbay-dev/patchbay/nodeagent/plan"
	"github.com/patchbay-dev/patchbay/test/sandbox"
)

// wantError applies one step and expects it to be refused.
func wantError(t *testing.T, k *Kernel, s []plan.Step, want error) string {
	t.Helper()
	err := k.Apply(s)[0]
	if !errors.Is(err, want) {
		t.Errorf("%s %s: got error %v, want %v", s[0].Op, s[0].Key, err, want)
		return ""
	}
	return err.Error()
}

func TestForeignLinksAreLeftAlone(t *testing.T) {
	if !sandbox.Enter(t) {
		return
	}
	k := open(t)
	sh(t, "ip link add br-red type bridge; ip link add veth1 type veth peer veth2; ip link set veth2 alias patchbay:cluster:nsa:lab/net1")
	before := sh(t, "ip -d link; ip address")
	foreign := bridge("br-red")
	wantError(t, k, create(foreign), ErrExists)
	for _, op := range []plan.Op{plan.Mark, plan.Update, plan.Activate} {
		wantError(t, k, steps(op, []netstate.Object{foreign}), ErrForeign)
	}
	wantError(t, k, remove(foreign), ErrForeign)
	veth1, veth2 := netstate.Link{Name: "veth1"}, netstate.Link{Name: "veth2"}
	for _, err := range k.Apply(remove(veth1, veth2)) {
		if !errors.Is(err, ErrForeign) {
			t.Errorf("got error %v", err)
		}
	}
	wantError(t, k, create(netstate.Hairpin{Link: "veth1"}), ErrForeign)
	if after := sh(t, "ip -d link; ip address"); after != before {
		t.Errorf("changed from\n%s\nto\n%s", before, after)
	}
	if held := inventory(t, k); len(held) > 0 {
		t.Errorf("inventory: %v", held)
	}
	if got := observe(t, k, foreign.Key())[foreign.Key()].(netstate.Link); got.Mark != "" {
		t.Errorf("a foreign bridge has mark %q", got.Mark)
	}
}

func TestForeignAddressesAndRoutesAreLeftAlone(t *testing.T) {
	if !sandbox.Enter(t) {
		return
	}
	k := open(t)
	sh(t, "ip link add eth9 type veth peer peer9; ip link set peer9 up; ip address add 10.1.0.1/24 dev eth9; ip link set eth9 up")
	sh(t, "ip route add default via 10.1.0.2; ip route add 10.7.0.0/16 dev eth9; ip -6 route add fd07::/64 dev eth9")
	before := sh(t, "ip address; ip route; ip -6 route")
	eth9 := netstate.Link{Name: "eth9"}
	wantError(t, k, create(addressOn(eth9, "10.1.0.1/24")), ErrExists)
	wantError(t, k, remove(addressOn(eth9, "10.1.0.1/24")), ErrForeign)
	text := wantError(t, k, create(routeVia(eth9, "0.0.0.0/0", "10.1.0.3")), ErrForeign)
	if !strings.Contains(text, "there is route 0.0.0.0/0 via 10.1.0.2 dev eth9 proto 3") {
		t.Errorf("the error does not name the route: %s", text)
	}
	for _, dst := range []string{"10.7.0.0/16", "fd07::/64"} {
		r := routeVia(eth9, dst, "")
		wantError(t, k, create(r), ErrForeign)
		wantError(t, k, steps(plan.Update, []netstate.Object{r}), ErrForeign)
		apply(t, k, remove(r))
		wantObserved(t, k, keysOf(r))
	}
	if after := sh(t, "ip address; ip route; ip -6 route"); after != before {
		t.Errorf("changed from\n%s\nto\n%s", before, after)
	}
}

func TestForeignNetnsAreLeftAlone(t *testing.T) {
	if !sandbox.Enter(t) {
		return
	}
	k := open(t)
	sh(t, "ip netns add theirs; touch /run/netns/host /run/netns/file; mount --bind /proc/self/ns/net /run/netns/host")
	sh(t, "ln -s theirs /run/netns/link; mkdir /run/netns/folder; touch /run/netns/uts; mount --bind /proc/self/ns/uts /run/netns/uts")
	sh(t, "printf patchbay:cluster:netns:other > /run/netns/other")
	before := sh(t, "ls -lA /run/netns; ip link")
	wantObserved(t, k, keysOf(managed("theirs"), managed("file"), managed("link"), managed("folder"), managed("uts"), managed("other"), managed("absent")),
		netstate.Netns{Name: "theirs"},
		instead("file", "/run/netns/file is a plain file and no namespace"),
		instead("other", "/run/netns/other is a plain file and no namespace"),
		instead("folder", "/run/netns/folder is a folder and no namespace"),
		instead("uts", "/run/netns/uts is another kind of namespace"),
		instead("link", "/run/netns/link is a symbolic link to /run/netns/theirs, and only one to /proc/PID/ns/net is followed"))
	for _, name := range []string{"theirs", "host", "file", "link", "folder", "uts", "other"} {
		wantError(t, k, create(managed(name)), ErrForeign)
		wantError(t, k, remove(managed(name)), ErrForeign)
	}
	lo := loopback("host")
	for _, s := range [][]plan.Step{remove(lo), steps(plan.Activate, []netstate.Object{lo})} {
		wantError(t, k, s, ErrForeign)
	}
	if _, errs := k.Observe(keysOf(lo)); !errors.Is(errs[lo.Key()], ErrForeign) {
		t.Errorf("the host under another name: %v", errs)
	}
	for _, name := range []string{"..", ".", "", "../netns/theirs", "a/b"} {
		if err := k.Apply(create(managed(name)))[0]; err == nil {
			t.Errorf("made a namespace named %q", name)
		}
	}
	if after := sh(t, "ls -lA /run/netns; ip link"); after != before {
		t.Errorf("changed from\n%s\nto\n%s", before, after)
	}
	if held := inventory(t, k); len(held) > 0 {
		t.Errorf("inventory: %v", held)
	}
}

func TestOtherSourceIsLeftAlone(t *testing.T) {
	if !sandbox.Enter(t) {
		return
	}
	k := open(t)
	br, host, inside := attachment(t, k)
	addr := addressOn(inside, "10.68.0.101/24")
	route := routeVia(inside, "10.1.0.0/16", "")
	apply(t, k, create(addr, route, netstate.Sysctl{Path: "net/ipv4/ip_forward", Value: "1", Restore: true}))
	other, err := Open(Options{Source: netstate.SourceCluster, RunDir: "/run"})
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if held := inventory(t, other); len(held) > 0 {
		t.Errorf("inventory of the other source: %v", held)
	}
	for _, o := range []netstate.Object{br, host, inside, managed("net1"), addr, route} {
		wantError(t, other, remove(o), ErrForeign)
	}
	wantError(t, other, create(managed("net1")), ErrForeign)
	wantObserved(t, k, keysOf(br, host, inside, managed("net1"), addr, route), br, host, inside, managed("net1"), addr, route)
}

func TestPort(t *testing.T) {
	if !sandbox.Enter(t) {
		return
	}
	k := open(t)
	br := bridge("br-red")
	build(t, k, br)
	sh(t, "ip link add eth1 type veth peer peer1; ip address add 192.0.2.1/24 dev eth1")
	port := netstate.Port{Link: "eth1", Master: "br-red", Up: true, Attributes: netstate.PortAttributes}
	wantObserved(t, k, keysOf(port))
	apply(t, k, create(port))
	wantObserved(t, k, keysOf(port), port)
	if got := sh(t, "ip -o address show dev eth1 up"); !strings.Contains(got, "192.0.2.1/24") {
		t.Errorf("eth1 is down or without its address: %s", got)
	}
	if held := inventory(t, k); !hasObject(held, port) || held[len(held)-1].Owner != red {
		t.Errorf("not in the inventory: %v", held)
	}
	writes := k.Writes()
	apply(t, k, create(port))
	if k.Writes() != writes {
		t.Error("joining a port again sent a message")
	}
	apply(t, k, remove(port))
	wantObserved(t, k, keysOf(port))

	sh(t, "ip link add br-other type bridge; ip link set eth1 master br-other")
	if text := wantError(t, k, create(port), ErrForeign); !strings.Contains(text, "port of br-other") {
		t.Errorf("the error does not name the other bridge: %s", text)
	}
	apply(t, k, remove(port))
	wantObserved(t, k, keysOf(port), netstate.Port{Link: "eth1", Master: "br-other", Up: true})
	sh(t, "ip link del eth1")
	apply(t, k, remove(port))
	wantError(t, k, create(port), ErrLinkNotFound)
}

func TestHairpin(t *testing.T) {
	if !sandbox.Enter(t) {
		return
	}
	k := open(t)
	_, host, _ := attachment(t, k)
	h := netstate.Hairpin{Link: host.Name}
	wantObserved(t, k, keysOf(h))
	apply(t, k, create(h))
	wantObserved(t, k, keysOf(h, host), h, host)
	if !hasObject(inventory(t, k), h) {
		t.Error("not in the inventory")
	}
	apply(t, k, remove(h))
	wantObserved(t, k, keysOf(h, host), host)
}

func TestNode(t *testing.T) {
	if !sandbox.Enter(t) {
		return
	}
	k := open(t)
	sh(t, "ip link add up0 type veth peer up1; ip link set up0 up; ip link set up1 up; ip link add link up0 name eth0 type macvlan; ip link set eth0 mtu 1450; ip address add 192.0.2.2/24 dev eth0; ip link set eth0 up; ip route add default via 192.0.2.1")
	sh(t, "sysctl -qw net.ipv6.conf.eth0.accept_ra=1")
	br, _, _ := attachment(t, k)
	apply(t, k, create(addressOn(br, "10.68.0.1/24")))
	sh(t, "ip address add 203.0.113.9/24 dev br-red; ip address add fe80::9/64 dev br-red nodad; ip address add fe80::2/64 dev eth0 nodad")
	sh(t, "sysctl -qw net.ipv6.conf.all.forwarding=0 net.ipv4.ip_forward=1")
	n, err := k.Node()
	if err != nil {
		t.Fatal(err)
	}
	if n.Name != "node" || n.DefaultLink != "eth0" {
		t.Errorf("name %q, default link %q", n.Name, n.DefaultLink)
	}
	for name, want := range map[string]netstate.NodeLink{
		"eth0":   {Type: netstate.OtherLink, MTU: 1450},
		"br-red": {Type: netstate.Bridge, MTU: 1500, Ours: true},
		"veth1":  {Type: netstate.Veth, MTU: 1400, Master: "br-red", Ours: true},
	} {
		if n.Links[name] != want {
			t.Errorf("%s: got %+v, want %+v", name, n.Links[name], want)
		}
	}
	if want := (netstate.ForeignRoute{Table: netstate.TableMain, Own: true, Link: "eth0", Dst: netip.MustParsePrefix("192.0.2.0/24")}); !slices.Contains(n.Routes, want) {
		t.Errorf("routes %v lack %v", n.Routes, want)
	}
	if slices.ContainsFunc(n.Routes, func(r netstate.ForeignRoute) bool { return r.Link == "br-red" || r.Dst.Bits() == 0 }) {
		t.Errorf("routes %v have our own or a default one", n.Routes)
	}
	for address, want := range map[netstate.NodeAddress]bool{
		{Link: "eth0", Prefix: netip.MustParsePrefix("192.0.2.2/24")}:     true,
		{Link: "eth0", Prefix: netip.MustParsePrefix("fe80::2/64")}:       true,
		{Link: "br-red", Prefix: netip.MustParsePrefix("203.0.113.9/24")}: true,
		{Link: "br-red", Prefix: netip.MustParsePrefix("10.68.0.1/24")}:   false,
		{Link: "br-red", Prefix: netip.MustParsePrefix("fe80::9/64")}:     false,
	} {
		if slices.Contains(n.Addresses, address) != want {
			t.Errorf("%v is among %v: %t", address, n.Addresses, !want)
		}
	}
	if !n.Forwarding[netstate.IPv4] || n.Forwarding[netstate.IPv6] {
		t.Errorf("forwarding %v", n.Forwarding)
	}
	if len(n.RALinks) != 1 || n.RALinks[0] != "eth0" {
		t.Errorf("RA links %v", n.RALinks)
	}
	apply(t, k, create(
		netstate.Sysctl{Path: "net/ipv6/conf/all/forwarding", Value: "1", Restore: true},
		netstate.Sysctl{Link: "eth0", Path: "net/ipv6/conf/eth0/accept_ra", Value: "2", Restore: true}))
	again, err := k.Node()
	if err != nil {
		t.Fatal(err)
	}
	if again.Forwarding[netstate.IPv6] || len(again.RALinks) != 1 {
		t.Errorf("once we switched it on: forwarding %v, RA links %v", again.Forwarding, again.RALinks)
	}
}

// TestWaysOut has foreign interfaces lead out of the node, or to guests.
func TestWaysOut(t *testing.T) {
	if !sandbox.Enter(t) {
		return
	}
	k := open(t)
	sh(t, `nic() { ip link add $1 type veth peer name peer$1; ip link set peer$1 up; ip link set $1 up; ip address add $2 dev $1; }
		bridge() { ip link add $1 type bridge; ip link set $1 up; ip address add $2 dev $1; }
		nic lan0 192.0.2.2/24; nic lan1 198.51.100.2/24; nic lan2 203.0.113.2/32; bridge virbr0 10.9.0.1/24; bridge br0 10.8.0.1/24
		ip address add fd00:1::2/64 dev lan1 nodad
		ip tuntap add tun0 mode tun; ip link set tun0 up; ip address add 10.7.0.1/24 dev tun0`)
	for _, c := range []struct{ change, want string }{
		{"true", "[] [lan0 lan1]"},
		{"ip route add default via 192.0.2.1", "[lan0] []"},
		{"ip route add default via 10.9.0.2 table 100; ip route add 10.20.0.0/16 via 10.9.0.2", "[lan0] []"},
		{"ip route add default via 10.8.0.2 metric 9", "[br0 lan0] []"},
		{"ip route add default dev tun0 table 100 metric 9", "[br0 lan0] [tun0]"},
		{"ip route del default dev tun0 table 100; ip route add 10.21.0.0/16 dev tun0", "[br0 lan0] []"},
		{"ip route add 0.0.0.0/1 dev tun0", "[br0 lan0] [tun0]"},
		{"ip route del 0.0.0.0/1; ip route add unreachable 10.22.0.0/16; ip route add default via fd00:1::1 metric 9", "[br0 lan0 lan1] []"},
		{"ip route del default via fd00:1::1; ip route add 10.23.0.0/16 nexthop via 198.51.100.1 nexthop via 192.0.2.1", "[br0 lan0] [lan1]"},
		{"ip route del 10.23.0.0/16; ip route del default metric 9; ip route del default", "[] [lan0 lan1]"},
	} {
		sh(t, "%s", c.change)
		n, err := k.Node()
		if err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprint(n.DefaultLinks, n.GatewayLinks); got != c.want {
			t.Errorf("after %s: %s, want %s", c.change, got, c.want)
		}
	}
}
