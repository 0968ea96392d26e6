package kernel

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
	"github.com/patchbay-dev/patchbay/nodeagent/plan"
	"github.com/patchbay-dev/patchbay/test/sandbox"
)

// BenchmarkAttachment reports what 100 attachments cost beside the bare
// messages that they need: namespace, veth, state, address and route.
func BenchmarkAttachment(b *testing.B) {
	if !sandbox.Enter(b) {
		return
	}
	k := open(b)
	build(b, k, bridge("br-red"))
	apply(b, k, create(managed("first")))
	const count = 100
	for b.Loop() {
		start := time.Now()
		for i := range count {
			bare(b, fmt.Sprint("bare", i), fmt.Sprint("vb", i))
		}
		messages := time.Since(start)
		start = time.Now()
		for i := range count {
			whole(b, k, fmt.Sprint("ours", i), fmt.Sprint("vo", i))
		}
		ours := time.Since(start)
		start = time.Now()
		var keys []netstate.Key
		for i := range count {
			host, inside := pair(netstate.End{Name: fmt.Sprint("vo", i)}, netstate.End{Netns: fmt.Sprint("ours", i), Name: "eth0"}, "br-red")
			keys = keysOf(host, inside, managed(inside.Netns), addressOn(inside, "10.68.0.101/24"), routeVia(inside, "0.0.0.0/0", "10.68.0.1"))
			observe(b, k, keys...)
		}
		b.ReportMetric(float64(time.Since(start).Microseconds())/count, "µs/observed")
		b.ReportMetric(float64(messages.Microseconds())/count, "µs/bare")
		b.ReportMetric(float64(ours.Microseconds())/count, "µs/ours")
		b.ReportMetric(ours.Seconds()/messages.Seconds(), "ratio")
	}
	fmt.Fprintln(os.Stderr, b.Elapsed())
	_ = exec.Command
}

func whole(b *testing.B, k *Kernel, name, veth string) {
	apply(b, k, create(managed(name)))
	host, inside := pair(netstate.End{Name: veth}, netstate.End{Netns: name, Name: "eth0"}, "br-red")
	build(b, k, host, inside)
	apply(b, k, create(addressOn(inside, "10.68.0.101/24")))
	apply(b, k, create(routeVia(inside, "0.0.0.0/0", "10.68.0.1")))
}

func bare(b *testing.B, name, veth string) {
	check := func(err error) {
		if err != nil {
			b.Fatal(err)
		}
	}
	path := "/run/netns/" + name
	check(os.WriteFile(path, nil, 0o444))
	check(onFreshThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return err
		}
		return unix.Mount("/proc/thread-self/ns/net", path, "none", unix.MS_BIND, "")
	}))
	ns, err := netns.GetFromPath(path)
	check(err)
	defer ns.Close()
	br, err := netlink.LinkByName("br-red")
	check(err)
	attrs := netlink.LinkAttrs{Name: veth, MasterIndex: br.Attrs().Index, MTU: 1400}
	check(netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "eth0", PeerNamespace: netlink.NsFd(ns)}))
	host, err := netlink.LinkByName(veth)
	check(err)
	check(netlink.LinkSetUp(host))
	h, err := netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
	check(err)
	defer h.Close()
	lo, err := h.LinkByName("lo")
	check(err)
	check(h.LinkSetUp(lo))
	inside, err := h.LinkByName("eth0")
	check(err)
	check(h.LinkSetUp(inside))
	addr, err := netlink.ParseAddr("10.68.0.101/24")
	check(err)
	check(h.AddrAdd(inside, addr))
	check(h.RouteAdd(&netlink.Route{LinkIndex: inside.Attrs().Index, Gw: netip.MustParseAddr("10.68.0.1").AsSlice()}))
	_ = plan.Create
}
