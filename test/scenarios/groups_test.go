package scenarios

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"

	"github.com/patchbay-dev/patchbay/test/netlab"
	"golang.org/x/sys/unix"
)

// groups sends frames to each of the 16 link-local group addresses
// (01:80:c2:00:00:0x), which a bridge treats unlike all other groups, with every kind
// of payload, and reads the answers.
func groups(c call) (output, error) {
	if len(c.args) != 4 {
		return output{}, errUsage
	}
	p, err := openTap(c.args[0])
	if err != nil {
		return output{}, err
	}
	defer p.Close()
	src, err1 := netip.ParseAddr(c.args[2])
	dst, err2 := netip.ParseAddr(c.args[3])
	if err := errors.Join(err1, err2); err != nil {
		return output{}, err
	}
	for last := range byte(16) {
		mac, err := sender(c.args[1], p.MAC)
		if err != nil {
			return output{}, err
		}
		for kind, payload := range groupPayloads(mac, src, dst) {
			head := append(net.HardwareAddr{1, 0x80, 0xc2, 0, 0, last}, mac...)
			if err := p.Send(append(head, payload...)); err != nil {
				return output{}, fmt.Errorf("send %s to group %x: %w", kind, last, err)
			}
		}
	}
	return answered(p)
}

// flood sends broadcasts, each from another MAC address.
func flood(c call) (output, error) {
	if c.neg || len(c.args) != 2 {
		return output{}, errUsage
	}
	count, err := strconv.Atoi(c.args[1])
	if err != nil {
		return output{}, errUsage
	}
	p, err := openTap(c.args[0])
	if err != nil {
		return output{}, err
	}
	defer p.Close()
	for range count {
		mac, err := sender("random", nil)
		if err != nil {
			return output{}, err
		}
		data, err := buildFrame("udp", mac, netip.IPv4Unspecified())
		if err != nil {
			return output{}, err
		}
		if err := p.Send(data); err != nil {
			return output{}, fmt.Errorf("send from %s: %w", c.args[0], err)
		}
	}
	return output{}, nil
}

// sender is the source MAC address: "own", "random", or the one named.
func sender(text string, own net.HardwareAddr) (net.HardwareAddr, error) {
	switch text {
	case "own":
		return own, nil
	case "random":
		mac := net.HardwareAddr{2, 0, 0, 0, 0, 0}
		_, err := rand.Read(mac[1:])
		return mac, err
	}
	return net.ParseMAC(text)
}

// groupPayloads are what follows the addresses of a frame, the type first.
func groupPayloads(mac net.HardwareAddr, src, dst netip.Addr) map[string][]byte {
	echo := echoRequest([]byte("grouped!"), src, dst)
	packet := []byte{0x45, 0, 0, byte(20 + len(echo)), 0, 0, 0, 0, 64, unix.IPPROTO_ICMP, 0, 0}
	packet = append(append(packet, src.AsSlice()...), dst.AsSlice()...)
	binary.BigEndian.PutUint16(packet[10:], checksum(packet))
	ip := typed(unix.ETH_P_IP, append(packet, echo...))
	local := netip.AddrFrom16([16]byte{0xfe, 0x80, 8: mac[0] ^ 2, mac[1], mac[2], 0xff, 0xfe, mac[3], mac[4], mac[5]})
	noise := make([]byte, 64)
	rand.Read(noise)
	return map[string][]byte{
		"LLC":       append([]byte{0, 46, 0x42, 0x42, 3}, make([]byte, 43)...),
		"LLDP":      append([]byte{0x88, 0xcc}, make([]byte, 46)...),
		"EAPOL":     append([]byte{0x88, 0x8e, 1, 1, 0, 0}, make([]byte, 42)...),
		"IPv4":      ip,
		"IPv6":      typed(unix.ETH_P_IPV6, ipv6(unix.IPPROTO_UDP, local, udp(local, allNodes, forgedPort, forgedPort))),
		"ARP":       typed(unix.ETH_P_ARP, arp(1, mac, src, dst)),
		"ARP probe": typed(unix.ETH_P_ARP, arp(1, mac, netip.IPv4Unspecified(), dst)),
		"VLAN":      append([]byte{0x81, 0, 0, 0}, ip...),
		"random":    noise,
	}
}

// answered waits for an ARP or echo reply.
func answered(p *netlab.Tap) (output, error) {
	var out output
	replied, err := p.Await(frameWindow, func(f []byte) bool {
		switch {
		case len(f) >= 22 && f[12] == 8 && f[13] == 6 && f[21] == 2:
			out.out = "ARP\n"
		case len(f) >= 35 && f[12] == 8 && f[13] == 0 && f[23] == unix.IPPROTO_ICMP && f[34] == 0:
			out.out = "echo\n"
		}
		return out.out != ""
	})
	if err == nil && !replied {
		err = netlab.Refuted("nothing answers")
	}
	return out, err
}
