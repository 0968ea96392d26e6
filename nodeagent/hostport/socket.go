package hostport

import (
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
)

// reserve makes a socket that has a port and drops whatever comes to it, so that
// the node is silent there instead of refusing.
func reserve(at slot, a netip.Addr) (int, error) {
	family := unix.AF_INET
	if !at.four {
		family = unix.AF_INET6
	}
	p := protocols[at.proto]
	fd, err := unix.Socket(family, p.kind|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, int(p.number))
	if err != nil {
		return -1, fmt.Errorf("make socket: %w", err)
	}
	if err := occupy(fd, at, a); err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// occupy binds a socket. The filter is there first, so that the socket never answers.
func occupy(fd int, at slot, a netip.Addr) error {
	drop := unix.SockFprog{Len: 1, Filter: &unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: 0}}
	if err := unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &drop); err != nil {
		return fmt.Errorf("drop what comes: %w", err)
	}
	for _, o := range options(at) {
		if err := unix.SetsockoptInt(fd, o.level, o.name, o.value); err != nil {
			return fmt.Errorf("set socket option %d: %w", o.name, err)
		}
	}
	if err := unix.Bind(fd, sockaddr(a, at.port)); err != nil {
		return fmt.Errorf("bind: %w", err)
	}
	if at.proto == "udp" {
		return nil
	}
	if err := unix.Listen(fd, 0); err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	return nil
}

type option struct{ level, name, value int }

func options(at slot) []option {
	list := []option{
		{unix.SOL_SOCKET, unix.SO_MARK, netstate.SocketMark},
		// The address may come later.
		{unix.IPPROTO_IP, unix.IP_FREEBIND, 1},
	}
	if at.proto != "udp" {
		// Connections of before that linger (TIME_WAIT) are not in the way then. A
		// listening socket shares its port with no other in spite of it; a UDP
		// socket would, with all that set it.
		list = append(list, option{unix.SOL_SOCKET, unix.SO_REUSEADDR, 1})
	}
	if !at.four {
		list = append(list, option{unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1})
	}
	return list
}

func sockaddr(a netip.Addr, port uint16) unix.Sockaddr {
	if a.Is4() {
		return &unix.SockaddrInet4{Port: int(port), Addr: a.As4()}
	}
	return &unix.SockaddrInet6{Port: int(port), Addr: a.As16()}
}
