package firewall

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/patchbay-dev/patchbay/nodeagent/firewall/firewalltest"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
	"github.com/patchbay-dev/patchbay/test/sandbox"
	"golang.org/x/sys/unix"
)

var (
	gate4, gate6 = firewalltest.Addr("10.68.0.1"), firewalltest.Addr("fd00:68::1")
	broadcast    = netstate.MAC{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	allNodes     = netstate.MAC{0x33, 0x33, 0, 0, 0, 1}
	evil         = netstate.MAC{2, 6, 6, 6, 6, 6}
)

const experimental = 253 // an IP protocol that no host speaks

func ethernet(dst, src netstate.MAC, kind uint16, payload []byte) []byte {
	return slices.Concat(dst[:], src[:], binary.BigEndian.AppendUint16(nil, kind), payload)
}

func ipv4(src, dst netip.Addr, payload string) []byte {
	h := []byte{0x45, 0, 0, 0, 0, 1, 0, 0, 64, experimental, 0, 0}
	binary.BigEndian.PutUint16(h[2:], uint16(20+len(payload)))
	h = slices.Concat(h, src.AsSlice(), dst.AsSlice())
	binary.BigEndian.PutUint16(h[10:], checksum(h))
	return append(h, payload...)
}

// checksum is the Internet checksum (RFC 1071).
func checksum(b []byte) uint16 {
	var sum uint32
	for i, c := range b {
		sum += uint32(c) << (8 * (1 - i%2))
	}
	for sum > 0xffff {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}

// ipv6 makes a packet. An ICMPv6 message, also one behind 8 bytes of extension
// header, gets its checksum: the bridge looks at it.
func ipv6(src, dst netip.Addr, next byte, payload []byte) []byte {
	if message := payload; next != experimental {
		if next != unix.IPPROTO_ICMPV6 {
			message = payload[8:]
		}
		pseudo := slices.Concat(src.AsSlice(), dst.AsSlice(), []byte{0, 0, 0, byte(len(message)), 0, 0, 0, unix.IPPROTO_ICMPV6})
		binary.BigEndian.PutUint16(message[2:], checksum(append(pseudo, message...)))
	}
	h := []byte{0x60, 0, 0, 0, 0, 0, next, 255}
	binary.BigEndian.PutUint16(h[4:], uint16(len(payload)))
	return slices.Concat(h, src.AsSlice(), dst.AsSlice(), payload)
}

// icmp6 is a message with a body, target first in neighbour discovery.
func icmp6(kind byte, body ...any) []byte {
	b := []byte{kind, 0, 0, 0, 0, 0, 0, 0}
	for _, x := range body {
		switch x := x.(type) {
		case netip.Addr:
			b = append(b, x.AsSlice()...)
		case string:
			b = append(b, x...)
		}
	}
	return b
}

func arp(op byte, mac netstate.MAC, ip netip.Addr, text string) []byte {
	return slices.Concat([]byte{0, 1, 8, 0, 6, 4, 0, op}, mac[:], ip.AsSlice(), make([]byte, 6), placeB.v4.AsSlice(), []byte(text))
}

const (
	routerAdvert, neighborSolicit, neighborAdvert, redirect, listenerReport = 134, 135, 136, 137, 143

	etherVLAN, etherLLDP = 0x8100, 0x88cc
)

// frames are what a port of a sends to b; honest ones pass.
func frames(text string) []struct {
	name   string
	honest bool
	frame  []byte
} {
	a, b := placeA, placeB
	local, nodes, none := a.mac.LinkLocal(), firewalltest.Addr("ff02::1"), netip.IPv6Unspecified()
	v4 := func(src netip.Addr) []byte { return ethernet(b.mac, a.mac, unix.ETH_P_IP, ipv4(src, b.v4, text)) }
	v6 := func(src netip.Addr, next byte, body []byte) []byte {
		return ethernet(b.mac, a.mac, unix.ETH_P_IPV6, ipv6(src, b.v6, next, body))
	}
	toAll := func(src netip.Addr, next byte, body []byte) []byte {
		return ethernet(allNodes, a.mac, unix.ETH_P_IPV6, ipv6(src, nodes, next, body))
	}
	hopByHop := []byte{unix.IPPROTO_ICMPV6, 0, 1, 4, 0, 0, 0, 0}
	fragment := []byte{unix.IPPROTO_ICMPV6, 0, 0, 0, 0, 0, 0, 1}
	return []struct {
		name   string
		honest bool
		frame  []byte
	}{
		{"IPv4", true, v4(a.v4)},
		{"IPv6", true, v6(a.v6, experimental, []byte(text))},
		{"link-local IPv6", true, v6(local, experimental, []byte(text))},
		{"ARP request", true, ethernet(broadcast, a.mac, unix.ETH_P_ARP, arp(1, a.mac, a.v4, text))},
		{"ARP reply", true, ethernet(b.mac, a.mac, unix.ETH_P_ARP, arp(2, a.mac, a.v4, text))},
		{"ARP probe", true, ethernet(broadcast, a.mac, unix.ETH_P_ARP, arp(1, a.mac, netip.IPv4Unspecified(), text))},
		{"neighbour solicitation", true, toAll(a.v6, unix.IPPROTO_ICMPV6, icmp6(neighborSolicit, b.v6, text))},
		{"neighbour advertisement", true, toAll(a.v6, unix.IPPROTO_ICMPV6, icmp6(neighborAdvert, a.v6, text))},
		{"duplicate address detection", true, toAll(none, unix.IPPROTO_ICMPV6, icmp6(neighborSolicit, a.v6, text))},

		{"multicast listener report", true, toAll(none, 0, slices.Concat(hopByHop, icmp6(listenerReport, text)))},

		{"ARP from a false MAC", false, ethernet(broadcast, evil, unix.ETH_P_ARP, arp(1, a.mac, a.v4, text))},
		{"false MAC", false, ethernet(b.mac, evil, unix.ETH_P_IP, ipv4(a.v4, b.v4, text))},
		{"false IPv4", false, v4(gate4)},
		{"neighbour's IPv4", false, v4(b.v4)},
		{"false IPv6", false, v6(gate6, experimental, []byte(text))},
		{"neighbour's link-local IPv6", false, v6(b.mac.LinkLocal(), experimental, []byte(text))},
		{"no IPv6", false, toAll(none, experimental, []byte(text))},
		{"ARP for the gateway", false, ethernet(b.mac, a.mac, unix.ETH_P_ARP, arp(2, a.mac, gate4, text))},
		{"ARP of another MAC", false, ethernet(b.mac, a.mac, unix.ETH_P_ARP, arp(2, evil, a.v4, text))},
		{"ARP probe of another MAC", false, ethernet(broadcast, a.mac, unix.ETH_P_ARP, arp(1, evil, netip.IPv4Unspecified(), text))},
		{"neighbour advertisement for the gateway", false, toAll(a.v6, unix.IPPROTO_ICMPV6, icmp6(neighborAdvert, gate6, text))},
		{"neighbour advertisement behind options", false, toAll(a.v6, 0, slices.Concat(hopByHop, icmp6(neighborAdvert, gate6, text)))},
		{"detection of the gateway's address", false, toAll(none, unix.IPPROTO_ICMPV6, icmp6(neighborSolicit, gate6, text))},
		{"router advertisement", false, toAll(local, unix.IPPROTO_ICMPV6, icmp6(routerAdvert, text))},
		{"router advertisement behind options", false, toAll(local, 0, slices.Concat(hopByHop, icmp6(routerAdvert, text)))},
		{"router advertisement in a fragment", false, toAll(local, unix.IPPROTO_FRAGMENT, slices.Concat(fragment, icmp6(routerAdvert, text)))},
		{"redirect", false, v6(local, unix.IPPROTO_ICMPV6, icmp6(redirect, b.v6, b.v6, text))},
		{"VLAN tag", false, ethernet(b.mac, a.mac, etherVLAN, slices.Concat([]byte{0, 0, 8, 0}, ipv4(a.v4, b.v4, text)))},
		{"another ethertype", false, ethernet(b.mac, a.mac, etherLLDP, []byte(text))},
	}
}

func TestSpoof(t *testing.T) {
	if !sandbox.Enter(t) {
		return
	}
	buildWorld(t)
	from, to := openTap(t, "a", "eth0"), openTap(t, "b", "eth0")
	for _, on := range []bool{false, true} {
		t.Run(fmt.Sprintf("br_netfilter %t", on), func(t *testing.T) {
			bridgeNF(t, on)
			b := backend(t, netstate.SourceLocal)
			t.Run("unfiltered", func(t *testing.T) { spoof(t, from, to, func(bool) bool { return true }) })
			firewalltest.Apply(t, b, firewalltest.Creates(firewalltest.List(worldObjects())...))
			t.Run("filtered", func(t *testing.T) { spoof(t, from, to, func(honest bool) bool { return honest }) })
			firewalltest.Apply(t, b, firewalltest.Deletes(firewalltest.List(b.Held())...))
		})
	}
	if !pings(t, "a", "10.68.0.102") || !pings(t, "a", "fd00:68::102") {
		t.Error("a does not ping b")
	}
}

// sequence tells frames apart.
var sequence int

func spoof(t *testing.T, from, to *tap, passes func(honest bool) bool) {
	for _, f := range frames("") {
		sequence++
		text, end := fmt.Sprintf("frame %06d", sequence), fmt.Sprintf("end %06d", sequence)
		for _, g := range frames(text) {
			if g.name == f.name {
				from.send(t, g.frame)
			}
		}
		from.send(t, ethernet(placeB.mac, placeA.mac, unix.ETH_P_IP, ipv4(placeA.v4, placeB.v4, end)))
		if got := to.passed(t, text, end); got != passes(f.honest) {
			t.Errorf("%s: passed is %t", f.name, got)
		}
	}
}

// TestInvalid sends what conntrack cannot place, here TCP without flags, which
// no NAT would translate.
func TestInvalid(t *testing.T) {
	if !sandbox.Enter(t) {
		return
	}
	buildWorld(t)
	bridgeNF(t, false)
	bridge, err := net.InterfaceByName("br-red")
	if err != nil {
		t.Fatal(err)
	}
	from, to := openTap(t, "a", "eth0"), openTap(t, "out", "eth0")
	send := func(proto byte, text string) {
		packet := ipv4(placeA.v4, firewalltest.Addr(out4), text)
		packet[9] = proto
		packet[10], packet[11] = 0, 0
		binary.BigEndian.PutUint16(packet[10:], checksum(packet[:20]))
		from.send(t, ethernet(netstate.MAC(bridge.HardwareAddr), placeA.mac, unix.ETH_P_IP, packet))
	}
	// The end differs each time: an ICMP error would quote it.
	leaks := func(end string) bool {
		send(unix.IPPROTO_TCP, strings.Repeat("\x00", 20)+"no flags before "+end)
		send(experimental, end+".")
		return to.passed(t, "no flags before "+end, end+".")
	}
	firewalltest.Same(t, "leaks without rules", true, leaks("one"))
	firewalltest.Apply(t, backend(t, netstate.SourceLocal), firewalltest.Creates(firewalltest.List(worldObjects())...))
	firewalltest.Same(t, "leaks", false, leaks("two"))
}
