package kernel

import (
	"context"
	"fmt"

	"github.com/fsnotify/fsnotify"
	"github.com/patchbay-dev/patchbay/nodeagent/kernel/netnsdir"
	"github.com/patchbay-dev/patchbay/nodeagent/kernel/rtnl"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
)

// Event says that an object may have changed. An event without an object that
// is not gone says to look at the key again.
type Event struct {
	Key netstate.Key
	// Gone is true where the object has been removed.
	Gone bool
	// Runs is true where a link has a carrier again: look at the objects on it.
	Runs bool
	// Object is the object as the notification describes it, nil if that is not
	// known or it is gone.
	Object netstate.Object
	// Mounts is true where mounts of this process or of the host may have changed, once
	// ListenMounts was called. Nothing else is set then.
	Mounts bool
	// Lost is true where notifications were lost: look at everything again.
	// Nothing else is set then.
	Lost bool
}

// Watch calls fn for every change in the kernel that may concern objects of
// ours, on the host and in every named namespace, until ctx ends. It returns
// once nothing more is missed. fn is called by one goroutine at a time; while
// it works, notifications queue up and are finally lost.
//
// A change of a bridge port, KindPort or KindHairpin, is reported as one of the link. A
// changed sysctl is reported as KindSysctl without a name, with its interface, or without
// one if it is a sysctl of the whole namespace.
func (k *Kernel) Watch(ctx context.Context, fn func(Event)) error {
	socket, err := rtnl.Subscribe(k.receiveBuffer)
	if err != nil {
		return fmt.Errorf("subscribe to the kernel's changes: %w", err)
	}
	folder, err := k.dir.Watch()
	if err != nil {
		socket.Close()
		return fmt.Errorf("watch %s: %w", k.dir.Path, err)
	}
	m := newMonitor(k, fn)
	for _, name := range m.prime() {
		go folder.AwaitMount(ctx, name)
	}
	datagrams := make(chan rtnl.Datagram)
	context.AfterFunc(ctx, func() { socket.Close() })
	go rtnl.Receive(ctx, socket, datagrams)
	go k.mounts.Follow(ctx, k.opts.Init)
	go m.run(ctx, datagrams, folder)
	return nil
}

// run is the monitor's one goroutine.
func (m *monitor) run(ctx context.Context, datagrams <-chan rtnl.Datagram, folder *netnsdir.Watcher) {
	defer folder.Files.Close()
	for {
		select {
		case <-ctx.Done():
			return
		case d := <-datagrams:
			if d.Lost {
				m.reset()
				m.prime()
				m.fn(Event{Lost: true})
				continue
			}
			m.handle(d)
		case e := <-folder.Files.Events:
			m.netnsChanged(ctx, folder, e)
		case err := <-folder.Files.Errors:
			// After any error, files may have come and gone unseen.
			if err != nil {
				m.forgetNames()
				m.fn(Event{Lost: true})
			}
		case name := <-folder.Mounted:
			m.netnsMounted(name)
		case <-m.k.mounts.Changed:
			m.fn(Event{Mounts: true})
		}
	}
}

// netnsChanged handles a change in the folder of namespaces or, while that does not exist,
// in the folder above.
func (m *monitor) netnsChanged(ctx context.Context, folder *netnsdir.Watcher, e fsnotify.Event) {
	name, found := folder.Look(e)
	for _, made := range found {
		m.forgetNetns(made)
		m.fn(Event{Key: netstate.Netns{Name: made}.Key()})
		go folder.AwaitMount(ctx, made)
	}
	if name != "" && (e.Has(fsnotify.Remove) || e.Has(fsnotify.Rename)) {
		m.forgetNetns(name)
		m.fn(Event{Key: netstate.Netns{Name: name}.Key(), Gone: true})
	}
}

// netnsMounted handles a namespace that has become one only after its file
// appeared, which inotify does not tell.
func (m *monitor) netnsMounted(name string) {
	m.forgetNetns(name)
	m.fn(Event{Key: netstate.Netns{Name: name}.Key()})
}
