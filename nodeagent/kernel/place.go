package kernel

import (
	"fmt"
	"runtime"

	"golang.org/x/sys/unix"

	"github.com/patchbay-dev/patchbay/nodeagent/limit"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
)

// nsID tells network namespaces apart as long as one of them is open.
type nsID struct{ dev, ino uint64 }

// session is one call: it opens each namespace once and asks for each link
// once, and forgets all of it when the call ends.
type session struct {
	k      *Kernel
	places map[string]*place
	// nsidsRead says that all names were asked for their nsid on the host.
	nsidsRead bool
}

// place is one network namespace within a session.
type place struct {
	k       *Kernel
	netns   string
	fd      int
	id      nsID
	dialled *conn

	byName  map[string]*link
	byIndex map[int32]*link
	// holders have an asked-for name as an alternative one.
	holders map[string]*link
	// nsidsByID are the nsids that this namespace has for others; nsids are the host's
	// nsids of the same namespaces by them, once they are read.
	nsidsByID map[nsID]int32
	nsids     map[int32]int32
	// peers are the other ends of veths by the index of the end here, as those ends
	// told.
	peers map[int32]netstate.End
	// What Observe has listed of a link.
	addressesOf map[listed][]address
	routesOf    map[listed][]route
	// neighbours are the permanent ones, once they are read.
	neighbours     []neighbour
	neighboursRead bool
	filtersOf      map[filtersKey][]filter
	// filtered are the links with a place for filters, where no monitor knows them.
	filtered map[int32]bool
}

// listed is a family on a link, by index.
type listed struct {
	family int
	index  int32
}

// once reads what is not known yet.
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

func (k *Kernel) session() *session { return &session{k: k, places: map[string]*place{}} }

func (s *session) close() {
	for name := range s.places {
		s.leave(name)
	}
}

// leave closes a namespace before the session ends.
func (s *session) leave(netns string) {
	p := s.places[netns]
	if p == nil {
		return
	}
	if host := s.places[""]; host != nil {
		// The next namespace may get the inode.
		delete(host.nsidsByID, p.id)
	}
	p.close()
	delete(s.places, netns)
}

// maxPlaces bounds the namespaces that a session has open, with two descriptors
// each: together a quarter of what the process may open.
func maxPlaces() int { return max(2, min(200, limit.Files()/8)) }

// trim closes the places of a session that has too many, except for the host. None of
// them may be in use.
func (s *session) trim() {
	if len(s.places) <= s.k.maxPlaces {
		return
	}
	for name := range s.places {
		if name != "" {
			s.leave(name)
		}
	}
}

// place opens a namespace by name; the empty name is the host. It fails with
// ErrNetnsNotFound, and with ErrForeign for a name that leads to the host.
func (s *session) place(netns string) (*place, error) {
	if p := s.places[netns]; p != nil {
		return p, nil
	}
	p, err := s.k.open(netns)
	if err != nil {
		return nil, err
	}
	s.places[netns] = p
	return p, nil
}

// link finds an interface by place and name.
func (s *session) link(end netstate.End) (*place, *link, error) {
	p, err := s.place(end.Netns)
	if err != nil {
		return nil, nil, err
	}
	l, err := p.link(end.Name)
	if err != nil {
		return nil, nil, err
	}
	return p, l, nil
}

func (k *Kernel) open(netns string) (*place, error) {
	p := &place{
		k: k, netns: netns, fd: k.host, id: k.hostID,
		byName: map[string]*link{}, byIndex: map[int32]*link{}, holders: map[string]*link{}, nsidsByID: map[nsID]int32{}, peers: map[int32]netstate.End{},
		addressesOf: map[listed][]address{}, routesOf: map[listed][]route{}, filtersOf: map[filtersKey][]filter{},
	}
	if netns == "" {
		return p, nil
	}
	path, err := k.netnsPath(netns)
	if err != nil {
		return nil, err
	}
	if p.fd, p.id, err = openNetns(path); err != nil {
		if apart := k.reach.compare(netns, nsID{}); apart != nil {
			err = apart
		}
		return nil, fmt.Errorf("open network namespace %s: %w", netns, err)
	}
	// kubernetes#100648: a name came to mean the host, and the host lost lo.
	if p.id == k.hostID {
		p.close()
		return nil, fmt.Errorf("open network namespace %s, which is the host's own: %w", netns, ErrForeign)
	}
	if err := k.reach.compare(netns, p.id); err != nil {
		p.close()
		return nil, err
	}
	return p, nil
}

// NetnsID says what the namespace of a name is. Two names of one are equal in it.
func (k *Kernel) NetnsID(name string) (netstate.NetnsID, bool) {
	p, err := k.open(name)
	if err != nil {
		return netstate.NetnsID{}, false
	}
	defer p.close()
	return netstate.NetnsID{Dev: p.id.dev, Ino: p.id.ino}, true
}

func (p *place) close() {
	p.hangUp()
	if p.fd != p.k.host {
		unix.Close(p.fd)
	}
}

// hangUp closes the place's socket; the next message opens another.
func (p *place) hangUp() {
	if p.dialled != nil {
		p.dialled.close()
		p.dialled = nil
	}
}

// conn returns the place's netlink socket.
func (p *place) conn() (*conn, error) {
	if p.dialled != nil {
		return p.dialled, nil
	}
	err := p.run(func() (err error) {
		p.dialled, err = p.k.dial()
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("open a netlink socket in %s: %w", placeName(p.netns), err)
	}
	return p.dialled, nil
}

// run calls f on a thread in the place's namespace.
func (p *place) run(f func() error) error {
	if p.fd == p.k.host {
		return f()
	}
	done := make(chan error, 1)
	go func() { done <- p.k.visit(p.fd, f) }()
	return <-done
}

// visit must be called on a goroutine of its own: where the way back fails, the
// thread stays locked and ends with that goroutine.
func (k *Kernel) visit(fd int, f func() error) error {
	runtime.LockOSThread()
	if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("enter a network namespace: %w", err)
	}
	err := f()
	if unix.Setns(k.host, unix.CLONE_NEWNET) == nil {
		runtime.UnlockOSThread()
	}
	return err
}

// onFreshThread calls f on a thread that is thrown away afterwards.
func onFreshThread(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() != unix.Getpid() {
			done <- f()
			return
		}
		// The main thread cannot be thrown away. Held here, it cannot be the
		// one that the next attempt gets.
		done <- onFreshThread(f)
		runtime.UnlockOSThread()
	}()
	return <-done
}

func identify(fd int) (nsID, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nsID{}, err
	}
	return nsID{dev: st.Dev, ino: st.Ino}, nil
}

func placeName(netns string) string {
	if netns == "" {
		return "the host"
	}
	return "network namespace " + netns
}
