package hostport

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"net/netip"
	"os"
	"slices"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
)

// socket is a socket that takes new connections or datagrams from any sender.
type socket struct {
	proto  string
	addr   netip.Addr
	port   uint16
	v6only bool
	inode  uint32
	// reserved sockets hold a port for a publish.
	reserved bool
}

// answers reports whether a publish on the node's address host, or on every one
// of its family but loopback, takes from the socket what comes to that address.
func (s socket) answers(host netip.Addr) bool {
	switch {
	case s.addr.IsUnspecified() && s.addr.Is6() && !s.v6only:
		return true
	case s.addr.Is4() != host.Is4():
		return false
	case s.addr.IsUnspecified():
		return true
	case host.IsUnspecified():
		return !s.addr.IsLoopback() && !s.addr.IsMulticast() && s.addr != broadcast
	}
	return s.addr == host
}

var broadcast = netip.AddrFrom4([4]byte{255, 255, 255, 255})

func sorted(list []socket) []socket {
	slices.SortFunc(list, func(a, b socket) int {
		return cmp.Or(cmp.Compare(a.port, b.port), a.addr.Compare(b.addr), cmp.Compare(a.inode, b.inode))
	})
	return list
}

// protocol is how sock_diag speaks of a transport. The states are numbered as in
// <net/tcp_states.h>: an outgoing connection is in none of them, a UDP socket that is
// not connected is closed.
type protocol struct {
	number byte
	kind   int
	state  uint32
}

const (
	stateClose  = 7
	stateListen = 10
)

var protocols = map[string]protocol{
	"tcp":  {unix.IPPROTO_TCP, unix.SOCK_STREAM, 1 << stateListen},
	"udp":  {unix.IPPROTO_UDP, unix.SOCK_DGRAM, 1 << stateClose},
	"sctp": {unix.IPPROTO_SCTP, unix.SOCK_STREAM, 1 << stateListen},
}

// loaded reports whether the kernel speaks a protocol already. To ask it for
// SCTP would load the module, which a node that needs none is better without;
// and without it no process listens.
func loaded(proto string) bool {
	if proto != "sctp" {
		return true
	}
	_, err := os.Stat("/proc/self/net/sctp")
	return err == nil
}

// listening returns the sockets of other processes that listen between the lowest and
// the highest port of the publishes, in order.
func listening(proto string, publishes []netstate.Publish) ([]socket, error) {
	if !loaded(proto) {
		return nil, nil
	}
	low, high := uint16(65535), uint16(0)
	for _, p := range publishes {
		low, high = min(low, p.HostPort), max(high, last(p))
	}
	var all []socket
	var errs []error
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		list, err := dump(family, proto, low, high)
		all, errs = append(all, list...), append(errs, err)
	}
	all = slices.DeleteFunc(all, func(s socket) bool { return s.reserved })
	return sorted(all), errors.Join(errs...)
}

func dump(family uint8, proto string, low, high uint16) ([]socket, error) {
	req := nl.NewNetlinkRequest(nl.SOCK_DIAG_BY_FAMILY, unix.NLM_F_DUMP)
	req.AddRawData(append(diagRequest(family, protocols[proto]), nl.NewRtAttr(attrBytecode, between(low, high)).Serialize()...))
	messages, err := req.Execute(unix.NETLINK_INET_DIAG, nl.SOCK_DIAG_BY_FAMILY)
	var list []socket
	for _, m := range messages {
		if s, ok := parseSocket(m); ok {
			s.proto = proto
			list = append(list, s)
		}
	}
	return list, err
}

// What linux/inet_diag.h calls these.
const (
	attrBytecode  = 1  // INET_DIAG_REQ_BYTECODE
	attrV6Only    = 11 // INET_DIAG_SKV6ONLY
	attrMark      = 15 // INET_DIAG_MARK; told to CAP_NET_ADMIN only
	sourceAtLeast = 2  // INET_DIAG_BC_S_GE
	sourceAtMost  = 3  // INET_DIAG_BC_S_LE
	sizeofRequest = 56
	sizeofMessage = 72
)

// diagRequest is struct inet_diag_req_v2.
func diagRequest(family uint8, p protocol) []byte {
	b := make([]byte, sizeofRequest)
	b[0], b[1] = family, p.number
	binary.NativeEndian.PutUint32(b[4:], p.state)
	return b
}

// between is a program of struct inet_diag_bc_op that takes the ports from low
// to high: each test is two of them, the second with the port in place of its
// jump. To jump behind the end by four is to refuse.
func between(low, high uint16) []byte {
	b := make([]byte, 16)
	test := func(at int, code byte, port uint16) {
		b[at], b[at+1] = code, 8
		binary.NativeEndian.PutUint16(b[at+2:], uint16(len(b)-at+4))
		binary.NativeEndian.PutUint16(b[at+6:], port)
	}
	test(0, sourceAtLeast, low)
	test(8, sourceAtMost, high)
	return b
}

// parseSocket reads a struct inet_diag_msg and its attributes.
func parseSocket(m []byte) (socket, bool) {
	if len(m) < sizeofMessage {
		return socket{}, false
	}
	addr, _ := netip.AddrFromSlice(m[8:24])
	if m[0] == unix.AF_INET {
		addr, _ = netip.AddrFromSlice(m[8:12])
	}
	s := socket{addr: addr.Unmap(), port: binary.BigEndian.Uint16(m[4:]), inode: binary.NativeEndian.Uint32(m[68:])}
	attrs, err := nl.ParseRouteAttr(m[sizeofMessage:])
	if err != nil {
		return socket{}, false
	}
	for _, a := range attrs {
		switch {
		case a.Attr.Type == attrV6Only && len(a.Value) > 0:
			s.v6only = a.Value[0] != 0
		case a.Attr.Type == attrMark:
			s.reserved = bytes.Equal(a.Value, binary.NativeEndian.AppendUint32(nil, netstate.SocketMark))
		}
	}
	return s, true
}
