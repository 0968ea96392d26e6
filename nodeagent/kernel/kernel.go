// Package kernel observes and changes Patchbay's objects in the kernel: network
// namespaces, links, addresses, routes, bridge ports and sysctls. It promises that
//
//   - each object bears Patchbay's mark from its first message on, so that a crash
//     between any two messages leaves no object that cannot be recognised;
//   - an object without the mark is neither changed nor removed;
//   - Observe and Apply cost as much as their keys, however many objects the node has;
//   - a namespace is kept alive for one call at most, or until its announcement is sent.
//
// No package above it knows netlink. The messages themselves are in package rtnl, the
// files of namespaces in netnsdir, sysctls and their records in sysctl.
//
// Writes are composed by hand, not by github.com/vishvananda/netlink: the library sends
// alias, MAC, MTU, group and master of a new link in messages of their own, so that a
// crash between two of them would leave a link without the mark, and it knows neither
// the protocol of an address nor the cookie of an action, which are our marks there.
package kernel

import (
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"

	"github.com/patchbay-dev/patchbay/nodeagent/kernel/announce"
	"github.com/patchbay-dev/patchbay/nodeagent/kernel/netnsdir"
	"github.com/patchbay-dev/patchbay/nodeagent/kernel/sysctl"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
)

var (
	// ErrForeign means that the object exists and is not Patchbay's.
	ErrForeign = errors.New("it was not made by Patchbay and is left alone; remove it or choose another name")
	// ErrBridgeFull means that a bridge takes no further port.
	ErrBridgeFull = errors.New("the bridge has all of the 1,023 ports that a Linux bridge takes: use a second network or another node")
	// ErrExists means that something was made in the meantime: observe again.
	ErrExists = errors.New("it exists already")
	// ErrLinkNotFound means that the namespace has no interface of that name.
	ErrLinkNotFound = errors.New("no such interface")
	// ErrNetnsNotFound means that no network namespace has that name.
	ErrNetnsNotFound = netnsdir.ErrNotFound
	// ErrMountsApart means that the host does not see the mounts that this process makes
	// under /run/netns, or the other way round.
	ErrMountsApart = netnsdir.ErrMountsApart
	// ErrSysctlReadOnly means that no sysctl can be written here.
	ErrSysctlReadOnly = sysctl.ErrReadOnly
)

// Options select the objects of a Kernel, and the folders of the host.
type Options struct {
	// Source is the source of our marks.
	Source   netstate.Source
	NodeName string
	// RunDir is /run: namespaces are in its folder netns, records in its
	// folder patchbay.
	RunDir string
	// Init is the folder in /proc of a process of the host. It counts if the process is
	// in the same network namespace; the default is /proc/1.
	Init string
	// Step, when set, is called after every message or file write that changes
	// the kernel, on the goroutine that sent it.
	Step func()
}

// Kernel is the kernel of this node as seen from the process's own network
// namespace, the host's. It is safe for concurrent use.
type Kernel struct {
	opts   Options
	dir    *netnsdir.Dir
	writes atomic.Uint64
	// requests counts netlink messages sent, requests for information included.
	requests atomic.Uint64

	sysctls sysctl.Records
	// hints has the name that each nsid of the host stood for last. A hint is a guess and
	// verified at every use. The kernel assigns the lowest free nsid, so that there are as
	// many as there were namespaces at once.
	hints sync.Map
	// filtered is the monitor's.
	filtered filtered
	mounts   *netnsdir.MountWatch
	// announcing counts announcements under way; announcers bounds them.
	announced  announce.History
	announcing sync.WaitGroup
	announcers chan struct{}
	// maxOpen bounds the namespaces that a call has open at once.
	maxOpen int
	// receiveBuffer of the monitor, in bytes; tests make it small.
	receiveBuffer int
}

// Open prepares the kernel for use; it changes nothing.
func Open(o Options) (*Kernel, error) {
	if o.RunDir == "" {
		o.RunDir = "/run"
	}
	if o.Init == "" {
		o.Init = "/proc/1"
	}
	k := &Kernel{opts: o, receiveBuffer: 16 << 20, maxOpen: maxOpen(), announcers: make(chan struct{}, maxAnnouncers), mounts: netnsdir.NewMountWatch()}
	k.sysctls = sysctl.Records{Dir: filepath.Join(o.RunDir, "patchbay", "sysctl"), Source: o.Source, Changed: k.changed}
	var err error
	if k.dir, err = netnsdir.Open(o.RunDir, o.Init, k.changed); err != nil {
		return nil, err
	}
	return k, nil
}

// Close releases the Kernel once all calls and watches have ended; the objects that it
// made stay.
func (k *Kernel) Close() error {
	k.announcing.Wait()
	return k.dir.Close()
}

// Writes is the number of state-changing messages and file writes sent so far,
// refused ones included.
func (k *Kernel) Writes() uint64 { return k.writes.Load() }

// Node reads the facts about the host that compile needs.
func (k *Kernel) Node() (netstate.Node, error) {
	s := k.session()
	defer s.close()
	return s.node()
}

// LinkIndex returns the index of an interface in its own namespace, and of the other end
// of a pair in the namespace of that. It fails with ErrNetnsNotFound or ErrLinkNotFound.
func (k *Kernel) LinkIndex(end netstate.End) (index, peer int32, err error) {
	s := k.session()
	defer s.close()
	_, l, err := s.link(end)
	if err != nil {
		return 0, 0, fmt.Errorf("find %s: %w", end, err)
	}
	return l.Index, l.Peer, nil
}

// sent counts one netlink message.
func (k *Kernel) sent(changes bool) {
	k.requests.Add(1)
	if changes {
		k.changed()
	}
}

// ListenMounts has Watch report changes of mounts from now on. The first report says
// that it does.
func (k *Kernel) ListenMounts() { k.mounts.Listen() }

// changed counts one write and lets the Step hook see the kernel after it.
func (k *Kernel) changed() {
	k.writes.Add(1)
	if k.opts.Step != nil {
		k.opts.Step()
	}
}
