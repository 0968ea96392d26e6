package kernel

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"strings"
	"unsafe"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
)

// neighbour is an entry of a neighbour table, or of a bridge's table of MAC
// addresses.
type neighbour struct {
	family uint8
	index  int32
	state  uint16
	addr   netip.Addr
	mac    netstate.MAC
}

// ndmsg is struct ndmsg of linux/neighbour.h.
type ndmsg struct {
	family, _ uint8
	_         uint16
	index     int32
	state     uint16
	flags     uint8
	kind      uint8
}

const ndmsgSize = int(unsafe.Sizeof(ndmsg{}))

func (m *ndmsg) Len() int { return ndmsgSize }
func (m *ndmsg) Serialize() []byte {
	b := make([]byte, ndmsgSize)
	b[0] = m.family
	binary.NativeEndian.PutUint32(b[4:], uint32(m.index))
	binary.NativeEndian.PutUint16(b[8:], m.state)
	b[10], b[11] = m.flags, m.kind
	return b
}

// parseNeighbour reads RTM_NEWNEIGH and RTM_DELNEIGH; it returns false for
// anything else.
func parseNeighbour(b []byte) (neighbour, bool) {
	if len(b) < ndmsgSize {
		return neighbour{}, false
	}
	n := neighbour{family: b[0], index: int32(uint32At(b[4:])), state: binary.NativeEndian.Uint16(b[8:])}
	for kind, value := range attributes(b[ndmsgSize:]) {
		switch kind {
		case unix.NDA_DST:
			n.addr, _ = netip.AddrFromSlice(value)
		case unix.NDA_LLADDR:
			copy(n.mac[:], value)
		}
	}
	return n, true
}

func (n neighbour) permanent() bool { return n.state&unix.NUD_PERMANENT != 0 }

// onlyMade has a socket hear of neighbours only what a program asked for (the port
// of its socket is in the message) and permanent entries: the kernel tells of every
// neighbour that packets go to, and of every MAC address that a bridge learns.
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

// neighbour says to look at the link of an entry: at a bridge that has lost one, maybe
// its own, and at an interface in a namespace.
func (m *monitor) neighbour(netns string, gone bool, n neighbour) {
	l, known := m.links[netns][n.index]
	if !known || !(n.family == unix.AF_BRIDGE && gone && l.bridge) && (n.family == unix.AF_BRIDGE || netns == "") {
		return
	}
	m.fn(Event{Key: netstate.Link{Netns: netns, Name: l.name}.Key()})
}

// knowsItself reports whether a bridge's table has its own MAC address as one of
// the bridge: without it, frames to the node are flooded to the ports.
func (p *place) knowsItself(l *link) (bool, error) {
	c, err := p.conn()
	if err != nil {
		return false, err
	}
	b, err := c.get(unix.RTM_GETNEIGH, &ndmsg{family: unix.AF_BRIDGE, index: l.index, flags: unix.NTF_SELF}, nl.NewRtAttr(unix.NDA_LLADDR, l.mac[:]))
	if errors.Is(err, unix.ENOENT) {
		return false, nil
	}
	n, ok := parseNeighbour(b)
	return ok && n.permanent(), err
}

// learnItself puts a bridge's own MAC address into its table.
func (p *place) learnItself(l *link) error {
	c, err := p.conn()
	if err != nil {
		return err
	}
	return c.change(unix.RTM_NEWNEIGH, unix.NLM_F_CREATE|unix.NLM_F_REPLACE,
		&ndmsg{family: unix.AF_BRIDGE, index: l.index, state: unix.NUD_PERMANENT, flags: unix.NTF_SELF}, nl.NewRtAttr(unix.NDA_LLADDR, l.mac[:]))
}

// planted lists the permanent neighbours of a link in a namespace, as "address=mac"
// by spaces.
func (p *place) planted(l *link) string {
	if !p.neighboursRead {
		c, err := p.conn()
		if err != nil {
			return ""
		}
		answers, err := c.dump(unix.RTM_GETNEIGH, &ndmsg{})
		if err != nil {
			return ""
		}
		for _, b := range answers {
			if n, ok := parseNeighbour(b); ok && n.permanent() && n.family != unix.AF_BRIDGE {
				p.neighbours = append(p.neighbours, n)
			}
		}
		p.neighboursRead = true
	}
	var texts []string
	for _, n := range p.neighbours {
		if n.index == l.index {
			texts = append(texts, n.addr.String()+"="+n.mac.String())
		}
	}
	return strings.Join(texts, " ")
}
