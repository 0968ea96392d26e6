package kernel

import (
	"fmt"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/patchbay-dev/patchbay/nodeagent/kernel/netnsdir"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
	"github.com/patchbay-dev/patchbay/test/sandbox"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
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
		var messages, ours, observed []time.Duration
		for i := range count {
			// In turn, so that what else the machine does hits all alike.
			messages = append(messages, timed(func() { bare(b, fmt.Sprint("bare", i), fmt.Sprint("vb", i)) }))
			name, veth := fmt.Sprint("ours", i), fmt.Sprint("vo", i)
			ours = append(ours, timed(func() { whole(b, k, name, veth) }))
			host, inside := pair(netstate.End{Name: veth}, netstate.End{Netns: name, Name: "eth0"}, "br-red")
			keys := keysOf(managed(name), host, inside, addressOn(inside, "10.68.0.101/24"), routeVia(inside, "0.0.0.0/0", "10.68.0.1"))
			observed = append(observed, timed(func() { observe(b, k, keys...) }))
		}
		b.ReportMetric(median(messages), "µs/bare")
		b.ReportMetric(median(ours), "µs/ours")
		b.ReportMetric(median(observed), "µs/observed")
		b.ReportMetric(median(ours)/median(messages), "ratio")
	}
}

func timed(f func()) time.Duration {
	start := time.Now()
	f()
	return time.Since(start)
}

// median is in microseconds.
func median(d []time.Duration) float64 {
	slices.Sort(d)
	return float64(d[len(d)/2].Nanoseconds()) / 1e3
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
	check(netnsdir.OnFreshThread(func() error {
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
}
