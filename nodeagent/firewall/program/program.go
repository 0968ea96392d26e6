// Package program runs nft and the programs of iptables, each for a bounded time.
package program

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// AnswerTime is how long a program of the firewall may run. A large table takes nft
// seconds to list, and iptables waits lockPatience for its lock.
var AnswerTime = 30 * time.Second

// NoAnswer is the error of a program that did not end in time and was killed.
type NoAnswer struct {
	Program string
	// After is how long it ran.
	After time.Duration
}

func (e *NoAnswer) Error() string {
	return fmt.Sprintf("%s did not answer within %s", e.Program, e.After)
}

var unanswered atomic.Uint64

// Unanswered is how many programs of the firewall this process has killed because they
// did not end in time.
func Unanswered() uint64 { return unanswered.Load() }

// Run runs a program and returns what it prints. All that it starts is killed with
// it when its time is over or ctx ends.
func Run(ctx context.Context, input, program string, args ...string) ([]byte, error) {
	began := time.Now()
	limited, cancel := context.WithTimeout(ctx, AnswerTime)
	defer cancel()
	cmd := exec.CommandContext(limited, program, args...)
	cmd.Stdin = strings.NewReader(input)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return unix.Kill(-cmd.Process.Pid, unix.SIGKILL) }
	// A child of the program may hold its output open.
	cmd.WaitDelay = time.Second
	out, err := cmd.Output()
	if errors.Is(err, exec.ErrWaitDelay) {
		_ = cmd.Cancel()
	}
	if err != nil && errors.Is(limited.Err(), context.DeadlineExceeded) {
		unanswered.Add(1)
		return nil, &NoAnswer{filepath.Base(program), time.Since(began).Truncate(time.Second / 10)}
	}
	return out, withStderr(err)
}

// Crashed reports whether a program ended by a signal of its own doing.
func Crashed(err error) bool {
	ee := (*exec.ExitError)(nil)
	if !errors.As(err, &ee) {
		return false
	}
	status, ok := ee.Sys().(syscall.WaitStatus)
	return ok && status.Signaled() && (status.Signal() == unix.SIGSEGV || status.Signal() == unix.SIGABRT)
}

func withStderr(err error) error {
	if ee := (*exec.ExitError)(nil); errors.As(err, &ee) && len(ee.Stderr) > 0 {
		return fmt.Errorf("%w: %s", err, strings.TrimSpace(string(ee.Stderr)))
	}
	return err
}

// Input is what a program reads to change the firewall on its standard input: nft,
// iptables-restore, iptables-nft-restore and the programs of ip6tables, all with --noflush.
type Input struct {
	Program string
	Text    string
}
