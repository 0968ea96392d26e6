package scenarios

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"slices"
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
	if c.args[2] == "vlan" {
		// The kernel takes the tag off a frame that it hands over.
		data = slices.Concat(data[:12], data[16:])
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
	rest := frames4
	if ip.Is6() {
		rest = frames6
	}
	frame := rest(mac, ip)[kind]
	if frame == nil {
		return nil, fmt.Errorf("no frame of kind %s from %s", kind, ip)
	}
	return slices.Concat(broadcast, mac, frame), nil
}

// stranger is the MAC address of no interface.
var stranger = net.HardwareAddr{2, 0, 0, 0, 0, 0x99}

// frames4 are frames after their MAC addresses, by kind.
func frames4(mac net.HardwareAddr, ip netip.Addr) map[string][]byte {
	none, packet := netip.IPv4Unspecified(), typed(unix.ETH_P_IP, ipv4(ip, udp(ip, everyone, forgedPort, forgedPort)))
	return map[string][]byte{
		"arp-request": typed(unix.ETH_P_ARP, arp(1, mac, ip, ip)),
		"arp-reply":   typed(unix.ETH_P_ARP, arp(2, mac, ip, ip)),
		"arp-probe":   typed(unix.ETH_P_ARP, arp(1, mac, none, ip)),
		"reply-other": typed(unix.ETH_P_ARP, arp(2, stranger, ip, ip)),
		"probe-other": typed(unix.ETH_P_ARP, arp(1, stranger, none, ip)),
		"udp":         packet,
		"dhcp":        typed(unix.ETH_P_IP, ipv4(ip, udp(ip, everyone, 68, 67))),
		"vlan":        append([]byte{0x81, 0, 0, 0}, packet...),
		"lldp":        typed(0x88cc, make([]byte, 46)),
	}
}

func frames6(mac net.HardwareAddr, ip netip.Addr) map[string][]byte {
	none, target := netip.IPv6Unspecified(), ip.AsSlice()
	icmp := func(src netip.Addr, body ...[]byte) []byte {
		return typed(unix.ETH_P_IPV6, ipv6(unix.IPPROTO_ICMPV6, src, icmp6(src, slices.Concat(body...))))
	}
	// behind puts an extension header before the message.
	behind := func(next byte, src netip.Addr, header []byte, message []byte) []byte {
		return typed(unix.ETH_P_IPV6, ipv6(next, src, append(header, icmp6(src, message)...)))
	}
	options, fragment := []byte{unix.IPPROTO_ICMPV6, 0, 1, 4, 0, 0, 0, 0}, []byte{unix.IPPROTO_ICMPV6, 0, 0, 0, 0, 0, 0, 1}
	solicitation := slices.Concat([]byte{135, 0, 0, 0, 0, 0, 0, 0}, target)
	na := slices.Concat([]byte{136, 0, 0, 0, 0x20, 0, 0, 0}, target, []byte{2, 1}, mac)
	ra := slices.Concat([]byte{134, 0, 0, 0, 64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1}, mac)
	report := slices.Concat([]byte{143, 0, 0, 0, 0, 0, 0, 1, 4, 0, 0, 0}, allNodes.AsSlice())
	return map[string][]byte{
		"udp":         typed(unix.ETH_P_IPV6, ipv6(unix.IPPROTO_UDP, ip, udp(ip, allNodes, forgedPort, forgedPort))),
		"dhcp":        typed(unix.ETH_P_IPV6, ipv6(unix.IPPROTO_UDP, ip, udp(ip, allNodes, 546, 547))),
		"nowhere":     typed(unix.ETH_P_IPV6, ipv6(unix.IPPROTO_UDP, none, udp(none, allNodes, forgedPort, forgedPort))),
		"ns":          icmp(ip, solicitation),
		"dad":         icmp(none, solicitation),
		"na":          icmp(ip, na),
		"ra":          icmp(ip, ra),
		"redirect":    icmp(ip, []byte{137, 0, 0, 0, 0, 0, 0, 0}, target, target),
		"na-options":  behind(unix.IPPROTO_HOPOPTS, ip, options, na),
		"ra-options":  behind(unix.IPPROTO_HOPOPTS, ip, options, ra),
		"ra-fragment": behind(unix.IPPROTO_FRAGMENT, ip, fragment, ra),
		"report":      behind(unix.IPPROTO_HOPOPTS, none, options, report),
	}
}

// typed puts an Ethernet type before a payload.
func typed(etherType uint16, payload []byte) []byte {
	return append(binary.BigEndian.AppendUint16(nil, etherType), payload...)
}

// arp asks for a target, or answers, in the name of a sender. A sender that is its own
// target poisons a neighbour's cache.
func arp(op byte, mac net.HardwareAddr, sender, target netip.Addr) []byte {
	return slices.Concat([]byte{0, 1, 8, 0, 6, 4, 0, op}, mac, sender.AsSlice(), broadcast, target.AsSlice())
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
