// Package announce sends ARP announcements and unsolicited neighbour advertisements.
package announce

import (
	"encoding/binary"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
)

const (
	// A veth end that has just come up drops frames until the kernel has noticed its
	// carrier, which takes less than a millisecond.
	tries = 5
	pause = 2 * time.Millisecond
	// patience is how long a port of a bridge may take to forward: on a busy node the kernel
	// has it forward some time after its carrier came up.
	patience = 2 * time.Second
)

// Await waits at most two seconds while the bridge port at the other end of a link is
// blocked: a bridge drops what such a port gets.
func Await(blocked func() bool) {
	for end := time.Now().Add(patience); blocked() && time.Now().Before(end); {
		time.Sleep(pause)
	}
}

// Send tells the neighbours of a link the MAC address of addresses. It must be called on a
// thread in the link's namespace.
func Send(link int32, mac netstate.MAC, addresses []netip.Addr) error {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	for _, a := range addresses {
		f := frame(mac, a)
		for try := range tries {
			if err = unix.Sendto(fd, f, 0, &unix.SockaddrLinklayer{Ifindex: int(link), Halen: 6}); err == nil || try == tries-1 {
				break
			}
			time.Sleep(pause)
		}
	}
	return err
}

// frame is the Ethernet frame by which an address is announced: an ARP
// announcement (RFC 5227, 3) or an unsolicited neighbour advertisement (RFC
// 4861, 7.2.6).
func frame(mac netstate.MAC, a netip.Addr) []byte {
	if a.Is4() {
		return arpAnnouncement(mac, a)
	}
	return neighborAdvertisement(mac, a)
}

func arpAnnouncement(mac netstate.MAC, a netip.Addr) []byte {
	f := ethernet([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, mac, unix.ETH_P_ARP)
	f = append(f, 0, 1, 8, 0, 6, 4, 0, 1) // Ethernet, IPv4, request
	f = append(append(f, mac[:]...), a.AsSlice()...)
	f = append(f, make([]byte, 6)...)
	return append(f, a.AsSlice()...)
}

func neighborAdvertisement(mac netstate.MAC, a netip.Addr) []byte {
	allNodes := netip.MustParseAddr("ff02::1")
	const typeNA, override, targetLinkLayer = 136, 0x20, 2
	na := append([]byte{typeNA, 0, 0, 0, override, 0, 0, 0}, a.AsSlice()...)
	na = append(append(na, targetLinkLayer, 1), mac[:]...)
	pseudo := append(append(a.AsSlice(), allNodes.AsSlice()...), 0, 0, 0, byte(len(na)), 0, 0, 0, unix.IPPROTO_ICMPV6)
	binary.BigEndian.PutUint16(na[2:], checksum(append(pseudo, na...)))

	f := ethernet([]byte{0x33, 0x33, 0, 0, 0, 1}, mac, unix.ETH_P_IPV6)
	f = append(f, 0x60, 0, 0, 0, 0, byte(len(na)), unix.IPPROTO_ICMPV6, 255)
	f = append(append(f, a.AsSlice()...), allNodes.AsSlice()...)
	return append(f, na...)
}

func ethernet(to []byte, from netstate.MAC, kind uint16) []byte {
	return binary.BigEndian.AppendUint16(append(to, from[:]...), kind)
}

// checksum is the Internet checksum (RFC 1071) of an even number of bytes.
func checksum(b []byte) uint16 {
	var sum uint32
	for i := 0; i < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}
