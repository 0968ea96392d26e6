package hostport

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/patchbay-dev/patchbay/nodeagent/limit"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
)

// MaxRange is the largest range of ports that is held.
const MaxRange = 64

var errDescriptors = errors.New("more ports are published than descriptors may be used to hold them; the rest is not held")

// slot is a port of one protocol and family. The two families are held apart,
// since a publish may have one only.
type slot struct {
	proto string
	four  bool
	port  uint16
}

// sockets hold a slot: that of the unspecified address alone where it is wanted,
// since no other may listen beside it, else one for each address.
type sockets struct {
	wanted map[netip.Addr]int
	fds    map[netip.Addr]int
}

func slots(p netstate.Publish) []slot {
	var out []slot
	for i := range p.Ports() {
		out = append(out, slot{p.Proto, p.Host.Is4(), p.HostPort + uint16(i)})
	}
	return out
}

// Hold holds the ports of publishes: a process that would listen there gets
// EADDRINUSE, and while the firewall does not lead the port anywhere, packets are
// dropped instead of refused. It returns an error for each publish that is not held
// completely, and is to be called again for these; a call for a publish that is held
// changes nothing. Ports that cannot be held at all are passed over: a range above
// MaxRange, SCTP where the kernel does not speak it, a link-local address, which has
// no meaning without its link.
func (p *Ports) Hold(publishes []netstate.Publish) map[netstate.Key]error {
	errs := map[netstate.Key]error{}
	for _, pub := range publishes {
		if !Holdable(pub) {
			continue
		}
		if _, again := p.held[pub.Key()]; !again {
			p.want(pub)
		}
		for _, at := range slots(pub) {
			if err := p.settle(at); err != nil {
				errs[pub.Key()] = err
			}
		}
	}
	return errs
}

// Holdable reports whether Hold can do anything for a publish.
func Holdable(p netstate.Publish) bool {
	linkLocal := p.Host.Is6() && p.Host.IsLinkLocalUnicast()
	return p.Ports() <= MaxRange && !linkLocal && loaded(p.Proto)
}

func (p *Ports) want(pub netstate.Publish) {
	p.held[pub.Key()] = pub
	for _, at := range slots(pub) {
		if p.slots[at] == nil {
			p.slots[at] = &sockets{map[netip.Addr]int{}, map[netip.Addr]int{}}
		}
		p.slots[at].wanted[pub.Host]++
	}
}

// Release lets go of the ports of publishes, as far as no other publish has them.
// Keys without a held port are passed over.
func (p *Ports) Release(keys []netstate.Key) {
	for _, k := range keys {
		pub, ok := p.held[k]
		if !ok {
			continue
		}
		delete(p.held, k)
		for _, at := range slots(pub) {
			s := p.slots[at]
			if s.wanted[pub.Host]--; s.wanted[pub.Host] == 0 {
				delete(s.wanted, pub.Host)
			}
			// What another wants and does not get is said when it is held again.
			_ = p.settle(at)
		}
	}
}

// Held reports whether every port of a publish is held.
func (p *Ports) Held(pub netstate.Publish) bool {
	if _, ok := p.held[pub.Key()]; !ok {
		return false
	}
	for _, at := range slots(pub) {
		if !p.slots[at].covers(pub.Host) {
			return false
		}
	}
	return true
}

// Any is the unspecified address of the slot's family.
func (at slot) any() netip.Addr {
	if at.four {
		return netip.IPv4Unspecified()
	}
	return netip.IPv6Unspecified()
}

func (s *sockets) covers(host netip.Addr) bool {
	for _, a := range []netip.Addr{host, netip.IPv4Unspecified(), netip.IPv6Unspecified()} {
		if _, ok := s.fds[a]; ok && a.Is4() == host.Is4() {
			return true
		}
	}
	return false
}

// settle opens the sockets that a slot needs and closes its other sockets.
func (p *Ports) settle(at slot) error {
	s, needed := p.slots[at], maps.Clone(p.slots[at].wanted)
	if needed[at.any()] > 0 {
		needed = map[netip.Addr]int{at.any(): 1}
	}
	for a := range s.fds {
		if needed[a] == 0 {
			p.close(s, a)
		}
	}
	var errs []error
	for a := range needed {
		if _, ok := s.fds[a]; !ok {
			errs = append(errs, p.take(s, at, a))
		}
	}
	if len(s.wanted) == 0 {
		delete(p.slots, at)
	}
	return errors.Join(errs...)
}

func (p *Ports) close(s *sockets, a netip.Addr) {
	unix.Close(s.fds[a])
	delete(s.fds, a)
	p.open--
}

func (p *Ports) take(s *sockets, at slot, a netip.Addr) error {
	if p.open >= p.limit {
		return fmt.Errorf("%w: raise the hard limit of open files (ulimit -Hn, LimitNOFILE)", errDescriptors)
	}
	fd, err := reserve(at, a)
	if errors.Is(err, unix.EADDRINUSE) {
		err = ErrInUse
	}
	if err != nil {
		return fmt.Errorf("hold %s port %s: %w", at.proto, netip.AddrPortFrom(a, at.port), err)
	}
	s.fds[a] = fd
	p.open++
	return nil
}

// room is how many descriptors are left to whatever else the process does: held
// ports are the first to go without one, not repairs.
const room = 128

// descriptors is how many sockets may hold ports, at most three quarters of what
// the process may open.
func descriptors() int {
	files := limit.Files()
	return max(0, files-max(room, files/4))
}
