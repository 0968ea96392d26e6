package kernel

import (
	"encoding/binary"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
	"github.com/patchbay-dev/patchbay/nodeagent/plan"
)

// Announce tells the neighbours of targets to which these steps gave an address,
// or another MAC: an entry of before would lead astray for up to a minute. It is
// for when filters are in place that let the announcement pass, and returns at
// once: to close a packet socket takes the kernel a grace period. Close waits
// for what is under way. What cannot be sent is left to the neighbours' own
// probes.
func (k *Kernel) Announce(steps []plan.Step) {
	fresh, moved := map[netstate.End][]netip.Addr{}, map[netstate.End]bool{}
	for _, step := range steps {
		end := netstate.End{Netns: step.Key.Netns, Name: step.Key.Link}
		if step.Op == plan.Delete || end.Netns == "" {
			continue
		}
		switch o := step.New.(type) {
		case netstate.Address:
			fresh[end] = append(fresh[end], o.Prefix.Addr())
		case netstate.Link:
			if old, ok := step.Old.(netstate.Link); ok && old.MAC != o.MAC {
				moved[end], fresh[end] = true, nil
			}
		}
	}
	for end, addresses := range fresh {
		k.announcing.Go(func() {
			k.announcers <- struct{}{}
			defer func() { <-k.announcers }()
			k.announce(end, addresses, moved[end])
		})
	}
}

// maxAnnouncers bounds the threads that wait for grace periods, which they share.
const maxAnnouncers = 16

// announce announces some addresses of a target, or all.
func (k *Kernel) announce(end netstate.End, addresses []netip.Addr, all bool) {
	s := k.session()
	defer s.close()
	if all {
		addresses = s.addressesOf(end)
	}
	if p, l, err := s.link(end); err == nil && l.up() && !l.loopback() {
		_ = p.run(func() error { return sendAnnouncements(l, addresses) })
	}
}

func (s *session) addressesOf(end netstate.End) []netip.Addr {
	var out []netip.Addr
	p, l, err := s.link(end)
	if err != nil {
		return nil
	}
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		list, err := p.addresses(family, l.index)
		if err != nil {
			continue
		}
		for _, a := range list {
			out = append(out, a.prefix.Addr())
		}
	}
	return out
}

const (
	// A veth end that has just come up drops what is sent before the kernel has
	// noticed its carrier, which takes less than a millisecond.
	announceTries = 5
	announcePause = 2 * time.Millisecond
)

// sendAnnouncements must be called in the link's namespace.
func sendAnnouncements(l *link, addresses []netip.Addr) error {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	for _, a := range addresses {
		frame := announcement(l.mac, a)
		for try := range announceTries {
			if err = unix.Sendto(fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: int(l.index), Halen: 6}); err == nil || try == announceTries-1 {
				break
			}
			time.Sleep(announcePause)
		}
	}
	return err
}

// announcement is the Ethernet frame by which an address is announced: an ARP
// announcement (RFC 5227, 3) or an unsolicited neighbour advertisement (RFC
// 4861, 7.2.6).
func announcement(mac netstate.MAC, a netip.Addr) []byte {
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

// checksum is that of RFC 1071, over an even number of bytes.
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
