// Package kernel observes and changes what Patchbay keeps in the kernel:
// network namespaces, links, addresses, routes, bridge ports and sysctls. It
// promises that
//
//   - what it makes bears Patchbay's mark from the first message on, so that a
//     crash between any two messages leaves nothing that cannot be recognised;
//   - what bears no such mark is neither changed nor removed;
//   - Observe and Apply cost what their keys cost, not what the node holds;
//   - no namespace is kept alive by it beyond one call, and beyond the moment
//     that an announcement takes.
//
// Nothing above it knows netlink.
package kernel

import (
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
)

var (
	// ErrForeign means that the object exists and is not Patchbay's.
	ErrForeign = errors.New("it was not made by Patchbay and is left alone; remove it or choose another name")
	// ErrBridgeFull means that a bridge takes no further port.
	ErrBridgeFull = errors.New("the bridge has all of the 1,023 ports that a Linux bridge takes: use a second network or another node")
	// ErrExists means that something was made in the meantime: observe again.
	ErrExists = errors.New("it exists already")
	// ErrNetnsNotFound means that no network namespace has that name.
	ErrNetnsNotFound = errors.New("no such network namespace")
	// ErrSysctlReadOnly means that no sysctl can be written here.
	ErrSysctlReadOnly = errors.New("/proc/sys is read-only here: have it mounted read-write (Docker and Podman: --privileged or --security-opt systempaths=unconfined; systemd: ProtectKernelTunables=no; LXC: lxc.mount.auto = proc:rw)")
	// ErrMountsApart means that the host does not see what is mounted here under
	// /run/netns, or the other way round.
	ErrMountsApart = errors.New(apartAdvice)
	// ErrLinkNotFound means that the namespace has no interface of that name.
	ErrLinkNotFound = errors.New("no such interface")
)

// Options say whose objects a Kernel handles and where it finds them.
type Options struct {
	// Source is whose marks are ours.
	Source   netstate.Source
	NodeName string
	// RunDir is /run: namespaces are in its folder netns, records in its
	// folder patchbay.
	RunDir string
	// Init is the folder of the process that stands for the host in /proc, where it
	// is in the same network namespace; default /proc/1.
	Init string
	// Step, when set, is called after every message or file write that changes
	// the kernel, by whatever goroutine sent it.
	Step func()
}

// Kernel is the kernel of this node as seen from the process's own network
// namespace, the host's. It is safe for concurrent use.
type Kernel struct {
	opts   Options
	host   int // the host's network namespace
	hostID nsID
	reach  reach
	writes atomic.Uint64
	// requests counts netlink messages sent, those that only ask included.
	requests atomic.Uint64

	// records guards the records of sysctls and what they stand for.
	records sync.Mutex
	hints   hints
	// filtered is the monitor's.
	filtered   filtered
	mountWatch *mountWatch
	// announcing counts announcements under way; announcers bounds them.
	announcing sync.WaitGroup
	announcers chan struct{}
	// maxPlaces bounds the namespaces that a call has open at once.
	maxPlaces int
	// receiveBuffer of the monitor, in bytes; tests make it small.
	receiveBuffer int
}

// Held is an object that bears our mark.
type Held struct {
	// Owner is zero for namespaces, loopbacks, half-made links and sysctls.
	Owner  netstate.Owner
	Object netstate.Object
}

// Open prepares the kernel for use; it changes nothing.
func Open(o Options) (*Kernel, error) {
	if o.RunDir == "" {
		o.RunDir = "/run"
	}
	if o.Init == "" {
		o.Init = "/proc/1"
	}
	fd, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open the host's network namespace: %w", err)
	}
	id, err := identify(fd)
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("identify the host's network namespace: %w", err)
	}
	k := &Kernel{opts: o, host: fd, hostID: id, receiveBuffer: 16 << 20, maxPlaces: maxPlaces(), announcers: make(chan struct{}, maxAnnouncers), mountWatch: newMountWatch()}
	k.reach = k.lookAtMounts()
	return k, nil
}

// Close releases the Kernel once all calls and watches have ended; what it made
// stays.
func (k *Kernel) Close() error {
	k.announcing.Wait()
	return unix.Close(k.host)
}

// Writes is the number of state-changing messages and file writes sent so far,
// refused ones included.
func (k *Kernel) Writes() uint64 { return k.writes.Load() }

// Node reads what compile needs to know of the host.
func (k *Kernel) Node() (netstate.Node, error) {
	s := k.session()
	defer s.close()
	return s.node()
}

// LinkIndex returns the index of an interface in its own namespace. It fails
// with ErrNetnsNotFound or ErrLinkNotFound.
func (k *Kernel) LinkIndex(end netstate.End) (int, error) {
	s := k.session()
	defer s.close()
	_, l, err := s.link(end)
	if err != nil {
		return 0, fmt.Errorf("find %s: %w", end, err)
	}
	return int(l.index), nil
}

// changed counts one write and lets the Step hook see the kernel after it.
func (k *Kernel) changed() {
	k.writes.Add(1)
	if k.opts.Step != nil {
		k.opts.Step()
	}
}

func (k *Kernel) netnsDir() string  { return filepath.Join(k.opts.RunDir, "netns") }
func (k *Kernel) recordDir() string { return filepath.Join(k.opts.RunDir, "patchbay", "sysctl") }
