// Package hostport is about the ports that the node's own processes have. It tells
// which process listens where a publish would answer, and holds ports, so that no
// process can listen on one unawares. It promises to change nothing but its own
// sockets, which end with the process, and to look at other processes by sock_diag:
// at /proc only for the names of processes that are in the way.
package hostport

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
)

// Listener is a socket that gets what comes to a port of the node.
type Listener struct {
	Proto string
	// Address is the unspecified one where it listens on all of them.
	Address netip.AddrPort
	// Command and PID are of a process that has the socket; empty and zero where
	// none is visible: it may be in another PID namespace, or the kernel itself.
	Command string
	PID     int
}

// String is the listener as the subject of a sentence.
func (l Listener) String() string {
	where := fmt.Sprintf("listens on %s %s", strings.ToUpper(l.Proto), l.Address)
	if l.PID == 0 {
		return "a process " + where
	}
	return fmt.Sprintf("%s (PID %d) %s", l.Command, l.PID, where)
}

// ErrInUse is why a port cannot be held for now: another socket has it, be it a
// listener's or an outgoing connection's.
var ErrInUse = errors.New("in use")

// Ports are the ports of the network namespace that its methods are called in. It is
// for one goroutine.
type Ports struct {
	slots map[slot]*sockets
	held  map[netstate.Key]netstate.Publish
	open  int
	limit int
	// known are the processes of listeners found before, by inode.
	known map[uint32]process
}

// New holds no port.
func New() *Ports {
	return &Ports{slots: map[slot]*sockets{}, held: map[netstate.Key]netstate.Publish{}, limit: descriptors(), known: map[uint32]process{}}
}

// Close lets go of every port.
func (p *Ports) Close() {
	for _, s := range p.slots {
		for a := range s.fds {
			p.close(s, a)
		}
	}
	clear(p.slots)
	clear(p.held)
}

// Listeners returns, by key, who listens where the publishes answer, or would;
// what holds a port for a publish, here or in another Patchbay, is left out. It
// costs a dump of the listening sockets between the lowest and the highest of the
// ports, for each protocol.
func (p *Ports) Listeners(publishes []netstate.Publish) (map[netstate.Key][]Listener, error) {
	found, inodes, errs := map[netstate.Key][]socket{}, map[uint32]bool{}, []error(nil)
	for proto, list := range byProtocol(publishes) {
		sockets, err := listening(proto, list)
		if err != nil {
			errs = append(errs, fmt.Errorf("look for listening %s sockets: %w", proto, err))
		}
		byPort := map[uint16][]socket{}
		for _, s := range sockets {
			byPort[s.port] = append(byPort[s.port], s)
		}
		for _, pub := range list {
			for _, s := range inTheWay(pub, byPort) {
				found[pub.Key()] = append(found[pub.Key()], s)
				inodes[s.inode] = true
			}
		}
	}
	p.identify(inodes)
	out := map[netstate.Key][]Listener{}
	for k, list := range found {
		for _, s := range list {
			who := p.known[s.inode]
			out[k] = append(out[k], Listener{Proto: s.proto, Address: netip.AddrPortFrom(s.addr, s.port), Command: who.command, PID: who.pid})
		}
	}
	return out, errors.Join(errs...)
}

func byProtocol(publishes []netstate.Publish) map[string][]netstate.Publish {
	out := map[string][]netstate.Publish{}
	for _, p := range publishes {
		out[p.Proto] = append(out[p.Proto], p)
	}
	return out
}

// inTheWay returns the sockets from which a publish takes what comes.
func inTheWay(p netstate.Publish, byPort map[uint16][]socket) []socket {
	var out []socket
	add := func(port uint16) {
		for _, s := range byPort[port] {
			if s.answers(p.Host) {
				out = append(out, s)
			}
		}
	}
	if p.Ports() <= len(byPort) {
		for i := range p.Ports() {
			add(p.HostPort + uint16(i))
		}
		return out
	}
	for port := range byPort {
		if port >= p.HostPort && port <= last(p) {
			add(port)
		}
	}
	return sorted(out)
}

func last(p netstate.Publish) uint16 { return max(p.HostPort, p.HostPortEnd) }
