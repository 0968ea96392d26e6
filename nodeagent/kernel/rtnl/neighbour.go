package rtnl

import (
	"encoding/binary"
	"net/netip"
	"unsafe"

	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
	"golang.org/x/sys/unix"
)

// Neighbour is an entry of a neighbour table, or of a bridge's table of MAC
// addresses.
type Neighbour struct {
	Family uint8
	Index  int32
	state  uint16
	Addr   netip.Addr
	Mac    netstate.MAC
}

// Ndmsg is struct ndmsg of linux/neighbour.h.
type Ndmsg struct {
	Family, _ uint8
	_         uint16
	Index     int32
	State     uint16
	Flags     uint8
	kind      uint8
}

const ndmsgSize = int(unsafe.Sizeof(Ndmsg{}))

func (m *Ndmsg) Len() int { return ndmsgSize }

func (m *Ndmsg) Serialize() []byte {
	b := make([]byte, ndmsgSize)
	b[0] = m.Family
	binary.NativeEndian.PutUint32(b[4:], uint32(m.Index))
	binary.NativeEndian.PutUint16(b[8:], m.State)
	b[10], b[11] = m.Flags, m.kind
	return b
}

// ParseNeighbour reads RTM_NEWNEIGH and RTM_DELNEIGH; it returns false for any other
// message.
func ParseNeighbour(b []byte) (Neighbour, bool) {
	if len(b) < ndmsgSize {
		return Neighbour{}, false
	}
	n := Neighbour{Family: b[0], Index: int32(Uint32(b[4:])), state: binary.NativeEndian.Uint16(b[8:])}
	for kind, value := range Attributes(b[ndmsgSize:]) {
		switch kind {
		case unix.NDA_DST:
			n.Addr, _ = netip.AddrFromSlice(value)
		case unix.NDA_LLADDR:
			copy(n.Mac[:], value)
		}
	}
	return n, true
}

func (n Neighbour) Permanent() bool { return n.state&unix.NUD_PERMANENT != 0 }

// onlyMade filters a socket's notifications of neighbours: it hears changes by a program
// (the port of the program's socket is in the message) and permanent entries. The kernel
// notifies of every neighbour that packets go to, and of every MAC address that a bridge
// learns.
func onlyMade(fd int) error {
	load := func(size uint16, offset int) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_LD | size | unix.BPF_ABS, K: uint32(offset)}
	}
	// A load of two bytes is in network byte order, and the kernel's numbers are not.
	equal := func(kind uint16, yes, no uint8) unix.SockFilter {
		swapped := binary.BigEndian.Uint16(binary.NativeEndian.AppendUint16(nil, kind))
		return unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jt: yes, Jf: no, K: uint32(swapped)}
	}
	state := unix.SizeofNlMsghdr + 8
	if binary.NativeEndian.Uint16([]byte{0, 1}) == 1 {
		state++
	}
	program := []unix.SockFilter{
		load(unix.BPF_H, 4), // nlmsg_type
		equal(unix.RTM_NEWNEIGH, 1, 0),
		equal(unix.RTM_DELNEIGH, 0, 4),
		load(unix.BPF_W, 12), // nlmsg_pid
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jt: 0, Jf: 2},
		load(unix.BPF_B, state), // ndm_state
		{Code: unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K, Jt: 0, Jf: 1, K: unix.NUD_PERMANENT},
		{Code: unix.BPF_RET | unix.BPF_K, K: 0xffffffff},
		{Code: unix.BPF_RET | unix.BPF_K},
	}
	return unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]})
}
