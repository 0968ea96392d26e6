package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// fatalError ends until.
type fatalError struct{ error }

func (e fatalError) Unwrap() error { return e.error }

// until tries until it succeeds, fails for good or the time is over, and then
// returns the last error.
func until(ctx context.Context, limit time.Duration, try func() error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		err := try()
		if err == nil || errors.As(err, new(fatalError)) {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("gave up after %s: %w", limit, err)
		case <-tick.C:
		}
	}
}

// start starts a process that outlives this one. The channel is closed if it
// ends before.
func start(cmd *exec.Cmd) (<-chan struct{}, error) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	exited := make(chan struct{})
	go func() {
		_ = cmd.Wait()
		close(exited)
	}()
	return exited, nil
}

// runs reports whether the process whose pid is in the file runs, and is the one
// with the mark in its command line: pids are used again.
func runs(pidFile, mark string) bool {
	pid, err := os.ReadFile(pidFile)
	if err != nil {
		return false
	}
	line, err := os.ReadFile("/proc/" + strings.TrimSpace(string(pid)) + "/cmdline")
	return err == nil && bytes.Contains(line, []byte(mark))
}

// end ends the process whose pid is in the file, if it is the one with the mark.
func end(ctx context.Context, pidFile, mark string) error {
	pid, err := os.ReadFile(pidFile)
	if err != nil || !runs(pidFile, mark) {
		return nil
	}
	if _, err := output(asRoot(ctx, "kill", strings.TrimSpace(string(pid)))); err != nil {
		return err
	}
	return until(ctx, time.Minute, func() error {
		if runs(pidFile, mark) {
			return fmt.Errorf("process %s of %s has not ended", strings.TrimSpace(string(pid)), mark)
		}
		return nil
	})
}
