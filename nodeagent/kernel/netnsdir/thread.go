package netnsdir

import (
	"fmt"
	"runtime"

	"golang.org/x/sys/unix"
)

// Visit must be called on a goroutine of its own: where the way back fails, the
// thread stays locked and ends with that goroutine.
func (d *Dir) Visit(fd int, f func() error) error {
	runtime.LockOSThread()
	if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("enter a network namespace: %w", err)
	}
	err := f()
	if unix.Setns(d.Host, unix.CLONE_NEWNET) == nil {
		runtime.UnlockOSThread()
	}
	return err
}

// OnFreshThread calls f on a thread that is thrown away afterwards.
func OnFreshThread(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() != unix.Getpid() {
			done <- f()
			return
		}
		// The main thread cannot be thrown away. Held here, it cannot be the
		// one that the next attempt gets.
		done <- OnFreshThread(f)
		runtime.UnlockOSThread()
	}()
	return <-done
}
