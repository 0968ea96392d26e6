package netlab

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"time"
)

// An initChunk is the INIT or the INIT ACK of an association (RFC 9260), alone
// in its packet: the kernel need not know SCTP to carry it.
type initChunk struct {
	from, to uint16
	// verify is zero in an INIT, and in the INIT ACK the tag of the INIT.
	verify uint32
	kind   byte
	tag    uint32
	// cookie is the answer.
	cookie []byte
}

const (
	sctpINIT    = 1
	sctpINITACK = 2
	// sctpCookie is the parameter of an INIT ACK.
	sctpCookie = 7
	// sctpHeads are the header of the packet and the fixed part of the chunk.
	sctpHeads = 12 + 20
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func (c initChunk) packet() []byte {
	length := sctpHeads - 12
	if c.cookie != nil {
		length += 4 + len(c.cookie)
	}
	p := binary.BigEndian.AppendUint16(nil, c.from)
	p = binary.BigEndian.AppendUint16(p, c.to)
	p = binary.BigEndian.AppendUint32(p, c.verify)
	p = append(p, 0, 0, 0, 0, c.kind, 0)
	p = binary.BigEndian.AppendUint16(p, uint16(length))
	p = binary.BigEndian.AppendUint32(p, c.tag)
	// The window, one stream each way, and the first number.
	p = append(p, 0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 1)
	if c.cookie != nil {
		p = binary.BigEndian.AppendUint16(p, sctpCookie)
		p = binary.BigEndian.AppendUint16(p, uint16(4+len(c.cookie)))
		p = append(p, c.cookie...)
	}
	for len(p)%4 != 0 {
		p = append(p, 0)
	}
	binary.LittleEndian.PutUint32(p[8:], crc32.Checksum(p, castagnoli))
	return p
}

// parseInit refuses all other packets, and one with a wrong checksum: translated ports
// change it.
func parseInit(p []byte) (c initChunk, ok bool) {
	if len(p) < sctpHeads || int(binary.BigEndian.Uint16(p[14:])) > len(p)-12 {
		return c, false
	}
	sum := binary.LittleEndian.Uint32(p[8:])
	p = bytes.Clone(p)
	binary.LittleEndian.PutUint32(p[8:], 0)
	c = initChunk{
		from: binary.BigEndian.Uint16(p), to: binary.BigEndian.Uint16(p[2:]), verify: binary.BigEndian.Uint32(p[4:]),
		kind: p[12], tag: binary.BigEndian.Uint32(p[16:]),
	}
	if param := p[sctpHeads:]; len(param) > 4 && binary.BigEndian.Uint16(param) == sctpCookie {
		c.cookie = param[4:min(len(param), int(binary.BigEndian.Uint16(param[2:])))]
	}
	return c, sum == crc32.Checksum(p, castagnoli)
}

func openSCTP(addr netip.Addr) (net.PacketConn, error) {
	network := "ip6:132"
	if addr.Is4() {
		network = "ip4:132"
	}
	return net.ListenPacket(network, addr.String())
}

// serveSCTP answers an INIT to its port with an INIT ACK.
func serveSCTP(addr, text string) (io.Closer, error) {
	at, err := netip.ParseAddrPort(addr)
	if err != nil {
		return nil, err
	}
	conn, err := openSCTP(at.Addr())
	if err != nil {
		return nil, err
	}
	go func() {
		buf := make([]byte, 2048)
		for {
			n, peer, err := conn.ReadFrom(buf)
			if errors.Is(err, net.ErrClosed) {
				return
			}
			c, ok := parseInit(buf[:n])
			if err != nil || !ok || c.kind != sctpINIT || c.verify != 0 || c.to != at.Port() {
				continue
			}
			cookie := answer(&net.UDPAddr{IP: peer.(*net.IPAddr).IP, Port: int(c.from)}, text)
			reply := initChunk{from: c.to, to: c.from, verify: c.tag, kind: sctpINITACK, tag: rand.Uint32() | 1, cookie: []byte(cookie)}
			_, _ = conn.WriteTo(reply.packet(), peer)
		}
	}()
	return conn, nil
}

// askSCTP sends an INIT and returns the answer in the INIT ACK that comes back from the
// address and port of the INIT.
func askSCTP(from Netns, addr string, patience time.Duration) (string, error) {
	to, err := netip.ParseAddrPort(addr)
	if err != nil {
		return "", err
	}
	conn, err := In(from, func() (net.PacketConn, error) {
		if to.Addr().Is4() {
			return openSCTP(netip.IPv4Unspecified())
		}
		return openSCTP(netip.IPv6Unspecified())
	})
	if err != nil {
		return "", err
	}
	defer conn.Close()
	ask := initChunk{from: uint16(32768 + rand.IntN(28000)), to: to.Port(), kind: sctpINIT, tag: rand.Uint32() | 1}
	if _, err := conn.WriteTo(ask.packet(), &net.IPAddr{IP: to.Addr().AsSlice()}); err != nil {
		return "", Refutation{err}
	}
	return awaitInitACK(conn, to, ask, patience)
}

func awaitInitACK(conn net.PacketConn, from netip.AddrPort, ask initChunk, patience time.Duration) (string, error) {
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return "", err
	}
	buf := make([]byte, 2048)
	for {
		n, peer, err := conn.ReadFrom(buf)
		if err != nil {
			return "", Refutation{err}
		}
		c, ok := parseInit(buf[:n])
		source, _ := netip.AddrFromSlice(peer.(*net.IPAddr).IP)
		if ok && c.kind == sctpINITACK && c.verify == ask.tag && c.to == ask.from && netip.AddrPortFrom(source.Unmap(), c.from) == from {
			return string(c.cookie), nil
		}
	}
}
