package scenarios

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

const agentLog = "agent.log"

// An agentProcess is an agent in the background.
type agentProcess struct {
	cmd  *exec.Cmd
	done chan error
	// frozen says that it is stopped from running.
	frozen bool
}

func agent(c call) (output, error) {
	if c.neg || len(c.args) == 0 {
		return output{}, errUsage
	}
	p := c.state.agent
	switch {
	case c.args[0] == "start" && len(c.args) > 1 && p == nil:
		p, err := startAgent(c)
		c.state.agent = p
		return output{}, err
	case c.args[0] == "stop" && len(c.args) == 1 && p != nil:
		if err := agrees(); err != nil {
			return output{}, err
		}
		c.state.agent = nil
		return output{}, p.stop()
	case c.args[0] == "kill" && len(c.args) == 1 && p != nil:
		c.state.agent = nil
		p.kill()
		return output{}, nil
	case c.args[0] == "freeze" && len(c.args) == 1 && p != nil:
		p.frozen = true
		return output{}, p.cmd.Process.Signal(syscall.SIGSTOP)
	case c.args[0] == "thaw" && len(c.args) == 1 && p != nil:
		p.frozen = false
		return output{}, p.cmd.Process.Signal(syscall.SIGCONT)
	}
	return output{}, errUsage
}

// startAgent appends to the log, so that one script sees all of its agents.
func startAgent(c call) (*agentProcess, error) {
	log, err := os.OpenFile(filepath.Join(c.state.workDir, agentLog), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	args := append([]string{"agent", "--manifests", c.MkAbs(c.args[1])}, c.args[2:]...)
	p := &agentProcess{cmd: exec.Command("patchbay", args...), done: make(chan error, 1)}
	p.cmd.Stderr = log
	// The agent runs the same programs as the script's commands.
	p.cmd.Env = append(os.Environ(), "PATH="+c.Getenv("PATH"))
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	go func() { p.done <- p.cmd.Wait() }()
	return p, nil
}

func (p *agentProcess) stop() error {
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return fmt.Errorf("stop the agent: %w", errors.Join(err, <-p.done))
	}
	select {
	case err := <-p.done:
		return err
	case <-time.After(5 * time.Second):
		p.kill()
		return errors.New("the agent did not stop within 5 s of SIGTERM")
	}
}

func (p *agentProcess) kill() {
	p.cmd.Process.Kill()
	<-p.done
}
