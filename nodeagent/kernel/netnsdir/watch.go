package netnsdir

import (
	"context"
	"errors"
	"path/filepath"
	"time"

	"github.com/fsnotify/fsnotify"
	"golang.org/x/sys/unix"

	"github.com/patchbay-dev/patchbay/nodeagent/limit"
)

// mountTick is the interval at which a wait for a mount checks whether the watch has ended.
const mountTick = time.Second

// Watcher watches the folder of namespaces, or the one above until it
// exists.
type Watcher struct {
	// Files reports the changes of the folder.
	Files *fsnotify.Watcher
	dir   *Dir
	// Mounted receives the names of files that became namespaces.
	Mounted chan string
}

// Watch begins to watch the folder.
func (d *Dir) Watch() (*Watcher, error) {
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		return nil, limit.ExplainInotify(err)
	}
	w := &Watcher{Files: watcher, dir: d, Mounted: make(chan string)}
	// Above first: a folder made between the two calls is noticed then.
	if err := watcher.Add(d.above()); err != nil {
		watcher.Close()
		return nil, limit.ExplainInotify(err)
	}
	if watcher.Add(d.Path) == nil {
		_ = watcher.Remove(d.above())
	}
	return w, nil
}

// Look returns the name of the namespace that a change is about, and the new
// namespaces, and keeps the watch on the right folder.
func (w *Watcher) Look(e fsnotify.Event) (name string, found []string) {
	switch {
	case filepath.Dir(e.Name) == w.dir.Path:
		name = filepath.Base(e.Name)
		if e.Has(fsnotify.Create) {
			found = []string{name}
		}
	case e.Name != w.dir.Path:
	case e.Has(fsnotify.Create):
		if w.Files.Add(w.dir.Path) == nil {
			_ = w.Files.Remove(w.dir.above())
		}
		// Files that came before the watch did.
		found, _ = w.dir.Names()
	case e.Has(fsnotify.Remove):
		_ = w.Files.Add(w.dir.above())
	}
	return name, found
}

// AwaitMount waits for a namespace to be mounted on its file, as long as the file exists.
// The kernel wakes a poll of mountinfo at every change of the mounts.
func (w *Watcher) AwaitMount(ctx context.Context, name string) {
	// Without a descriptor, -1, poll only waits for its time to be over.
	mounts, err := unix.Open("/proc/self/mountinfo", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err == nil {
		defer unix.Close(mounts)
	}
	for ctx.Err() == nil {
		fd, _, err := w.dir.Open(name)
		other := InsteadError{}
		if err != nil && !errors.As(err, &other) {
			return
		}
		if err == nil {
			unix.Close(fd)
		}
		// A mount on the host alone is news as well, though it is none here.
		if err == nil || other.Apart {
			select {
			case w.Mounted <- name:
			case <-ctx.Done():
			}
			return
		}
		_, _ = unix.Poll([]unix.PollFd{{Fd: int32(mounts), Events: unix.POLLPRI}}, int(mountTick.Milliseconds()))
	}
}
