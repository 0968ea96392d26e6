package scenarios

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/patchbay-dev/patchbay/test/netlab"
	"golang.org/x/sys/unix"
)

// An intruder is a packet that is recognised where it arrives, whatever was
// translated on its way.
type intruder struct {
	what string
	mark []byte
}

const (
	tcpSYN = 0x02
	tcpPSH = 0x08
	tcpACK = 0x10
)

// attack sends one intruder of each kind from a namespace.
func attack(from netlab.Netns, target netip.AddrPort) ([]intruder, error) {
	var sent []intruder
	err := from.Do(func() error {
		for _, kind := range []string{"syn", "established", "udp", "icmp"} {
			i := intruder{string(from) + " " + kind, make([]byte, 8)}
			if _, err := rand.Read(i.mark); err != nil {
				return err
			}
			if err := send(kind, i.mark, target); err != nil {
				return fmt.Errorf("send %s: %w", kind, err)
			}
			sent = append(sent, i)
		}
		return nil
	})
	return sent, err
}

// send builds the transport header itself: an ordinary socket sends a segment of
// a connection only when there is one.
func send(kind string, mark []byte, target netip.AddrPort) error {
	transport, proto := map[string]string{"syn": "tcp", "established": "tcp", "udp": "udp", "icmp": "icmp"}[kind], "ip4:"
	if target.Addr().Is6() {
		proto = "ip6:"
		if kind == "icmp" {
			transport = "ipv6-icmp"
		}
	}
	conn, err := net.Dial(proto+transport, target.Addr().String())
	if err != nil {
		return err
	}
	defer conn.Close()
	local, ok := netip.AddrFromSlice(conn.LocalAddr().(*net.IPAddr).IP)
	if !ok {
		return errors.New("no source address")
	}
	_, err = conn.Write(packet(kind, mark, local.Unmap(), target))
	return err
}

func packet(kind string, mark []byte, src netip.Addr, target netip.AddrPort) []byte {
	switch kind {
	case "udp":
		return datagram(mark, src, target)
	case "icmp":
		return echoRequest(mark, src, target.Addr())
	case "syn":
		return segment(tcpSYN, mark, nil, src, target)
	}
	return segment(tcpACK|tcpPSH, []byte("whatever"), mark, src, target)
}

// sourcePort is from the mark, so that no two intruders are of one flow.
func sourcePort(mark []byte) uint16 { return 0x8000 | binary.BigEndian.Uint16(mark) }

// segment has eight bytes as numbers, which no firewall translates: its sequence and
// the acknowledged one.
func segment(flags byte, numbers, payload []byte, src netip.Addr, target netip.AddrPort) []byte {
	return segmentOf(netip.AddrPortFrom(src, sourcePort(append(payload, numbers...))), target, flags, numbers, payload)
}

func segmentOf(source, target netip.AddrPort, flags byte, numbers, payload []byte) []byte {
	p := binary.BigEndian.AppendUint16(nil, source.Port())
	p = binary.BigEndian.AppendUint16(p, target.Port())
	p = append(p, numbers...)
	p = append(p, 5<<4, flags, 0xff, 0xff, 0, 0, 0, 0)
	p = append(p, payload...)
	binary.BigEndian.PutUint16(p[16:], checksum(pseudoHeader(source.Addr(), target.Addr(), unix.IPPROTO_TCP, p)))
	return p
}

func datagram(mark []byte, src netip.Addr, target netip.AddrPort) []byte {
	p := binary.BigEndian.AppendUint16(nil, sourcePort(mark))
	p = binary.BigEndian.AppendUint16(p, target.Port())
	p = append(p, 0, byte(8+len(mark)), 0, 0)
	p = append(p, mark...)
	binary.BigEndian.PutUint16(p[6:], checksum(pseudoHeader(src, target.Addr(), unix.IPPROTO_UDP, p)))
	return p
}

func echoRequest(mark []byte, src, dst netip.Addr) []byte {
	p := append([]byte{8, 0, 0, 0, mark[0], mark[1], 0, 1}, mark...)
	if dst.Is4() {
		binary.BigEndian.PutUint16(p[2:], checksum(p))
		return p
	}
	p[0] = 128
	binary.BigEndian.PutUint16(p[2:], checksum(pseudoHeader(src, dst, unix.IPPROTO_ICMPV6, p)))
	return p
}
