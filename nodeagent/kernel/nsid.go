package kernel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
)

// peer names the other end of a veth.
func (s *session) peer(p *place, l *link) netstate.End {
	other := p
	if l.peerNetns != ownNetns {
		other = s.numbered(p, l.peerNetns)
	}
	if other == nil || l.peer == 0 {
		return netstate.End{Netns: unknown, Name: unknown}
	}
	end, err := other.linkAt(l.peer)
	if err != nil {
		return netstate.End{Netns: unknown, Name: unknown}
	}
	return netstate.End{Netns: other.netns, Name: end.name}
}

// numbered finds the namespace that p knows by a number, or nil. Places at hand
// come first, then the name it had last time, then all names.
func (s *session) numbered(p *place, number int32) *place {
	if _, err := s.place(""); err != nil {
		return nil
	}
	for _, q := range s.places {
		if q != p && p.numberOf(q) == number {
			return q
		}
	}
	if name, ok := s.k.hints.get(p.id, number); ok {
		if q, err := s.place(name); err == nil && p.numberOf(q) == number {
			return q
		}
	}
	return s.search(p, number)
}

func (s *session) search(p *place, number int32) *place {
	names, err := s.k.netnsNames()
	if err != nil {
		return nil
	}
	for _, name := range names {
		if s.places[name] != nil {
			continue
		}
		q, err := s.place(name)
		if err != nil {
			continue
		}
		if p.numberOf(q) == number {
			return q
		}
		s.leave(name)
	}
	return nil
}

// numberOf is the nsid that p has for q, or ownNetns if it has none.
func (p *place) numberOf(q *place) int32 {
	if n, known := p.numbers[q.id]; known {
		return n
	}
	n := int32(ownNetns)
	if c, err := p.conn(); err == nil {
		n = c.numberOf(q.fd)
	}
	p.numbers[q.id] = n
	if n != ownNetns && q.netns != "" {
		p.k.hints.set(p.id, n, q.netns)
	}
	return n
}

// number gives the namespace an nsid on the host if it has none: sockets with
// NETLINK_LISTEN_ALL_NSID hear only namespaces that have one.
func (s *session) number(p *place) error {
	host, err := s.place("")
	if err != nil {
		return err
	}
	if host.numberOf(p) != ownNetns {
		return nil
	}
	c, err := host.conn()
	if err != nil {
		return err
	}
	delete(host.numbers, p.id)
	whichever := int32(-1)
	err = c.change(unix.RTM_NEWNSID, 0, rtgenmsg{}, number(netnsaFD, uint32(p.fd)), number(netnsaNSID, uint32(whichever)))
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("number network namespace %s: %w", p.netns, err)
	}
	// Asked for once more, so that the monitor need not search for the name.
	host.numberOf(p)
	return nil
}

// Listen has the monitor hear a namespace, and reports whether it did not before: then
// what is known of it may be out of date.
func (k *Kernel) Listen(netns string) (news bool, err error) {
	s := k.session()
	defer s.close()
	p, err := s.place(netns)
	if err != nil {
		return false, err
	}
	host, err := s.place("")
	if err != nil || host.numberOf(p) != ownNetns {
		return false, err
	}
	return true, s.number(p)
}

// rtgenmsg is struct rtgenmsg, padded.
type rtgenmsg [4]byte

func (m rtgenmsg) Len() int          { return len(m) }
func (m rtgenmsg) Serialize() []byte { return m[:] }

func (c *conn) numberOf(fd int) int32 {
	b, err := c.get(unix.RTM_GETNSID, rtgenmsg{}, number(netnsaFD, uint32(fd)))
	if err != nil || len(b) < len(rtgenmsg{}) {
		return ownNetns
	}
	for kind, value := range attributes(b[len(rtgenmsg{}):]) {
		if kind == netnsaNSID && len(value) >= 4 {
			return int32(binary.NativeEndian.Uint32(value))
		}
	}
	return ownNetns
}

// hints remember which name a namespace's number stood for last. They are
// guesses and verified at every use.
type hints struct {
	mu    sync.Mutex
	names map[hint]string
}

type hint struct {
	in     nsID
	number int32
}

func (h *hints) get(in nsID, number int32) (string, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	name, ok := h.names[hint{in, number}]
	return name, ok
}

func (h *hints) set(in nsID, number int32, name string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	// Numbers of namespaces that are gone are never asked for again.
	if h.names == nil || len(h.names) > 1<<14 {
		h.names = map[hint]string{}
	}
	h.names[hint{in, number}] = name
}
