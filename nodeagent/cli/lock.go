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

// lock is the right to change what one source wants of this host; one process
// at a time has it.
type lock struct{ file *os.File }

// Files of the locks, by source.
const (
	localLock   = "lock"
	clusterLock = "lock.cluster"
)

const agentPrefix = "agent "

// acquire takes a lock for a purpose that is written into it. An agent has it
// for good, so others are refused; anything else is waited for.
func (f *flags) acquire(ctx context.Context, name, purpose string) (*lock, error) {
	return f.lock(ctx, name, purpose, func(l *lock) error {
		if holder := l.holder(); strings.HasPrefix(holder, agentPrefix) {
			return fmt.Errorf("this node is managed by a running %s: %s", holder, insteadOf[name])
		}
		return nil
	})
}

// insteadOf says what to do where an agent has a lock.
var insteadOf = map[string]string{
	localLock:   "change its manifests, or stop it first",
	clusterLock: "take the agent off the node first, for instance by kubectl delete -k config/default",
}

// await takes a lock from whoever has it as soon as it is given back.
func (f *flags) await(ctx context.Context, name, purpose string, log *slog.Logger) (*lock, error) {
	var once sync.Once
	return f.lock(ctx, name, purpose, func(l *lock) error {
		once.Do(func() { log.Info("waiting for another process to end", "lock", l.file.Name(), "holder", l.holder()) })
		return nil
	})
}

func (f *flags) lock(ctx context.Context, name, purpose string, held func(*lock) error) (*lock, error) {
	if err := privileged(); err != nil {
		return nil, err
	}
	name = filepath.Join(f.runDir, "patchbay", name)
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return nil, fmt.Errorf("make the lock's folder: %w", err)
	}
	file, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|unix.O_CLOEXEC, 0o644)
	if err != nil {
		return nil, fmt.Errorf("open the lock: %w", err)
	}
	l := &lock{file}
	if err := l.wait(ctx, held); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return l, l.write(purpose)
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
	text, err := os.ReadFile(l.file.Name())
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(text))
}

func (l *lock) write(purpose string) error {
	if err := l.file.Truncate(0); err != nil {
		return fmt.Errorf("write the lock: %w", err)
	}
	_, err := l.file.WriteAt(fmt.Appendf(nil, "%s(process %d)\n", purpose, os.Getpid()), 0)
	return err
}

// release gives the lock back. The file stays: removing it would race with
// whoever waits for it.
func (l *lock) release() {
	_ = l.file.Truncate(0)
	_ = l.file.Close()
}
