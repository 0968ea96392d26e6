package cli

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// lock is the right to change the objects of one source on this host; one process at a time
// has it. Its file is there while a process has it.
type lock struct {
	file *os.File
	// name of the lock's file. Where /run takes none, file is another (inPlaceOf).
	name string
}

// Files of the locks, by source.
const (
	localLock   = "lock"
	clusterLock = "lock.cluster"
)

const agentPrefix = "agent "

// acquire takes a lock for a purpose that is written into it. An agent has it for good,
// so a second one is refused; the end of any other holder is waited for.
func (f *flags) acquire(ctx context.Context, name, purpose string) (*lock, error) {
	return f.lock(ctx, name, purpose, func(l *lock) error {
		if holder := l.holder(); strings.HasPrefix(holder, agentPrefix) {
			return fmt.Errorf("this node is managed by a running %s: %s", holder, insteadOf[name])
		}
		return nil
	})
}

// insteadOf names the remedy where an agent has a lock.
var insteadOf = map[string]string{
	localLock:   "change its manifests, or stop it first",
	clusterLock: "take the agent off the node first, for instance by kubectl delete -k config/default",
}

// await takes a lock as soon as its holder gives it back.
func (f *flags) await(ctx context.Context, name, purpose string, log *slog.Logger) (*lock, error) {
	var once sync.Once
	return f.lock(ctx, name, purpose, func(l *lock) error {
		once.Do(func() { log.Info("waiting for another process to end", "lock", l.file.Name(), "holder", l.holder()) })
		return nil
	})
}

// agentRuns reports whether an agent has a lock. It changes nothing: who wants the lock
// at that moment tries again.
func (f *flags) agentRuns(name string) bool {
	file, err := os.Open(filepath.Join(f.runDir, "patchbay", name))
	if err != nil {
		return false
	}
	defer file.Close()
	taken := errors.Is(unix.Flock(int(file.Fd()), unix.LOCK_SH|unix.LOCK_NB), unix.EWOULDBLOCK)
	l := &lock{file, file.Name()}
	return taken && strings.HasPrefix(l.holder(), agentPrefix)
}

func (f *flags) lock(ctx context.Context, name, purpose string, held func(*lock) error) (*lock, error) {
	if err := privileged(); err != nil {
		return nil, err
	}
	for {
		l, err := openLock(filepath.Join(f.runDir, "patchbay", name))
		if err != nil {
			return nil, err
		}
		if err := l.wait(ctx, held); err != nil {
			return nil, errors.Join(err, l.file.Close())
		}
		if l.current() {
			l.write(purpose)
			return l, nil
		}
		_ = l.file.Close()
	}
}

// inPlaceOf are folders that every node has: locked, each for one lock, where /run
// is full or read-only and has no file of it.
var inPlaceOf = map[string]string{localLock: "/proc", clusterLock: "/sys"}

// openLock opens the file of a lock, or makes it.
func openLock(name string) (*lock, error) {
	err := os.MkdirAll(filepath.Dir(name), 0o755)
	file, e := os.OpenFile(name, os.O_RDWR|os.O_CREATE|unix.O_CLOEXEC, 0o644)
	if e != nil {
		err = errors.Join(err, e)
		file, e = os.Open(name)
	}
	if e != nil {
		file, e = os.Open(inPlaceOf[filepath.Base(name)])
	}
	if e != nil {
		return nil, fmt.Errorf("open the lock %s: %w", name, errors.Join(err, e))
	}
	return &lock{file: file, name: name}, nil
}

// current reports whether the locked file still has its name: the holder before may have
// removed it.
func (l *lock) current() bool {
	locked, err := l.file.Stat()
	if err != nil {
		return false
	}
	named, err := os.Stat(l.file.Name())
	return err == nil && os.SameFile(locked, named)
}

// wait tries until the lock is free, held has an error, or the context ends: a
// blocking flock could not be interrupted, and its holder not be asked again.
func (l *lock) wait(ctx context.Context, held func(*lock) error) error {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		err := unix.Flock(int(l.file.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return fmt.Errorf("take the lock %s: %w", l.file.Name(), err)
		}
		if err := held(l); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for the lock %s of %s: %w", l.file.Name(), l.holder(), ctx.Err())
		case <-tick.C:
		}
	}
}

func (l *lock) holder() string {
	text, err := os.ReadFile(l.name)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(text))
}

// write names the holder, for the errors of other processes; where /run is full it is
// not named.
func (l *lock) write(purpose string) {
	if l.file.Truncate(0) == nil {
		_, _ = l.file.WriteAt(fmt.Appendf(nil, "%s(process %d)\n", purpose, os.Getpid()), 0)
	}
}

// release gives the lock back and removes its file, and the folder if it is the
// last there: a process that waits for it finds it gone and opens another.
func (l *lock) release() {
	if l.file.Name() == l.name && os.Remove(l.name) != nil {
		_ = l.file.Truncate(0)
	}
	_ = os.Remove(filepath.Dir(l.name))
	_ = l.file.Close()
}
