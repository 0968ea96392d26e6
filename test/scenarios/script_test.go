package scenarios

import (
	"errors"
	"fmt"
	"os/exec"
	"regexp"
	"strconv"
	"time"

	"github.com/patchbay-dev/patchbay/test/netlab"
	"github.com/rogpeppe/go-internal/testscript"
)

// A call is one line of a script that runs one of our commands.
type call struct {
	*testscript.TestScript
	state *state
	// neg is true where the script expects the check to be refuted.
	neg bool
	// hasty checks are tried once: the caller tries again itself.
	hasty bool
	args  []string
}

type output struct {
	out string
	// logged is true for the output of a program, which testscript took over.
	logged bool
}

// A command carries out its line and returns the text for stdout. A check whose answer is
// no returns a netlab.Refutation; every other error fails the script even where the check is
// negated.
type command struct {
	run func(c call) (output, error)
	// patience is how long a check that is not negated is tried again.
	patience time.Duration
	usage    string
}

var errUsage = errors.New("wrong arguments")

// commands is filled in by init, since eventually and shows refer to it.
var commands map[string]command

func init() {
	commands = map[string]command{
		"lan":        {run: lan, usage: "NAME NODE-IF NODE-CIDRS HOST-CIDRS"},
		"ping":       {run: ping, patience: 2 * time.Second, usage: "NETNS ADDRESS"},
		"serve":      {run: serve, usage: "NETNS tcp|udp|http|sctp ADDRESS:PORT [TEXT]"},
		"dial":       {run: dial, patience: 2 * time.Second, usage: "NETNS tcp|udp|http|sctp ADDRESS:PORT [REGEXP]"},
		"carries":    {run: carries, patience: 6 * time.Second, usage: "NETNS NETNS ADDRESS:PORT RATE"},
		"connect":    {run: connect, usage: "[-udp|-busy] NAME NETNS NETNS ADDRESS:PORT [VIA]"},
		"alive":      {run: alive, usage: "NAME"},
		"beyond":     {run: beyond, usage: "NAME client|server NETNS"},
		"attackers":  {run: attackers},
		"intrude":    {run: intrude, patience: 2 * time.Second, usage: "NETNS ADDRESS:PORT"},
		"groups":     {run: groups, usage: "NETNS/IF SOURCE-MAC SOURCE-IP ADDRESS"},
		"flood":      {run: flood, usage: "NETNS/IF COUNT"},
		"frame":      {run: frame, usage: "NETNS/IF NETNS/IF KIND SOURCE-MAC SOURCE-IP"},
		"snapshot":   {run: snapshot, usage: "NAME"},
		"unchanged":  {run: unchanged, patience: 5 * time.Second, usage: "[-rebuilt] NAME"},
		"rules":      {run: rules, patience: 5 * time.Second, usage: "[NAME]"},
		"strays":     {run: strays, usage: "PAGE SNAPSHOT"},
		"quiet":      {run: quiet, usage: "PROGRAM ARG..."},
		"exits":      {run: exits, usage: "CODE PROGRAM ARG..."},
		"shows":      {run: shows, usage: "REGEXP COMMAND ARG..."},
		"eventually": {run: eventually, usage: "DURATION [!] COMMAND ARG..."},
		"agent":      {run: agent, usage: "start DIR [FLAG...] | stop | kill | freeze | thaw"},
	}
}

// builtins gives the commands the form that testscript knows.
func builtins() map[string]func(*testscript.TestScript, bool, []string) {
	m := map[string]func(*testscript.TestScript, bool, []string){}
	for name := range commands {
		m[name] = func(ts *testscript.TestScript, neg bool, args []string) {
			c := call{TestScript: ts, state: ts.Value(stateKey{}).(*state), neg: neg, args: args}
			out, err := c.do(name)
			if !out.logged {
				fmt.Fprint(ts.Stdout(), out.out)
			}
			if err != nil {
				ts.Fatalf("%s: %v", name, err)
			}
		}
	}
	return m
}

// do carries out a command of this package, or a program, once the answer is as the
// script expects it or patience ends.
func (c call) do(name string) (output, error) {
	cmd, ok := commands[name]
	if !ok {
		cmd = command{run: func(c call) (output, error) { return c.program(name) }}
	}
	if c.neg || c.hasty {
		cmd.patience = 0
	}
	var out output
	err := netlab.Retry(cmd.patience, func() (err error) {
		out, err = cmd.run(c)
		return err
	})
	switch {
	case errors.Is(err, errUsage):
		return out, fmt.Errorf("usage: %s %s", name, cmd.usage)
	case !c.neg:
		return out, err
	case err == nil:
		return out, netlab.Refuted("unexpected success")
	case netlab.IsRefuted(err):
		return out, nil
	}
	return out, err
}

// program runs an external program with c's arguments.
func (c call) program(name string) (output, error) {
	err := c.Exec(name, c.args...)
	out := output{c.ReadFile("stdout"), true}
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		return out, netlab.Refuted("%s: %w", name, err)
	}
	return out, err
}

func exits(c call) (output, error) {
	if len(c.args) < 2 {
		return output{}, errUsage
	}
	want, err := strconv.Atoi(c.args[0])
	if err != nil {
		return output{}, errUsage
	}
	inner := c
	inner.neg, inner.args = false, c.args[2:]
	out, err := inner.program(c.args[1])
	got := 0
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		got = exit.ExitCode()
	} else if err != nil {
		return out, err
	}
	if got != want {
		return out, netlab.Refuted("exit code %d, not %d", got, want)
	}
	return out, nil
}

func shows(c call) (output, error) {
	if len(c.args) < 2 {
		return output{}, errUsage
	}
	want, err := regexp.Compile("(?m)" + c.args[0])
	if err != nil {
		return output{}, err
	}
	inner := c
	inner.neg, inner.args = false, c.args[2:]
	out, err := inner.do(c.args[1])
	if err == nil && !want.MatchString(out.out) {
		err = netlab.Refuted("%q does not match:\n%s", want, out.out)
	}
	return out, err
}

func eventually(c call) (output, error) {
	if len(c.args) < 2 {
		return output{}, errUsage
	}
	limit, err := time.ParseDuration(c.args[0])
	if err != nil {
		return output{}, err
	}
	inner := c
	inner.neg, inner.hasty, inner.args = c.args[1] == "!", true, c.args[1:]
	if inner.neg {
		inner.args = inner.args[1:]
	}
	if len(inner.args) == 0 {
		return output{}, errUsage
	}
	name := inner.args[0]
	inner.args = inner.args[1:]
	var out output
	err = netlab.Retry(limit, func() (err error) {
		if out, err = inner.do(name); err != nil {
			return netlab.Refutation{Err: err}
		}
		return nil
	})
	return out, err
}
