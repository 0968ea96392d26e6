package scenarios

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"time"

	"github.com/patchbay-dev/patchbay/test/netlab"
)

// strayRow is a row of a page's table whose last column but one is a command that
// changes something by hand. The last, where there are four, is what Ready says then,
// and the one before it how it is undone.
var strayRow = regexp.MustCompile("(?m)^\\| ([^|]+) \\| ([^|]+) \\| `([^`]+)` \\|(?: `([^`]+)` \\| `([^`]+)` \\|)?$")

// repairTime is how long a repair may take on a machine that is busy.
const repairTime = 5 * time.Second

// strays does what each row of a page says by hand, with the agent stopped, so that
// it can be seen, and then has the agent repair or say it.
func strays(c call) (output, error) {
	if c.neg || len(c.args) != 2 || c.state.agent == nil {
		return output{}, errUsage
	}
	built, ok := c.state.snapshots[c.args[1]]
	if !ok {
		return output{}, fmt.Errorf("no snapshot %s", c.args[1])
	}
	rows := strayRow.FindAllStringSubmatch(c.ReadFile(c.args[0]), -1)
	var errs []error
	var log strings.Builder
	for _, row := range rows {
		s := stray{call: c, of: row[1] + ": " + row[2], change: row[3], undo: row[4], said: row[5], built: lasting(built)}
		begin := time.Now()
		err := s.run()
		fmt.Fprintf(&log, "%s: %v %v\n", s.of, time.Since(begin).Round(time.Millisecond), err)
		if errors.Is(err, errNotHere) {
			continue
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: `%s`: %w", s.of, s.change, err))
		}
	}
	if len(rows) == 0 {
		errs = append(errs, fmt.Errorf("no rows in %s", c.args[0]))
	}
	return output{out: log.String()}, errors.Join(errs...)
}

// passing matches lines of a dump on which no traffic depends, and which the kernel
// has or has not after a repair: link-local addresses and the connected route of ::1;
// and the firewall.
var passing = regexp.MustCompile(`(?m)^.*(: nft | address eth0 fe80:| route table=254 ::1/128 ).*\n`)

func lasting(dump string) string { return passing.ReplaceAllString(withoutIDs(dump), "") }

type stray struct {
	call
	of, change, undo, said, built string
}

// errNotHere marks what the running kernel does not have.
var errNotHere = errors.New("not supported by this kernel")

func (s stray) run() error {
	agent := s.state.agent.Process.Process
	if err := stop(agent); err != nil {
		return err
	}
	err := shell(s.change)
	changed, dumpErr := dumpKernel()
	if thawErr := agent.Signal(syscall.SIGCONT); err != nil || dumpErr != nil || thawErr != nil {
		return errors.Join(err, dumpErr, thawErr)
	}
	if lasting(changed) == s.built && s.said == "" {
		return errors.New("the command changes nothing")
	}
	if s.said == "" {
		return netlab.Retry(repairTime, s.isBack)
	}
	return errors.Join(netlab.Retry(repairTime, s.isSaid), shell(s.undo), netlab.Retry(repairTime, s.isReady))
}

// stop stops a process and waits until none of its threads runs.
func stop(p *os.Process) error {
	if err := p.Signal(syscall.SIGSTOP); err != nil {
		return err
	}
	return netlab.Retry(repairTime, func() error {
		states, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", p.Pid))
		for _, file := range states {
			stat, readErr := os.ReadFile(file)
			if readErr == nil && !strings.Contains(string(stat), ") T ") {
				return netlab.Refuted("a thread still runs: %s", stat)
			}
		}
		return err
	})
}

func shell(command string) error {
	_, err := netlab.Node.Run("sh", "-c", command)
	if err != nil && strings.Contains(err.Error(), "not supported") {
		return errNotHere
	}
	return err
}

func (s stray) isBack() error {
	now, err := dumpKernel()
	if now := lasting(now); err == nil && now != s.built {
		err = netlab.Refuted("not as it was:\n%s", delta("built", s.built, "now", now))
	}
	return err
}

func (s stray) isSaid() error {
	out, err := netlab.Node.Run("patchbay", "status", "-o", "yaml")
	if err == nil && !strings.Contains(out, s.said) {
		err = netlab.Refuted("the status does not say %q:\n%s", s.said, out)
	}
	return err
}

func (s stray) isReady() error {
	out, err := netlab.Node.Run("patchbay", "status")
	if err == nil && strings.Contains(out, " False ") {
		err = netlab.Refuted("still not Ready:\n%s", out)
	}
	return err
}
