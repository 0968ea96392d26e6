package netnsdir

import (
	"context"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// mountPause is the shortest time between two reports of changed mounts.
const mountPause = 500 * time.Millisecond

// MountWatch reports changed mounts from Listen on: without it, a container runtime, which
// changes mounts all the time, would be the cause of many reports.
type MountWatch struct {
	once  sync.Once
	asked chan struct{}
	// Changed receives the reports.
	Changed chan struct{}
}

// NewMountWatch prepares a watch that reports nothing yet.
func NewMountWatch() *MountWatch {
	return &MountWatch{asked: make(chan struct{}), Changed: make(chan struct{})}
}

// Listen begins the reports. The first report says so.
func (w *MountWatch) Listen() { w.once.Do(func() { close(w.asked) }) }

// Follow reports changed mounts of this process and of the host, whose first process
// has the folder init in /proc, until ctx ends.
func (w *MountWatch) Follow(ctx context.Context, init string) {
	select {
	case <-w.asked:
	case <-ctx.Done():
		return
	}
	ended, end, err := os.Pipe()
	if err != nil {
		return
	}
	defer ended.Close()
	context.AfterFunc(ctx, func() { end.Close() })
	tables := []unix.PollFd{{Fd: int32(ended.Fd()), Events: unix.POLLIN}}
	for _, process := range []string{"/proc/self", init} {
		// Not by os.Open: the poller of Go would take the change.
		table, err := unix.Open(filepath.Join(process, "mountinfo"), unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			continue
		}
		defer unix.Close(table)
		tables = append(tables, unix.PollFd{Fd: int32(table), Events: unix.POLLPRI})
	}
	for ctx.Err() == nil {
		select {
		case w.Changed <- struct{}{}:
		case <-ctx.Done():
			return
		}
		select {
		case <-time.After(mountPause):
		case <-ctx.Done():
			return
		}
		// The kernel sets POLLPRI after a mount, an unmount and a remount, but not
		// after a change of propagation.
		for n := 0; n <= 0; {
			n, _ = unix.Poll(tables, -1)
		}
	}
}
