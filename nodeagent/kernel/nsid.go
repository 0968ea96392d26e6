package kernel

import (
	"errors"
	"fmt"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
)

// peer names the other end of a veth.
func (s *session) peer(p *place, l *link) netstate.End {
	if end, known := p.peers[l.index]; known {
		return end
	}
	other := p
	if l.peerNetns != ownNetns {
		other = s.byNSID(p, l.peerNetns)
	}
	if other == nil || l.peer == 0 {
		return netstate.End{Netns: unknown, Name: unknown}
	}
	end, err := other.linkAt(l.peer)
	if err != nil {
		return netstate.End{Netns: unknown, Name: unknown}
	}
	// The peer's peer is this end: p need not be opened again to name it.
	other.peers[end.index] = netstate.End{Netns: p.netns, Name: l.name}
	return netstate.End{Netns: other.netns, Name: end.name}
}

// byNSID finds the namespace that p knows by an nsid, or nil.
func (s *session) byNSID(p *place, nsid int32) *place {
	host, err := s.place("")
	switch {
	case err != nil:
		return nil
	case p == host:
		return s.hostNSID(host, nsid)
	case p.nsidOf(host) == nsid:
		return host
	}
	if p.nsids == nil {
		p.nsids = host.nsidsOf(p)
	}
	if onHost, known := p.nsids[nsid]; known {
		return s.hostNSID(host, onHost)
	}
	return s.search(func(q *place) bool { return p.nsidOf(q) == nsid })
}

// hostNSID finds the namespace of one of the host's nsids: by its last name, or by all
// names, which are read at most once in a session.
func (s *session) hostNSID(host *place, nsid int32) *place {
	if q := s.hinted(host, nsid); q != nil || s.nsidsRead {
		return q
	}
	s.nsidsRead = true
	s.search(func(q *place) bool { host.nsidOf(q); return false })
	return s.hinted(host, nsid)
}

// hinted opens the namespace that had the nsid last, and returns nil if that has another.
func (s *session) hinted(host *place, nsid int32) *place {
	name, ok := s.k.hints.get(nsid)
	if !ok {
		return nil
	}
	q, err := s.place(name)
	if err != nil || host.nsidOf(q) != nsid {
		return nil
	}
	return q
}

// search opens named namespaces one after the other until one is found.
func (s *session) search(found func(*place) bool) *place {
	names, _ := s.k.netnsNames()
	for _, name := range names {
		open := s.places[name] != nil
		q, err := s.place(name)
		if err != nil {
			continue
		}
		if found(q) {
			return q
		}
		if !open {
			s.leave(name)
		}
	}
	return nil
}

// nsidOf is the nsid that p has for q, or ownNetns if it has none.
func (p *place) nsidOf(q *place) int32 {
	if n, known := p.nsidsByID[q.id]; known {
		return n
	}
	n := int32(ownNetns)
	if c, err := p.conn(); err == nil {
		n = c.nsidOf(q.fd)
	}
	p.nsidsByID[q.id] = n
	if n != ownNetns && p.netns == "" {
		p.k.hints.set(n, q.netns)
	}
	return n
}

// nsidsOf lists q's nsids with the host's nsid of the same namespace, as far as the host
// has one.
func (p *place) nsidsOf(q *place) map[int32]int32 {
	out := map[int32]int32{}
	c, err := p.conn()
	if err != nil || p.nsidOf(q) == ownNetns {
		return out
	}
	answers, err := c.dump(unix.RTM_GETNSID, rtgenmsg{}, u32Attr(netnsaTargetNSID, uint32(p.nsidOf(q))))
	if err != nil {
		return out
	}
	for _, b := range answers {
		if nsid, onHost := nsidsIn(b); nsid != ownNetns && onHost != ownNetns {
			out[nsid] = onHost
		}
	}
	return out
}

// assignNSID gives the namespace an nsid on the host if it has none: a socket with
// NETLINK_LISTEN_ALL_NSID hears only namespaces that have one.
func (s *session) assignNSID(p *place) error {
	host, err := s.place("")
	if err != nil {
		return err
	}
	if host.nsidOf(p) != ownNetns {
		return nil
	}
	c, err := host.conn()
	if err != nil {
		return err
	}
	delete(host.nsidsByID, p.id)
	unassigned := int32(-1)
	err = c.change(unix.RTM_NEWNSID, 0, rtgenmsg{}, u32Attr(netnsaFD, uint32(p.fd)), u32Attr(netnsaNSID, uint32(unassigned)))
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("assign an nsid to network namespace %s: %w", p.netns, err)
	}
	// The hint that this question leaves spares the monitor a search for the name.
	host.nsidOf(p)
	return nil
}

// Listen makes the monitor hear a namespace. It returns true where the monitor did not
// hear the namespace before: the state known of it may be out of date.
func (k *Kernel) Listen(netns string) (news bool, err error) {
	s := k.session()
	defer s.close()
	p, err := s.place(netns)
	if err != nil {
		return false, err
	}
	host, err := s.place("")
	if err != nil || host.nsidOf(p) != ownNetns {
		return false, err
	}
	return true, s.assignNSID(p)
}

// rtgenmsg is struct rtgenmsg, padded.
type rtgenmsg [4]byte

func (m rtgenmsg) Len() int          { return len(m) }
func (m rtgenmsg) Serialize() []byte { return m[:] }

func (c *conn) nsidOf(fd int) int32 {
	b, err := c.get(unix.RTM_GETNSID, rtgenmsg{}, u32Attr(netnsaFD, uint32(fd)))
	if err != nil {
		return ownNetns
	}
	nsid, _ := nsidsIn(b)
	return nsid
}

// nsidsIn reads RTM_NEWNSID: an nsid, and the socket's own nsid of the same namespace
// where the message has both. What is missing is ownNetns.
func nsidsIn(b []byte) (nsid, current int32) {
	nsid, current = ownNetns, ownNetns
	if len(b) < len(rtgenmsg{}) {
		return nsid, current
	}
	for kind, value := range attributes(b[len(rtgenmsg{}):]) {
		switch {
		case len(value) < 4:
		case kind == netnsaNSID:
			nsid = int32(uint32At(value))
		case kind == netnsaCurrentNSID:
			current = int32(uint32At(value))
		}
	}
	return nsid, current
}

// hints remember the name that each nsid of the host stood for last. A hint is a guess
// and verified at every use.
type hints struct {
	mu    sync.Mutex
	names map[int32]string
}

func (h *hints) get(nsid int32) (string, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	name, ok := h.names[nsid]
	return name, ok
}

func (h *hints) set(nsid int32, name string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	// The kernel assigns the lowest free nsid, so that the map is as large as the most
	// namespaces that there were at once.
	if h.names == nil {
		h.names = map[int32]string{}
	}
	h.names[nsid] = name
}
