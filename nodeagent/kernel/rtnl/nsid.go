package rtnl

import "golang.org/x/sys/unix"

// Rtgenmsg is struct rtgenmsg, padded.
type Rtgenmsg [4]byte

// Len is the length of the message.
func (m Rtgenmsg) Len() int { return len(m) }

// Serialize returns the bytes of the message.
func (m Rtgenmsg) Serialize() []byte { return m[:] }

// NSIDOf returns the nsid that the socket's namespace has for the namespace of a
// descriptor, or OwnNetns if it has none.
func (c *Conn) NSIDOf(fd int) int32 {
	b, err := c.Get(unix.RTM_GETNSID, Rtgenmsg{}, U32(NetnsaFD, uint32(fd)))
	if err != nil {
		return OwnNetns
	}
	nsid, _ := ParseNSID(b)
	return nsid
}

// ParseNSID reads RTM_NEWNSID: an nsid, and the socket's own nsid of the same namespace
// where the message has both. OwnNetns stands for a missing one.
func ParseNSID(b []byte) (nsid, current int32) {
	nsid, current = OwnNetns, OwnNetns
	if len(b) < len(Rtgenmsg{}) {
		return nsid, current
	}
	for kind, value := range Attributes(b[len(Rtgenmsg{}):]) {
		switch {
		case len(value) < 4:
		case kind == NetnsaNSID:
			nsid = int32(Uint32(value))
		case kind == netnsaCurrentNSID:
			current = int32(Uint32(value))
		}
	}
	return nsid, current
}
