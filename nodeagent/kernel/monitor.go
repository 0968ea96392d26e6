package kernel

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"syscall"

	"github.com/fsnotify/fsnotify"
	"golang.org/x/sys/unix"

	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
)

// Event says that an object may have changed. An event without an object that
// is not gone says to look at the key again.
type Event struct {
	Key netstate.Key
	// Gone is true where the object has been removed.
	Gone bool
	// Runs is true where a link has a carrier again: look at the objects on it.
	Runs bool
	// Object is the object as the notification describes it, nil if that is not
	// known or it is gone.
	Object netstate.Object
	// Mounts is true where mounts of this process or of the host may have changed, once
	// ListenMounts was called. Nothing else is set then.
	Mounts bool
	// Lost is true where notifications were lost: look at everything again.
	// Nothing else is set then.
	Lost bool
}

// Watch calls fn for every change in the kernel that may concern objects of
// ours, on the host and in every named namespace, until ctx ends. It returns
// once nothing more is missed. fn is called by one goroutine at a time; while
// it works, notifications queue up and are finally lost.
//
// What a link is as a bridge port, KindPort and KindHairpin, is reported by the
// link. Sysctls are reported as KindSysctl without a name, by their interface or
// without one for those of the whole namespace.
func (k *Kernel) Watch(ctx context.Context, fn func(Event)) error {
	socket, err := k.subscribe()
	if err != nil {
		return fmt.Errorf("subscribe to the kernel's changes: %w", err)
	}
	folder, err := k.watchNetnsDir()
	if err != nil {
		socket.Close()
		return fmt.Errorf("watch %s: %w", k.netnsDir(), err)
	}
	m := newMonitor(k, fn)
	for _, name := range m.prime() {
		go folder.awaitMount(ctx, name)
	}
	datagrams := make(chan datagram)
	context.AfterFunc(ctx, func() { socket.Close() })
	go receive(ctx, socket, datagrams)
	go k.mountWatch.follow(ctx, k.opts.Init)
	go m.run(ctx, datagrams, folder)
	return nil
}

// datagram is what the kernel sent at once, or the news that it could not.
type datagram struct {
	nsid int32 // ownNetns for the host
	data []byte
	lost bool
}

// watched are the groups of notifications, by RTNLGRP number.
var watched = []uint{
	unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR, unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE,
	unix.RTNLGRP_IPV4_NETCONF, unix.RTNLGRP_IPV6_NETCONF, unix.RTNLGRP_NSID, unix.RTNLGRP_TC, unix.RTNLGRP_NEIGH,
	unix.RTNLGRP_IPV4_RULE, unix.RTNLGRP_IPV6_RULE,
}

// subscribe opens the one socket that hears all namespaces.
func (k *Kernel) subscribe() (*os.File, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, err
	}
	socket := os.NewFile(uintptr(fd), "netlink")
	// Beyond rmem_max only for who has CAP_NET_ADMIN on the machine itself.
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, k.receiveBuffer) != nil {
		err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, k.receiveBuffer)
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

// receive reads until the socket is closed.
func receive(ctx context.Context, socket *os.File, out chan<- datagram) {
	raw, err := socket.SyscallConn()
	if err != nil {
		return
	}
	buffer := make([]byte, 64<<10)
	control := make([]byte, 256)
	for {
		var d datagram
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
			// ENOBUFS; whatever else it is, something may have been missed.
			d = datagram{lost: true}
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

// drain throws away what a socket has that lost something. Until it is empty the
// kernel loses more and says no more of it (NETLINK_S_CONGESTED), so that what is
// read of the kernel before would be old.
func drain(fd int, buffer, control []byte) {
	const most = 1 << 16
	for range most {
		if _, _, err := receiveOne(fd, buffer, control); errors.Is(err, unix.EAGAIN) {
			return
		}
	}
}

func receiveOne(fd int, buffer, control []byte) (datagram, bool, error) {
	n, oobn, flags, from, err := unix.Recvmsg(fd, buffer, control, 0)
	if err != nil {
		return datagram{}, false, err
	}
	if flags&unix.MSG_TRUNC != 0 {
		return datagram{}, false, unix.EMSGSIZE
	}
	sender, ok := from.(*unix.SockaddrNetlink)
	return datagram{nsid: nsidOf(control[:oobn]), data: append([]byte(nil), buffer[:n]...)}, ok && sender.Pid == 0, nil
}

// nsidOf reads from a control message where a notification comes from; the
// host's own have none.
func nsidOf(control []byte) int32 {
	messages, err := unix.ParseSocketControlMessage(control)
	if err != nil {
		return ownNetns
	}
	for _, m := range messages {
		if m.Header.Level == unix.SOL_NETLINK && m.Header.Type == unix.NETLINK_LISTEN_ALL_NSID && len(m.Data) >= 4 {
			return int32(binary.NativeEndian.Uint32(m.Data))
		}
	}
	return ownNetns
}

// run is the monitor's one goroutine.
func (m *monitor) run(ctx context.Context, datagrams <-chan datagram, folder *netnsWatch) {
	defer folder.watcher.Close()
	for {
		select {
		case <-ctx.Done():
			return
		case d := <-datagrams:
			if d.lost {
				m.reset()
				m.prime()
				m.fn(Event{Lost: true})
				continue
			}
			m.handle(d)
		case e := <-folder.watcher.Events:
			m.netnsChanged(ctx, folder, e)
		case err := <-folder.watcher.Errors:
			// Whatever went wrong, files may have come and gone unseen.
			if err != nil {
				m.forgetNames()
				m.fn(Event{Lost: true})
			}
		case name := <-folder.mounted:
			m.netnsMounted(name)
		case <-m.k.mountWatch.changed:
			m.fn(Event{Mounts: true})
		}
	}
}

// netnsChanged handles a change in the folder of namespaces or, where that does
// not exist, in the one above.
func (m *monitor) netnsChanged(ctx context.Context, folder *netnsWatch, e fsnotify.Event) {
	name, found := folder.look(e)
	for _, made := range found {
		m.forgetNetns(made)
		m.fn(Event{Key: netstate.Netns{Name: made}.Key()})
		go folder.awaitMount(ctx, made)
	}
	if name != "" && (e.Has(fsnotify.Remove) || e.Has(fsnotify.Rename)) {
		m.forgetNetns(name)
		m.fn(Event{Key: netstate.Netns{Name: name}.Key(), Gone: true})
	}
}

// netnsMounted handles a namespace that has become one only after its file
// appeared, which inotify does not tell.
func (m *monitor) netnsMounted(name string) {
	m.forgetNetns(name)
	m.fn(Event{Key: netstate.Netns{Name: name}.Key()})
}

// messages splits a datagram; it ends at the first broken one.
func messages(b []byte, yield func(kind, flags uint16, body []byte)) {
	for len(b) >= syscall.NLMSG_HDRLEN {
		length := int(uint32At(b))
		if length < syscall.NLMSG_HDRLEN || length > len(b) {
			return
		}
		yield(binary.NativeEndian.Uint16(b[4:]), binary.NativeEndian.Uint16(b[6:]), b[syscall.NLMSG_HDRLEN:length])
		b = b[min(align(length), len(b)):]
	}
}
