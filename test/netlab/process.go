package netlab

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"time"
)

// A Process is a program beside a test. It ends with the test's process at the latest.
type Process struct {
	*os.Process
	log   string
	ended chan struct{}
	err   error
}

// Start starts a program whose output is appended to the file log.
func Start(cmd *exec.Cmd, log string) (*Process, error) {
	file, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	cmd.Stdout, cmd.Stderr = file, file
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	p := &Process{Process: cmd.Process, log: log, ended: make(chan struct{})}
	go func() {
		p.err = cmd.Wait()
		close(p.ended)
	}()
	return p, nil
}

// Log returns the output so far.
func (p *Process) Log() string {
	text, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	return string(text)
}

// Wait returns the error of the program's end. It kills a program that outlasts the
// patience of an idle machine.
func (p *Process) Wait(patience time.Duration) error {
	select {
	case <-p.ended:
		return p.err
	case <-time.After(Stretched(patience)):
		return errors.Join(fmt.Errorf("no end within %v", patience), p.Kill())
	}
}

// Stop ends the program as a service manager does. It may be called after the end.
func (p *Process) Stop(patience time.Duration) error {
	_ = p.Signal(syscall.SIGTERM)
	return p.Wait(patience)
}

// Kill kills the program and waits for its end.
func (p *Process) Kill() error {
	err := p.Process.Kill()
	<-p.ended
	if errors.Is(err, os.ErrProcessDone) {
		err = nil
	}
	return err
}
