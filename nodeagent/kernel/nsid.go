package kernel

import (
	"errors"
	"fmt"

	"github.com/patchbay-dev/patchbay/nodeagent/kernel/rtnl"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
	"golang.org/x/sys/unix"
)

// peer names the other end of a veth.
func (s *session) peer(ns *namespace, l *rtnl.Link) netstate.End {
	if end, known := ns.peers[l.Index]; known {
		return end
	}
	other := ns
	if l.PeerNetns != rtnl.OwnNetns {
		other = s.byNSID(ns, l.PeerNetns)
	}
	if other == nil || l.Peer == 0 {
		return netstate.End{Netns: unknown, Name: unknown}
	}
	end, err := other.linkAt(l.Peer)
	if err != nil {
		return netstate.End{Netns: unknown, Name: unknown}
	}
	// The peer's peer is this end: p need not be opened again to name it.
	other.peers[end.Index] = netstate.End{Netns: ns.netns, Name: l.Name}
	return netstate.End{Netns: other.netns, Name: end.Name}
}

// byNSID finds the namespace that p knows by an nsid, or nil.
func (s *session) byNSID(ns *namespace, nsid int32) *namespace {
	host, err := s.namespace("")
	switch {
	case err != nil:
		return nil
	case ns == host:
		return s.hostNSID(host, nsid)
	case ns.nsidOf(host) == nsid:
		return host
	}
	if ns.nsids == nil {
		ns.nsids = host.nsidsOf(ns)
	}
	if onHost, known := ns.nsids[nsid]; known {
		return s.hostNSID(host, onHost)
	}
	return s.search(func(q *namespace) bool { return ns.nsidOf(q) == nsid })
}

// hostNSID finds the namespace of one of the host's nsids: by its last name, or by all
// names, which are read at most once in a session.
func (s *session) hostNSID(host *namespace, nsid int32) *namespace {
	if q := s.hinted(host, nsid); q != nil || s.nsidsRead {
		return q
	}
	s.nsidsRead = true
	s.search(func(q *namespace) bool { host.nsidOf(q); return false })
	return s.hinted(host, nsid)
}

// hinted opens the namespace that had the nsid last, and returns nil if that has another.
func (s *session) hinted(host *namespace, nsid int32) *namespace {
	name, ok := s.k.hints.Load(nsid)
	if !ok {
		return nil
	}
	q, err := s.namespace(name.(string))
	if err != nil || host.nsidOf(q) != nsid {
		return nil
	}
	return q
}

// search opens named namespaces one after the other until one is found.
func (s *session) search(found func(*namespace) bool) *namespace {
	names, _ := s.k.dir.Names()
	for _, name := range names {
		open := s.open[name] != nil
		q, err := s.namespace(name)
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
func (ns *namespace) nsidOf(q *namespace) int32 {
	if n, known := ns.nsidsByID[q.id]; known {
		return n
	}
	n := int32(rtnl.OwnNetns)
	if c, err := ns.conn(); err == nil {
		n = c.NSIDOf(q.fd)
	}
	ns.nsidsByID[q.id] = n
	if n != rtnl.OwnNetns && ns.netns == "" {
		ns.k.hints.Store(n, q.netns)
	}
	return n
}

// nsidsOf lists q's nsids with the host's nsid of the same namespace, as far as the host
// has one.
func (ns *namespace) nsidsOf(q *namespace) map[int32]int32 {
	out := map[int32]int32{}
	c, err := ns.conn()
	if err != nil || ns.nsidOf(q) == rtnl.OwnNetns {
		return out
	}
	answers, err := c.Dump(unix.RTM_GETNSID, rtnl.Rtgenmsg{}, rtnl.U32(rtnl.NetnsaTargetNSID, uint32(ns.nsidOf(q))))
	if err != nil {
		return out
	}
	for _, b := range answers {
		if nsid, onHost := rtnl.ParseNSID(b); nsid != rtnl.OwnNetns && onHost != rtnl.OwnNetns {
			out[nsid] = onHost
		}
	}
	return out
}

// assignNSID gives the namespace an nsid on the host if it has none: a socket with
// NETLINK_LISTEN_ALL_NSID hears only namespaces that have one.
func (s *session) assignNSID(ns *namespace) error {
	host, err := s.namespace("")
	if err != nil {
		return err
	}
	if host.nsidOf(ns) != rtnl.OwnNetns {
		return nil
	}
	delete(host.nsidsByID, ns.id)
	unassigned := int32(-1)
	err = host.change(unix.RTM_NEWNSID, 0, rtnl.Rtgenmsg{}, rtnl.U32(rtnl.NetnsaFD, uint32(ns.fd)), rtnl.U32(rtnl.NetnsaNSID, uint32(unassigned)))
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("assign an nsid to network namespace %s: %w", ns.netns, err)
	}
	// The hint that this question leaves spares the monitor a search for the name.
	host.nsidOf(ns)
	return nil
}

// Listen makes the monitor hear a namespace. It returns true where the monitor did not
// hear the namespace before: the state known of it may be out of date.
func (k *Kernel) Listen(netns string) (news bool, err error) {
	s := k.session()
	defer s.close()
	ns, err := s.namespace(netns)
	if err != nil {
		return false, err
	}
	host, err := s.namespace("")
	if err != nil || host.nsidOf(ns) != rtnl.OwnNetns {
		return false, err
	}
	return true, s.assignNSID(ns)
}
