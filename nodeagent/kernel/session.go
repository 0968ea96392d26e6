package kernel

import (
	"errors"
	"fmt"

	"github.com/patchbay-dev/patchbay/nodeagent/kernel/netnsdir"
	"github.com/patchbay-dev/patchbay/nodeagent/kernel/rtnl"
	"github.com/patchbay-dev/patchbay/nodeagent/limit"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// session is one call: it opens each namespace once and asks for each link
// once, and forgets all of it when the call ends.
type session struct {
	k    *Kernel
	open map[string]*namespace
	// nsidsRead says that all names were asked for their nsid on the host.
	nsidsRead bool
}

// namespace is one network namespace within a session.
type namespace struct {
	k       *Kernel
	netns   string
	fd      int
	id      netnsdir.ID
	dialled *rtnl.Conn

	byName  map[string]*rtnl.Link
	byIndex map[int32]*rtnl.Link
	// holders have an asked-for name as an alternative one.
	holders map[string]*rtnl.Link
	// nsidsByID has the nsids that this namespace has for other namespaces. nsids maps them to the
	// host's nsids of the same namespaces, once it is read.
	nsidsByID map[netnsdir.ID]int32
	nsids     map[int32]int32
	// peers has the other ends of veths by the index of the end here, as read from the
	// other end.
	peers map[int32]netstate.End
	// addressesOf and routesOf are the listings of Observe.
	addressesOf map[listed][]rtnl.Address
	routesOf    map[listed][]rtnl.Route
	// neighbours are the permanent neighbours, once they are read.
	neighbours     []rtnl.Neighbour
	neighboursRead bool
	filtersOf      map[filtersKey][]rtnl.Filter
	// filtered are the links with a qdisc for filters, read while no monitor knows them.
	filtered map[int32]bool
}

// listed is a family on a link, by index.
type listed struct {
	family int
	index  int32
}

// once reads a list that is not known yet.
func once[V any](known map[listed]V, key listed, read func() (V, error)) (V, error) {
	if v, ok := known[key]; ok {
		return v, nil
	}
	v, err := read()
	if err == nil {
		known[key] = v
	}
	return v, err
}

func (k *Kernel) session() *session { return &session{k: k, open: map[string]*namespace{}} }

func (s *session) close() {
	for name := range s.open {
		s.leave(name)
	}
}

// leave closes a namespace before the session ends.
func (s *session) leave(netns string) {
	ns := s.open[netns]
	if ns == nil {
		return
	}
	if host := s.open[""]; host != nil {
		// The next namespace may get the inode.
		delete(host.nsidsByID, ns.id)
	}
	ns.close()
	delete(s.open, netns)
}

// maxOpen bounds the namespaces that a session has open, with two descriptors
// each: together a quarter of the descriptors that the process may open.
func maxOpen() int { return max(2, min(200, limit.Files()/8)) }

// trim closes the namespaces of a session that has too many, except for the host. None of
// them may be in use.
func (s *session) trim() {
	if len(s.open) <= s.k.maxOpen {
		return
	}
	for name := range s.open {
		if name != "" {
			s.leave(name)
		}
	}
}

// namespace opens a namespace by name; the empty name is the host. It fails with
// ErrNetnsNotFound, and with ErrForeign for a name that leads to the host.
func (s *session) namespace(netns string) (*namespace, error) {
	if ns := s.open[netns]; ns != nil {
		return ns, nil
	}
	ns, err := s.k.open(netns)
	if err != nil {
		return nil, err
	}
	s.open[netns] = ns
	return ns, nil
}

// link finds an interface by namespace and name.
func (s *session) link(end netstate.End) (*namespace, *rtnl.Link, error) {
	ns, err := s.namespace(end.Netns)
	if err != nil {
		return nil, nil, err
	}
	l, err := ns.link(end.Name)
	if err != nil {
		return nil, nil, err
	}
	return ns, l, nil
}

func (k *Kernel) open(netns string) (*namespace, error) {
	ns := &namespace{
		k: k, netns: netns, fd: k.dir.Host, id: k.dir.HostID,
		byName: map[string]*rtnl.Link{}, byIndex: map[int32]*rtnl.Link{}, holders: map[string]*rtnl.Link{}, nsidsByID: map[netnsdir.ID]int32{}, peers: map[int32]netstate.End{},
		addressesOf: map[listed][]rtnl.Address{}, routesOf: map[listed][]rtnl.Route{}, filtersOf: map[filtersKey][]rtnl.Filter{},
	}
	if netns == "" {
		return ns, nil
	}
	var err error
	ns.fd, ns.id, err = k.dir.Open(netns)
	switch {
	case errors.Is(err, netnsdir.ErrHost):
		return nil, fmt.Errorf("open network namespace %s, which is the host's own: %w", netns, ErrForeign)
	case err != nil:
		return nil, err
	}
	return ns, nil
}

// NetnsID identifies the namespace of a name. Two names of one namespace have one NetnsID.
func (k *Kernel) NetnsID(name string) (netstate.NetnsID, bool) {
	ns, err := k.open(name)
	if err != nil {
		return netstate.NetnsID{}, false
	}
	defer ns.close()
	return netstate.NetnsID{Dev: ns.id.Dev, Ino: ns.id.Ino}, true
}

func (ns *namespace) close() {
	ns.hangUp()
	if ns.fd != ns.k.dir.Host {
		unix.Close(ns.fd)
	}
}

// hangUp closes the namespace's socket; the next message opens another.
func (ns *namespace) hangUp() {
	if ns.dialled != nil {
		ns.dialled.Close()
		ns.dialled = nil
	}
}

// conn returns the namespace's netlink socket.
func (ns *namespace) conn() (*rtnl.Conn, error) {
	if ns.dialled != nil {
		return ns.dialled, nil
	}
	err := ns.run(func() (err error) {
		ns.dialled, err = rtnl.Dial(ns.k.sent)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("open a netlink socket in %s: %w", netnsName(ns.netns), err)
	}
	return ns.dialled, nil
}

// run calls f on a thread in the namespace.
func (ns *namespace) run(f func() error) error {
	if ns.fd == ns.k.dir.Host {
		return f()
	}
	done := make(chan error, 1)
	go func() { done <- ns.k.dir.Visit(ns.fd, f) }()
	return <-done
}

func netnsName(netns string) string {
	if netns == "" {
		return "the host"
	}
	return "network namespace " + netns
}

// change sends a message that changes the kernel.
func (ns *namespace) change(kind, flags int, body nl.NetlinkRequestData, attrs ...*nl.RtAttr) error {
	c, err := ns.conn()
	if err != nil {
		return err
	}
	return c.Change(kind, flags, body, attrs...)
}

// get asks for one object.
func (ns *namespace) get(kind int, body nl.NetlinkRequestData, attrs ...*nl.RtAttr) ([]byte, error) {
	c, err := ns.conn()
	if err != nil {
		return nil, err
	}
	return c.Get(kind, body, attrs...)
}

// dump lists the objects that the body selects, as far as parse takes them for one: all
// of them, or none with an error.
func dump[T any](ns *namespace, kind int, body nl.NetlinkRequestData, parse func([]byte) (T, bool), attrs ...*nl.RtAttr) ([]T, error) {
	c, err := ns.conn()
	if err != nil {
		return nil, err
	}
	answers, err := c.Dump(kind, body, attrs...)
	var list []T
	for _, b := range answers {
		if o, ok := parse(b); ok {
			list = append(list, o)
		}
	}
	return list, err
}
