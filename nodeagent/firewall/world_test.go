package firewall

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/patchbay-dev/patchbay/nodeagent/firewall/firewalltest"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
	"golang.org/x/sys/unix"
)

// The world is the sandbox as a node, with the attachments a and b on br-red, c
// on br-blue and d and e on br-iso, whose ports are isolated; and two foreign
// networks with one neighbour each: out on 192.0.2.0/24 and far on
// 198.51.100.0/24. Every attachment has the node as its default route; out
// routes to the attachments through the node, as an attacker would.
type place struct {
	netns, port, bridge string
	v4, v6              netip.Addr
	mac                 netstate.MAC
}

var (
	placeA = place{"a", "vetha", "br-red", firewalltest.Addr("10.68.0.101"), firewalltest.Addr("fd00:68::101"), netstate.MAC{2, 0x68, 0, 0, 0, 0xa}}
	placeB = place{"b", "vethb", "br-red", firewalltest.Addr("10.68.0.102"), firewalltest.Addr("fd00:68::102"), netstate.MAC{2, 0x68, 0, 0, 0, 0xb}}
	placeC = place{"c", "vethc", "br-blue", firewalltest.Addr("10.69.0.101"), firewalltest.Addr("fd00:69::101"), netstate.MAC{2, 0x69, 0, 0, 0, 0xc}}
	placeD = place{"d", "vethd", "br-iso", firewalltest.Addr("10.70.0.101"), firewalltest.Addr("fd00:70::101"), netstate.MAC{2, 0x70, 0, 0, 0, 0xd}}
	placeE = place{"e", "vethe", "br-iso", firewalltest.Addr("10.70.0.102"), firewalltest.Addr("fd00:70::102"), netstate.MAC{2, 0x70, 0, 0, 0, 0xe}}
	places = []place{placeA, placeB, placeC, placeD, placeE}
)

const (
	node4, node6 = "192.0.2.1", "2001:db8:1::1"
	out4, out6   = "192.0.2.9", "2001:db8:1::9"
	far4, far6   = "198.51.100.9", "2001:db8:2::9"

	// A caching name server of the node has such an address.
	nodeLocal     = "169.254.20.10"
	nodeLinkLocal = "fe80::99"
)

func buildWorld(t testing.TB) {
	t.Helper()
	firewalltest.Run(t, `sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1 net.ipv4.conf.all.send_redirects=0 net.ipv4.conf.default.send_redirects=0
		sysctl -qw net.ipv6.conf.all.accept_dad=0 net.ipv6.conf.default.accept_dad=0
		bridge() { ip link add $1 type bridge; ip addr add $2 dev $1; ip addr add $3 dev $1 nodad; ip link set $1 up; }
		bridge br-red 10.68.0.1/24 fd00:68::1/64
		bridge br-blue 10.69.0.1/24 fd00:69::1/64
		bridge br-iso 10.70.0.1/24 fd00:70::1/64`)
	for _, p := range places {
		firewalltest.Run(t, fmt.Sprintf(`ip netns add %[1]s; ip link add %[2]s type veth peer name eth0 netns %[1]s
			ip -n %[1]s link set lo up; ip netns exec %[1]s sysctl -qw net.ipv6.conf.all.accept_dad=0 net.ipv6.conf.default.accept_dad=0
			ip -n %[1]s link set eth0 address %[6]s up; ip link set %[2]s master %[3]s up
			ip -n %[1]s addr add %[4]s/24 dev eth0; ip -n %[1]s addr add %[5]s/64 dev eth0 nodad
			ip -n %[1]s route add default via %[7]s; ip -n %[1]s route add default via %[8]s`,
			p.netns, p.port, p.bridge, p.v4, p.v6, p.mac, gateway(p.v4.String()), gateway(p.v6.String())))
	}
	// Snooping would keep listener reports from the neighbours.
	firewalltest.Run(t, `ip link set br-red type bridge mcast_snooping 0
		for p in vethd vethe; do bridge link set dev $p isolated on; done
		foreign() { ip netns add $1; ip link add eth-$1 type veth peer name eth0 netns $1; ip link set eth-$1 up
			ip -n $1 link set lo up; ip netns exec $1 sysctl -qw net.ipv6.conf.all.accept_dad=0; ip -n $1 link set eth0 up
			ip addr add $2.1/24 dev eth-$1; ip addr add $3::1/64 dev eth-$1 nodad
			ip -n $1 addr add $2.9/24 dev eth0; ip -n $1 addr add $3::9/64 dev eth0 nodad; }
		foreign out 192.0.2 2001:db8:1
		foreign far 198.51.100 2001:db8:2
		for n in out:192.0.2.1:2001:db8:1::1 far:198.51.100.1:2001:db8:2::1; do
			ns=${n%%:*}; n=${n#*:}; four=${n%%:*}; six=${n#*:}
			for r in 10.68.0.0/24 10.69.0.0/24 10.70.0.0/24; do ip -n $ns route add $r via $four; done
			for r in fd00:68::/64 fd00:69::/64 fd00:70::/64; do ip -n $ns route add $r via $six; done
		done
		ip addr add 169.254.20.10/32 dev lo; ip addr add fe80::99/64 dev eth-out nodad
		ip -n out route add 198.51.100.0/24 via 192.0.2.1; ip -n far route add 192.0.2.0/24 via 198.51.100.1
		ip -n out route add 2001:db8:2::/64 via 2001:db8:1::1; ip -n far route add 2001:db8:1::/64 via 2001:db8:2::1`)
}

// bridgeNF switches br_netfilter; with it, ports of publish targets are in
// hairpin mode. It skips what needs it where the kernel lacks it.
func bridgeNF(t testing.TB, on bool) {
	t.Helper()
	const file = "/proc/sys/net/bridge/bridge-nf-call-ip"
	value := "0"
	if on {
		value = "1"
	}
	for _, f := range []string{file + "tables", file + "6tables"} {
		if err := os.WriteFile(f, []byte(value), 0); err != nil && on {
			t.Skip("this kernel has no br_netfilter")
		}
	}
	if on {
		firewalltest.Run(t, "for p in vetha vethb vethc; do bridge link set dev $p hairpin on; done")
	}
}

// in runs a function on a thread of its own in a namespace; empty is the node.
// Sockets stay in the namespace that they were made in.
func in[T any](t testing.TB, netns string, fn func() (T, error)) (T, error) {
	t.Helper()
	if netns == "" {
		return fn()
	}
	type result struct {
		value T
		err   error
	}
	done := make(chan result)
	go func() {
		// Never unlocked, so that the thread ends with the goroutine.
		runtime.LockOSThread()
		var r result
		f, err := os.Open("/run/netns/" + netns)
		if err == nil {
			err = unix.Setns(int(f.Fd()), unix.CLONE_NEWNET)
			f.Close()
		}
		if r.err = err; err == nil {
			r.value, r.err = fn()
		}
		done <- r
	}()
	r := <-done
	return r.value, r.err
}

// patience is what something that must work may take; enough is how long
// something that must fail is given, a hundred times what it would take.
const (
	patience = 5 * time.Second
	enough   = 200 * time.Millisecond
)

// listen has a function talk on every connection to an address, until the test ends.
func listen(t testing.TB, netns, address string, talk func(net.Conn)) {
	t.Helper()
	l, err := in(t, netns, func() (net.Listener, error) { return net.Listen("tcp", address) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				talk(c)
			}()
		}
	}()
}

// serveTCP answers every connection with the address it seems to come from, and
// echoes after that.
func serveTCP(t testing.TB, netns, address string) {
	t.Helper()
	listen(t, netns, address, func(c net.Conn) {
		fmt.Fprintln(c, c.RemoteAddr().(*net.TCPAddr).AddrPort().Addr().Unmap())
		io.Copy(c, c)
	})
}

// inbox is a UDP server that keeps what it gets and answers like serveTCP.
type inbox struct {
	mu  sync.Mutex
	got []string
}

func serveUDP(t testing.TB, netns, address string) *inbox {
	t.Helper()
	box, stop := serveInbox(t, netns, address)
	t.Cleanup(stop)
	return box
}

// serveInbox serves until it is stopped.
func serveInbox(t testing.TB, netns, address string) (*inbox, func()) {
	t.Helper()
	c, err := in(t, netns, func() (net.PacketConn, error) { return net.ListenPacket("udp", address) })
	if err != nil {
		t.Fatal(err)
	}
	box := &inbox{}
	go func() {
		buffer := make([]byte, 2048)
		for {
			n, from, err := c.ReadFrom(buffer)
			if err != nil {
				return
			}
			box.mu.Lock()
			box.got = append(box.got, string(buffer[:n]))
			box.mu.Unlock()
			c.WriteTo([]byte(address+" "+from.(*net.UDPAddr).AddrPort().Addr().Unmap().String()), from)
		}
	}()
	return box, func() { c.Close() }
}

func (b *inbox) has(text string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, s := range b.got {
		if s == text {
			return true
		}
	}
	return false
}

// dial connects and returns the address that the server saw.
func dial(t testing.TB, netns, network, address string, wait time.Duration) (net.Conn, string, error) {
	t.Helper()
	c, err := in(t, netns, func() (net.Conn, error) { return net.DialTimeout(network, address, wait) })
	if err != nil {
		return nil, "", err
	}
	c.SetDeadline(time.Now().Add(wait))
	if network == "udp" {
		fmt.Fprint(c, "hello")
	}
	buffer := make([]byte, 200)
	n, err := c.Read(buffer)
	if err != nil {
		c.Close()
		return nil, "", err
	}
	c.SetDeadline(time.Time{})
	return c, strings.TrimSpace(string(buffer[:n])), nil
}

// reaches expects a connection and the address that the server sees; empty is
// any.
func reaches(t testing.TB, netns, network, address, seen string) {
	t.Helper()
	c, got, err := dial(t, netns, network, address, patience)
	if err != nil {
		t.Errorf("%s from %q to %s: %v", network, netns, address, err)
		return
	}
	c.Close()
	if _, from, ok := strings.Cut(got, " "); ok {
		got = from
	}
	if seen != "" && got != seen {
		t.Errorf("%s from %q to %s: the server sees %s, want %s", network, netns, address, got, seen)
	}
}

// probe is where something must not be reached from.
type probe struct{ netns, address string }

func refused(t testing.TB, network string, probes ...probe) {
	t.Helper()
	var all sync.WaitGroup
	for _, p := range probes {
		all.Go(func() {
			if c, _, err := dial(t, p.netns, network, p.address, enough); err == nil {
				c.Close()
				t.Errorf("%s from %q to %s works", network, p.netns, p.address)
			}
		})
	}
	all.Wait()
}

func pings(t testing.TB, netns, to string) bool {
	t.Helper()
	args := []string{"ping", "-n", "-c1", "-W1", to}
	if netns != "" {
		args = append([]string{"ip", "netns", "exec", netns}, args...)
	}
	return exec.Command(args[0], args[1:]...).Run() == nil
}

// tap is a packet socket on an interface.
type tap struct {
	fd   int
	file *os.File
}

func openTap(t testing.TB, netns, link string) *tap {
	t.Helper()
	p, err := in(t, netns, func() (*tap, error) {
		ifi, err := net.InterfaceByName(link)
		if err != nil {
			return nil, err
		}
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, int(htons(unix.ETH_P_ALL)))
		if err != nil {
			return nil, err
		}
		if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: htons(unix.ETH_P_ALL), Ifindex: ifi.Index}); err != nil {
			return nil, err
		}
		return &tap{fd, os.NewFile(uintptr(fd), link)}, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.file.Close() })
	return p
}

func htons(v uint16) uint16 { return binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, v)) }

func (p *tap) send(t testing.TB, frame []byte) {
	t.Helper()
	if _, err := p.file.Write(frame); err != nil {
		t.Fatal(err)
	}
}

// passed reports whether a frame with the text arrives before one with the end
// does, which must arrive.
func (p *tap) passed(t testing.TB, text, end string) bool {
	t.Helper()
	deadline := time.Now().Add(2 * time.Second)
	passed, buffer := false, make([]byte, 4096)
	if err := p.file.SetReadDeadline(deadline); err != nil {
		t.Fatal(err)
	}
	for {
		n, err := p.file.Read(buffer)
		if err != nil {
			t.Fatalf("wait for the frame %q: %v", end, err)
		}
		passed = passed || bytes.Contains(buffer[:n], []byte(text))
		if bytes.Contains(buffer[:n], []byte(end)) {
			return passed
		}
	}
}
