package rtnl

import (
	"context"
	"encoding/binary"
	"errors"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// Datagram is one delivery of notifications.
type Datagram struct {
	// NSID is the host's nsid of the namespace that the notifications come from, and
	// OwnNetns for the host itself.
	NSID int32
	Data []byte
	// Lost says that notifications were lost; there are no Data then.
	Lost bool
}

// watched are the groups of notifications, by RTNLGRP number.
var watched = []uint{
	unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR, unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE,
	unix.RTNLGRP_IPV4_NETCONF, unix.RTNLGRP_IPV6_NETCONF, unix.RTNLGRP_NSID, unix.RTNLGRP_TC, unix.RTNLGRP_NEIGH,
	unix.RTNLGRP_IPV4_RULE, unix.RTNLGRP_IPV6_RULE,
}

// Subscribe opens the one socket that hears all namespaces.
func Subscribe(receiveBuffer int) (*os.File, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, err
	}
	socket := os.NewFile(uintptr(fd), "netlink")
	// SO_RCVBUFFORCE goes beyond rmem_max, and needs CAP_NET_ADMIN in the first user namespace.
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, receiveBuffer) != nil {
		err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, receiveBuffer)
	}
	address := &unix.SockaddrNetlink{Family: unix.AF_NETLINK}
	for _, group := range watched {
		address.Groups |= 1 << (group - 1)
	}
	err = errors.Join(err, onlyMade(fd), unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_LISTEN_ALL_NSID, 1), unix.Bind(fd, address))
	if err != nil {
		socket.Close()
		return nil, err
	}
	return socket, nil
}

// Receive reads until the socket is closed.
func Receive(ctx context.Context, socket *os.File, out chan<- Datagram) {
	raw, err := socket.SyscallConn()
	if err != nil {
		return
	}
	buffer := make([]byte, 64<<10)
	control := make([]byte, 256)
	for {
		var d Datagram
		var kernel bool
		var failure error
		err := raw.Read(func(fd uintptr) bool {
			d, kernel, failure = receiveOne(int(fd), buffer, control)
			if failure != nil && !errors.Is(failure, unix.EAGAIN) {
				drain(int(fd), buffer, control)
			}
			return !errors.Is(failure, unix.EAGAIN)
		})
		switch {
		case err != nil:
			return
		case failure != nil:
			// ENOBUFS, or another failure by which notifications may have been missed.
			d = Datagram{Lost: true}
		case !kernel:
			continue
		}
		select {
		case out <- d:
		case <-ctx.Done():
			return
		}
	}
}

// drain empties a socket that has lost notifications. Until the socket is empty the kernel
// drops further notifications without a further error (NETLINK_S_CONGESTED), so that a
// state read before would be out of date.
func drain(fd int, buffer, control []byte) {
	const most = 1 << 16
	for range most {
		if _, _, err := receiveOne(fd, buffer, control); errors.Is(err, unix.EAGAIN) {
			return
		}
	}
}

func receiveOne(fd int, buffer, control []byte) (Datagram, bool, error) {
	n, oobn, flags, from, err := unix.Recvmsg(fd, buffer, control, 0)
	if err != nil {
		return Datagram{}, false, err
	}
	if flags&unix.MSG_TRUNC != 0 {
		return Datagram{}, false, unix.EMSGSIZE
	}
	sender, ok := from.(*unix.SockaddrNetlink)
	return Datagram{NSID: SenderNSID(control[:oobn]), Data: append([]byte(nil), buffer[:n]...)}, ok && sender.Pid == 0, nil
}

// SenderNSID reads from a control message where a notification comes from; the
// host's own have none.
func SenderNSID(control []byte) int32 {
	messages, err := unix.ParseSocketControlMessage(control)
	if err != nil {
		return OwnNetns
	}
	for _, m := range messages {
		if m.Header.Level == unix.SOL_NETLINK && m.Header.Type == unix.NETLINK_LISTEN_ALL_NSID && len(m.Data) >= 4 {
			return int32(binary.NativeEndian.Uint32(m.Data))
		}
	}
	return OwnNetns
}

// Messages splits a datagram; it ends at the first broken one.
func Messages(b []byte, yield func(kind, flags uint16, body []byte)) {
	for len(b) >= syscall.NLMSG_HDRLEN {
		length := int(Uint32(b))
		if length < syscall.NLMSG_HDRLEN || length > len(b) {
			return
		}
		yield(binary.NativeEndian.Uint16(b[4:]), binary.NativeEndian.Uint16(b[6:]), b[syscall.NLMSG_HDRLEN:length])
		b = b[min(align(length), len(b)):]
	}
}
