package scenarios

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/patchbay-dev/patchbay/test/netlab"
	"golang.org/x/sys/unix"
)

// frameWindow is how long a frame is awaited: veth and bridge deliver within
// the send call, so this is for a busy machine.
const frameWindow = 300 * time.Millisecond

func frame(c call) (output, error) {
	if len(c.args) != 5 {
		return output{}, errUsage
	}
	from, err := openTap(c.args[0])
	if err != nil {
		return output{}, err
	}
	defer from.Close()
	to, err := openTap(c.args[1])
	if err != nil {
		return output{}, err
	}
	defer to.Close()
	mac := from.MAC
	if c.args[3] != "own" {
		if mac, err = net.ParseMAC(c.args[3]); err != nil {
			return output{}, err
		}
	}
	ip, err := netip.ParseAddr(c.args[4])
	if err != nil {
		return output{}, err
	}
	data, err := buildFrame(c.args[2], mac, ip)
	if err != nil {
		return output{}, err
	}
	if err := from.Send(data); err != nil {
		return output{}, fmt.Errorf("send from %s: %w", c.args[0], err)
	}
	arrived, err := to.Await(frameWindow, func(frame []byte) bool { return bytes.HasPrefix(frame, data) })
	if err == nil && !arrived {
		err = netlab.Refuted("the frame did not arrive")
	}
	return output{}, err
}

// openTap takes NETNS/IF.
func openTap(where string) (*netlab.Tap, error) {
	name, link, ok := strings.Cut(where, "/")
	if !ok || link == "" {
		return nil, errUsage
	}
	return netlab.OpenTap(netlab.Netns(name), link)
}

var broadcast = net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

var everyone = netip.AddrFrom4([4]byte{255, 255, 255, 255})

var allNodes = netip.MustParseAddr("ff02::1")

func buildFrame(kind string, mac net.HardwareAddr, ip netip.Addr) ([]byte, error) {
	etherType := uint16(unix.ETH_P_IP)
	var payload []byte
	switch {
	case kind == "arp-request" && ip.Is4():
		etherType, payload = unix.ETH_P_ARP, arp(1, mac, ip)
	case kind == "arp-reply" && ip.Is4():
		etherType, payload = unix.ETH_P_ARP, arp(2, mac, ip)
	case kind == "udp" && ip.Is4():
		payload = ipv4(ip, udp(ip, everyone, forgedPort, forgedPort))
	case kind == "dhcp" && ip.Is4():
		payload = ipv4(ip, udp(ip, everyone, 68, 67))
	case kind == "dhcp" && ip.Is6():
		etherType, payload = unix.ETH_P_IPV6, ipv6(unix.IPPROTO_UDP, ip, udp(ip, allNodes, 546, 547))
	case kind == "udp" && ip.Is6():
		etherType, payload = unix.ETH_P_IPV6, ipv6(unix.IPPROTO_UDP, ip, udp(ip, allNodes, forgedPort, forgedPort))
	case kind == "dad" && ip.Is6():
		none := netip.IPv6Unspecified()
		body := append([]byte{135, 0, 0, 0, 0, 0, 0, 0}, ip.AsSlice()...)
		etherType, payload = unix.ETH_P_IPV6, ipv6(unix.IPPROTO_ICMPV6, none, icmp6(none, body))
	case kind == "na" && ip.Is6():
		body := append([]byte{136, 0, 0, 0, 0x20, 0, 0, 0}, ip.AsSlice()...)
		etherType, payload = unix.ETH_P_IPV6, ipv6(unix.IPPROTO_ICMPV6, ip, icmp6(ip, append(append(body, 2, 1), mac...)))
	case kind == "ra" && ip.Is6():
		body := []byte{134, 0, 0, 0, 64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1}
		etherType, payload = unix.ETH_P_IPV6, ipv6(unix.IPPROTO_ICMPV6, ip, icmp6(ip, append(body, mac...)))
	default:
		return nil, fmt.Errorf("no frame of kind %s from %s", kind, ip)
	}
	head := append(append([]byte{}, broadcast...), mac...)
	return append(binary.BigEndian.AppendUint16(head, etherType), payload...), nil
}

// arp asks for, or answers with, the sender's own address, which is what
// poisons a neighbour's cache.
func arp(op byte, mac net.HardwareAddr, ip netip.Addr) []byte {
	p := []byte{0, 1, 8, 0, 6, 4, 0, op}
	p = append(append(p, mac...), ip.AsSlice()...)
	return append(append(p, broadcast...), ip.AsSlice()...)
}

func ipv4(src netip.Addr, body []byte) []byte {
	p := []byte{0x45, 0, 0, byte(20 + len(body)), 0, 0, 0, 0, 64, unix.IPPROTO_UDP, 0, 0}
	p = append(append(p, src.AsSlice()...), 255, 255, 255, 255)
	binary.BigEndian.PutUint16(p[10:], checksum(p))
	return append(p, body...)
}

func ipv6(next byte, src netip.Addr, body []byte) []byte {
	p := []byte{0x60, 0, 0, 0, 0, byte(len(body)), next, 255}
	return append(append(append(p, src.AsSlice()...), allNodes.AsSlice()...), body...)
}

const forgedPort = 9999

func udp(src, dst netip.Addr, from, to uint16) []byte {
	const text = "forged"
	p := binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(nil, from), to)
	p = append(p, 0, byte(8+len(text)), 0, 0)
	p = append(p, text...)
	binary.BigEndian.PutUint16(p[6:], checksum(pseudoHeader(src, dst, unix.IPPROTO_UDP, p)))
	return p
}

func icmp6(src netip.Addr, p []byte) []byte {
	binary.BigEndian.PutUint16(p[2:], checksum(pseudoHeader(src, allNodes, unix.IPPROTO_ICMPV6, p)))
	return p
}

func pseudoHeader(src, dst netip.Addr, proto byte, body []byte) []byte {
	p := append(src.AsSlice(), dst.AsSlice()...)
	return append(append(p, 0, proto, 0, byte(len(body))), body...)
}

func checksum(b []byte) uint16 {
	var sum uint32
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	if len(b)%2 == 1 {
		sum += uint32(b[len(b)-1]) << 8
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}
