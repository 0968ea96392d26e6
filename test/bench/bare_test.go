package bench

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/patchbay-dev/patchbay/test/netlab"
)

// The main thread cannot end with a goroutine and would stay in a namespace;
// locked here, no other goroutine runs on it.
func init() { runtime.LockOSThread() }

// bare makes and removes the same namespaces, links, addresses, routes and
// firewall elements with the fewest messages there are, in one go, without
// asking first and without remembering.
func bare(b *testing.B) (build, remove time.Duration) {
	must := func(err error) {
		b.Helper()
		if err != nil {
			b.Fatal(err)
		}
	}
	must(os.MkdirAll("/run/bare", 0o755))
	start := time.Now()
	bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br-bare", Group: 77}}
	must(netlink.LinkAdd(bridge))
	must(nft(filters()))
	for i := range attachments {
		must(bareAttach(i, bridge))
	}
	must(netlink.LinkSetUp(bridge))
	must(netlink.AddrAdd(bridge, &netlink.Addr{IPNet: &net.IPNet{IP: net.IPv4(10, 68, 0, 1), Mask: net.CIDRMask(16, 32)}}))
	must(nft(publishes()))
	build = time.Since(start)

	start = time.Now()
	must(nft(elementsOnly(publishes())))
	must(nft(elementsOnly(filters())))
	must(exec.Command("ip", "link", "delete", "group", "77").Run())
	for i := range attachments {
		must(unix.Unmount(file(i), unix.MNT_DETACH))
		must(os.Remove(file(i)))
	}
	return build, time.Since(start)
}

// awaitCleanup waits until the kernel has taken down the namespaces that were
// removed: it does so in the background, under the lock that the next
// measurement needs. A namespace loses its number when it is down.
func awaitCleanup(b *testing.B) {
	netlab.Until(b, 30*time.Second, "removed namespaces are down", func() bool {
		out, err := netlab.Node.Run("ip", "netns", "list-id")
		return err == nil && out == ""
	})
}

func file(i int) string { return fmt.Sprintf("/run/bare/%d", i) }

// bareAttach makes one namespace and wires it to the bridge.
func bareAttach(i int, bridge netlink.Link) error {
	ns, err := newNamespace(file(i))
	if err != nil {
		return err
	}
	defer ns.Close()
	veth := &netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{Name: fmt.Sprintf("vethb%d", i), Group: 77, MTU: 1500, MasterIndex: bridge.Attrs().Index},
		PeerName:  "eth0", PeerNamespace: netlink.NsFd(int(ns.Fd())),
	}
	if err := netlink.LinkAdd(veth); err != nil {
		return err
	}
	if err := netlink.LinkSetMaster(veth, bridge); err != nil {
		return err
	}
	if err := netlink.LinkSetAlias(veth, "bare"); err != nil {
		return err
	}
	if err := os.WriteFile("/proc/sys/net/ipv6/conf/"+veth.Name+"/disable_ipv6", []byte("1"), 0); err != nil {
		return err
	}
	if err := netlink.LinkSetUp(veth); err != nil {
		return err
	}
	return inside(i)
}

// newNamespace makes a namespace with its loopback up, mounted on a file.
func newNamespace(path string) (*os.File, error) {
	if err := os.WriteFile(path, nil, 0o444); err != nil {
		return nil, err
	}
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		done <- func() error {
			if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
				return err
			}
			lo, err := netlink.LinkByName("lo")
			if err != nil {
				return err
			}
			if err := netlink.LinkSetUp(lo); err != nil {
				return err
			}
			return unix.Mount("/proc/thread-self/ns/net", path, "", unix.MS_BIND, "")
		}()
	}()
	if err := <-done; err != nil {
		return nil, err
	}
	return os.Open(path)
}

// inside configures the end in the namespace.
func inside(i int) error {
	return netlab.Netns(file(i)).Do(func() error {
		for _, s := range []string{"accept_dad", "accept_ra"} {
			if err := os.WriteFile("/proc/sys/net/ipv6/conf/eth0/"+s, []byte("0"), 0); err != nil {
				return err
			}
		}
		eth0, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		if err := netlink.LinkSetAlias(eth0, "bare"); err != nil {
			return err
		}
		if err := netlink.LinkSetUp(eth0); err != nil {
			return err
		}
		a := address(i)
		if err := netlink.AddrAdd(eth0, &netlink.Addr{IPNet: &net.IPNet{IP: a.Addr().AsSlice(), Mask: net.CIDRMask(a.Bits(), 32)}}); err != nil {
			return err
		}
		return netlink.RouteAdd(&netlink.Route{LinkIndex: eth0.Attrs().Index, Gw: net.IPv4(10, 68, 0, 1)})
	})
}

// filters is the tables with the elements of the attachments' filters.
func filters() string {
	var s strings.Builder
	s.WriteString(`table bridge bare {
 set filtered { type ifname; }
 set own_mac { type ifname . ether_addr; }
 set own_ip4 { type ifname . ether_addr . ipv4_addr; }
 set own_ip6 { type ifname . ether_addr . ipv6_addr; }
}
table inet bare {
 map any_ports4 { type inet_proto . inet_service : ipv4_addr . inet_service; }
 set targets4 { type ipv4_addr . inet_proto . inet_service; }
}
`)
	for i := range attachments {
		mac := fmt.Sprintf("02:00:00:00:%02x:%02x", i>>8, i&255)
		fmt.Fprintf(&s, "add element bridge bare filtered { vethb%d }\n", i)
		fmt.Fprintf(&s, "add element bridge bare own_mac { vethb%d . %s }\n", i, mac)
		fmt.Fprintf(&s, "add element bridge bare own_ip4 { vethb%d . %s . %s }\n", i, mac, address(i).Addr())
		fmt.Fprintf(&s, "add element bridge bare own_ip6 { vethb%d . %s . fe80::%x }\n", i, mac, i+1)
	}
	return s.String()
}

func publishes() string {
	var s strings.Builder
	for i := range attachments {
		fmt.Fprintf(&s, "add element inet bare any_ports4 { tcp . %d : %s . 80 }\n", 10000+i, address(i).Addr())
		fmt.Fprintf(&s, "add element inet bare targets4 { %s . tcp . 80 }\n", address(i).Addr())
	}
	return s.String()
}

// elementsOnly turns a script that adds into one that deletes its elements.
func elementsOnly(script string) string {
	var s strings.Builder
	for line := range strings.Lines(script) {
		if rest, ok := strings.CutPrefix(line, "add element"); ok {
			s.WriteString("delete element" + rest)
		}
	}
	return s.String()
}

func nft(script string) error {
	cmd := exec.Command("nft", "-f", "-")
	cmd.Stdin = strings.NewReader(script)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("nft: %w: %s", err, out)
	}
	return nil
}
