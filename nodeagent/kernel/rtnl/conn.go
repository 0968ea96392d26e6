// Package rtnl has the messages of the kernel's rtnetlink and the sockets for them. It
// reads a message into a value and composes the attributes of one from objects of
// netstate; which messages are sent, and when, is the caller's.
package rtnl

import (
	"encoding/binary"
	"errors"
	"fmt"
	"iter"

	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// dumpAttempts bounds how often an interrupted listing is repeated. On a node
// where links come and go all the time a dump is interrupted now and then, not
// sixteen times in a row.
const dumpAttempts = 16

// Conn is a netlink socket in one namespace.
type Conn struct {
	// sent is called after every message, with true for a message that changes the kernel.
	sent    func(changes bool)
	sockets map[int]*nl.SocketHandle
	// explains says that the kernel adds a text to its errors.
	explains bool
}

// Dial opens a socket in the calling thread's namespace. sent is called after every
// message, with true for one that changes the kernel, refused or not.
func Dial(sent func(changes bool)) (*Conn, error) {
	socket, err := nl.GetNetlinkSocketAt(netns.None(), netns.None(), unix.NETLINK_ROUTE)
	if err != nil {
		return nil, err
	}
	handle := &nl.SocketHandle{Socket: socket}
	err = errors.Join(
		socket.SetSendTimeout(&nl.SocketTimeoutTv),
		socket.SetReceiveTimeout(&nl.SocketTimeoutTv),
		// Without it the kernel ignores the filters of a dump and lists all.
		unix.SetsockoptInt(socket.GetFd(), unix.SOL_NETLINK, unix.NETLINK_GET_STRICT_CHK, 1),
	)
	if err != nil {
		handle.Close()
		return nil, err
	}
	return &Conn{sent: sent, sockets: map[int]*nl.SocketHandle{unix.NETLINK_ROUTE: handle}}, nil
}

// Close closes the socket.
func (c *Conn) Close() { c.sockets[unix.NETLINK_ROUTE].Close() }

// Change sends a message that changes the kernel.
func (c *Conn) Change(kind, flags int, body nl.NetlinkRequestData, attrs ...*nl.RtAttr) error {
	if err := c.explain(true); err != nil {
		return err
	}
	_, err := c.request(kind, flags|unix.NLM_F_ACK, body, attrs).Execute(unix.NETLINK_ROUTE, 0)
	c.sent(true)
	return err
}

// explain switches texts of errors on or off. They help with changes; at the
// end of a dump, as of the routes of a namespace that never had any, nl takes
// the text for a message and panics.
func (c *Conn) explain(yes bool) error {
	if c.explains == yes {
		return nil
	}
	c.explains = yes
	return c.sockets[unix.NETLINK_ROUTE].Socket.SetExtAck(yes)
}

// Get asks for one object.
func (c *Conn) Get(kind int, body nl.NetlinkRequestData, attrs ...*nl.RtAttr) ([]byte, error) {
	answers, err := c.ask(kind, 0, body, attrs...)
	if err != nil {
		return nil, err
	}
	if len(answers) == 0 {
		return nil, unix.ENOMSG
	}
	return answers[0], nil
}

// ask sends one request that changes nothing.
func (c *Conn) ask(kind, flags int, body nl.NetlinkRequestData, attrs ...*nl.RtAttr) ([][]byte, error) {
	answers, err := c.request(kind, flags, body, attrs).Execute(unix.NETLINK_ROUTE, 0)
	c.sent(false)
	return answers, err
}

// Dump lists the objects that the body selects: all of them, or an error.
func (c *Conn) Dump(kind int, body nl.NetlinkRequestData, attrs ...*nl.RtAttr) ([][]byte, error) {
	var (
		answers [][]byte
		err     error
	)
	if err := c.explain(false); err != nil {
		return nil, err
	}
	for range dumpAttempts {
		answers, err = c.ask(kind, unix.NLM_F_DUMP, body, attrs...)
		if err == nil {
			return answers, nil
		}
		if !errors.Is(err, nl.ErrDumpInterrupted) {
			break
		}
	}
	return nil, fmt.Errorf("list: %w", err)
}

func (c *Conn) request(kind, flags int, body nl.NetlinkRequestData, attrs []*nl.RtAttr) *nl.NetlinkRequest {
	r := nl.NewNetlinkRequest(kind, flags)
	r.Sockets = c.sockets
	r.AddData(body)
	for _, a := range attrs {
		r.AddData(a)
	}
	return r
}

// U32 is an attribute of 32 bits.
func U32(kind int, v uint32) *nl.RtAttr { return nl.NewRtAttr(kind, nl.Uint32Attr(v)) }

// Text is an attribute that is a string with a terminating zero.
func Text(kind int, s string) *nl.RtAttr { return nl.NewRtAttr(kind, nl.ZeroTerminated(s)) }

// Attributes yields the attributes of a message and ends at the first that is
// broken. nl's own parser panics on some broken ones.
func Attributes(b []byte) iter.Seq2[uint16, []byte] {
	return func(yield func(uint16, []byte) bool) {
		for len(b) >= unix.SizeofRtAttr {
			length := int(binary.NativeEndian.Uint16(b))
			if length < unix.SizeofRtAttr || length > len(b) {
				return
			}
			kind := binary.NativeEndian.Uint16(b[2:]) & nlaTypeMask
			if !yield(kind, b[unix.SizeofRtAttr:length]) {
				return
			}
			b = b[min(align(length), len(b)):]
		}
	}
}

// align rounds up to NLA_ALIGNTO.
func align(length int) int { return (length + 3) &^ 3 }

// Uint32 reads an attribute of 32 bits; a shorter one is 0.
func Uint32(b []byte) uint32 {
	if len(b) < 4 {
		return 0
	}
	return binary.NativeEndian.Uint32(b)
}

func byteOf(b []byte) byte {
	if len(b) == 0 {
		return 0
	}
	return b[0]
}

func stringOf(b []byte) string { return unix.ByteSliceToString(b) }
