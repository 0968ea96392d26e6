// Package nfnl speaks netlink with netfilter: one socket for requests, the generations of
// the nftables ruleset, and the events of their changes.
package nfnl

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"syscall"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Socket leads to the firewall of the process's network namespace. It stays
// open: closing such a socket waits for a grace period of RCU, some 10 ms,
// if elements were deleted just before (nft_rcv_nl_event, nf_tables_api.c).
var Socket channel

// channel is a netlink socket, opened when it is first used and anew after an
// error, which may leave answers unread.
type channel struct {
	mu   sync.Mutex
	open bool
	Fd   int
}

// Exchange sends messages as one datagram and returns all that the kernel
// answers. It never waits: nfnetlink_rcv has run when sendto returns.
func (c *channel) Exchange(messages []byte) ([]syscall.NetlinkMessage, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.open {
		fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_NETFILTER)
		if err != nil {
			return nil, fmt.Errorf("open a netfilter socket: %w", err)
		}
		c.Fd, c.open = fd, true
	}
	answers, err := sendReceive(c.Fd, messages)
	if err != nil {
		unix.Close(c.Fd)
		c.open = false
	}
	return answers, err
}

func sendReceive(fd int, messages []byte) ([]syscall.NetlinkMessage, error) {
	if err := unix.Sendto(fd, messages, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return nil, fmt.Errorf("send %d bytes to netfilter: %w", len(messages), err)
	}
	var answers []syscall.NetlinkMessage
	for {
		// A dump goes on while it is read.
		buffer := make([]byte, 1<<13)
		n, _, err := unix.Recvfrom(fd, buffer, 0)
		if errors.Is(err, unix.EAGAIN) {
			return answers, nil
		}
		if err != nil {
			return nil, fmt.Errorf("read netfilter's answer: %w", err)
		}
		parsed, err := syscall.ParseNetlinkMessage(buffer[:n])
		if err != nil {
			return nil, fmt.Errorf("read netfilter's answer: %w", err)
		}
		answers = append(answers, parsed...)
	}
}

// Errno is the error number that a message tells of, zero for success; other
// messages have none.
func Errno(m syscall.NetlinkMessage) (unix.Errno, bool) {
	if m.Header.Type != unix.NLMSG_ERROR || len(m.Data) < 4 {
		return 0, false
	}
	return unix.Errno(-int32(binary.NativeEndian.Uint32(m.Data))), true
}

// Request is a netlink message with a header.
func Request(kind, flags, seq int, body []byte) []byte {
	m := nl.NewNetlinkRequest(kind, flags)
	m.Seq = uint32(seq)
	m.AddRawData(body)
	return m.Serialize()
}

// MaxTries bounds how often something is listed until nothing changed in between, or
// the kernel says that a dump was not interrupted.
const MaxTries = 5
