package scenarios

import (
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/patchbay-dev/patchbay/test/netlab"
)

const agentLog = "agent.log"

// An agentProcess is an agent in the background.
type agentProcess struct {
	*netlab.Process
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
		return output{}, p.Stop(5 * time.Second)
	case c.args[0] == "kill" && len(c.args) == 1 && p != nil:
		c.state.agent = nil
		return output{}, p.Kill()
	case c.args[0] == "freeze" && len(c.args) == 1 && p != nil:
		p.frozen = true
		return output{}, p.Signal(syscall.SIGSTOP)
	case c.args[0] == "thaw" && len(c.args) == 1 && p != nil:
		p.frozen = false
		return output{}, p.Signal(syscall.SIGCONT)
	}
	return output{}, errUsage
}

// startAgent appends to the log, so that one script sees all of its agents.
func startAgent(c call) (*agentProcess, error) {
	cmd := exec.Command("patchbay", append([]string{"agent", "--manifests", c.MkAbs(c.args[1])}, c.args[2:]...)...)
	// The agent runs the same programs as the script's commands.
	cmd.Env = append(os.Environ(), "PATH="+c.Getenv("PATH"))
	p, err := netlab.Start(cmd, filepath.Join(c.state.workDir, agentLog))
	if err != nil {
		return nil, err
	}
	return &agentProcess{Process: p}, nil
}
