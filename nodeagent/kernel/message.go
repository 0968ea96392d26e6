package kernel

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

// conn is a netlink socket in one namespace.
type conn struct {
	k       *Kernel
	sockets map[int]*nl.SocketHandle
	// explains is whether the kernel adds a text to its errors.
	explains bool
}

// dial opens a socket in the calling thread's namespace.
func (k *Kernel) dial() (*conn, error) {
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
	return &conn{k: k, sockets: map[int]*nl.SocketHandle{unix.NETLINK_ROUTE: handle}}, nil
}

func (c *conn) close() { c.sockets[unix.NETLINK_ROUTE].Close() }

// change sends a message that changes the kernel.
func (c *conn) change(kind, flags int, body nl.NetlinkRequestData, attrs ...*nl.RtAttr) error {
	if err := c.explain(true); err != nil {
		return err
	}
	_, err := c.request(kind, flags|unix.NLM_F_ACK, body, attrs).Execute(unix.NETLINK_ROUTE, 0)
	c.k.changed()
	if errors.Is(err, unix.EXFULL) {
		return ErrBridgeFull
	}
	return err
}

// explain switches texts of errors on or off. They help with changes; at the
// end of a dump, as of the routes of a namespace that never had any, nl takes
// the text for a message and panics.
func (c *conn) explain(yes bool) error {
	if c.explains == yes {
		return nil
	}
	c.explains = yes
	return c.sockets[unix.NETLINK_ROUTE].Socket.SetExtAck(yes)
}

// get asks for one object.
func (c *conn) get(kind int, body nl.NetlinkRequestData, attrs ...*nl.RtAttr) ([]byte, error) {
	answers, err := c.request(kind, 0, body, attrs).Execute(unix.NETLINK_ROUTE, 0)
	if err != nil {
		return nil, err
	}
	if len(answers) == 0 {
		return nil, unix.ENOMSG
	}
	return answers[0], nil
}

// dump lists what the body selects, whole or not at all.
func (c *conn) dump(kind int, body nl.NetlinkRequestData, attrs ...*nl.RtAttr) ([][]byte, error) {
	var (
		answers [][]byte
		err     error
	)
	if err := c.explain(false); err != nil {
		return nil, err
	}
	for range dumpAttempts {
		answers, err = c.request(kind, unix.NLM_F_DUMP, body, attrs).Execute(unix.NETLINK_ROUTE, 0)
		if err == nil {
			return answers, nil
		}
		if !errors.Is(err, nl.ErrDumpInterrupted) {
			break
		}
	}
	return nil, fmt.Errorf("list: %w", err)
}

func (c *conn) request(kind, flags int, body nl.NetlinkRequestData, attrs []*nl.RtAttr) *nl.NetlinkRequest {
	c.k.requests.Add(1)
	r := nl.NewNetlinkRequest(kind, flags)
	r.Sockets = c.sockets
	r.AddData(body)
	for _, a := range attrs {
		r.AddData(a)
	}
	return r
}

func u32Attr(kind int, v uint32) *nl.RtAttr { return nl.NewRtAttr(kind, nl.Uint32Attr(v)) }
func text(kind int, s string) *nl.RtAttr    { return nl.NewRtAttr(kind, nl.ZeroTerminated(s)) }

// attributes yields the attributes of a message and ends at the first that is
// broken. nl's own parser panics on some broken ones.
func attributes(b []byte) iter.Seq2[uint16, []byte] {
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

func uint32At(b []byte) uint32 {
	if len(b) < 4 {
		return 0
	}
	return binary.NativeEndian.Uint32(b)
}

func byteAt(b []byte) byte {
	if len(b) == 0 {
		return 0
	}
	return b[0]
}

func stringAt(b []byte) string { return unix.ByteSliceToString(b) }
