package kernel

import (
	"context"
	"errors"
	"path/filepath"
	"time"

	"github.com/fsnotify/fsnotify"
	"golang.org/x/sys/unix"

	"github.com/patchbay-dev/patchbay/nodeagent/limit"
)

// mountTick is how often it is looked, while a file in the folder of namespaces is
// none yet, whether the watch has ended.
const mountTick = time.Second

// netnsWatch watches the folder of namespaces, or the one above until it
// exists.
type netnsWatch struct {
	watcher *fsnotify.Watcher
	k       *Kernel
	// mounted receives the names of files that became namespaces.
	mounted chan string
}

func (k *Kernel) watchNetnsDir() (*netnsWatch, error) {
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		return nil, limit.ExplainInotify(err)
	}
	w := &netnsWatch{watcher: watcher, k: k, mounted: make(chan string)}
	// Above first: a folder made between the two calls is noticed then.
	if err := watcher.Add(k.opts.RunDir); err != nil {
		watcher.Close()
		return nil, limit.ExplainInotify(err)
	}
	if watcher.Add(k.netnsDir()) == nil {
		_ = watcher.Remove(k.opts.RunDir)
	}
	return w, nil
}

// look returns the name of the namespace that a change is about, and those that
// are new, and keeps the watch on the right folder.
func (w *netnsWatch) look(e fsnotify.Event) (name string, found []string) {
	switch {
	case filepath.Dir(e.Name) == w.k.netnsDir():
		name = filepath.Base(e.Name)
		if e.Has(fsnotify.Create) {
			found = []string{name}
		}
	case e.Name != w.k.netnsDir():
	case e.Has(fsnotify.Create):
		if w.watcher.Add(w.k.netnsDir()) == nil {
			_ = w.watcher.Remove(w.k.opts.RunDir)
		}
		// Whatever came before the watch did.
		found, _ = w.k.netnsNames()
	case e.Has(fsnotify.Remove):
		_ = w.watcher.Add(w.k.opts.RunDir)
	}
	return name, found
}

// awaitMount waits for a namespace to be mounted on its file, as long as there is that
// file. The kernel wakes who polls mountinfo at every change of the mounts.
func (w *netnsWatch) awaitMount(ctx context.Context, name string) {
	// Without a descriptor, -1, poll only waits for its time to be over.
	mounts, err := unix.Open("/proc/self/mountinfo", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err == nil {
		defer unix.Close(mounts)
	}
	for ctx.Err() == nil {
		p, err := w.k.open(name)
		other := insteadError{}
		if err != nil && !errors.As(err, &other) {
			return
		}
		if err == nil {
			p.close()
		}
		// A mount on the host alone is news as well, though it is none here.
		if err == nil || other.apart {
			select {
			case w.mounted <- name:
			case <-ctx.Done():
			}
			return
		}
		_, _ = unix.Poll([]unix.PollFd{{Fd: int32(mounts), Events: unix.POLLPRI}}, int(mountTick.Milliseconds()))
	}
}
