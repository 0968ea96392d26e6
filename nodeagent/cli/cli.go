// Package cli is the commands of the binary for one node: plan, apply, delete,
// status, agent, version. It promises that every command is the same engine with
// another source and another end: none has code of its own that touches the
// kernel. Results go to standard output, logs and errors to standard error.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/patchbay-dev/patchbay/nodeagent/firewall"
)

// Options are the options beside the command line.
type Options struct {
	Args   []string
	Stdin  io.Reader
	Stdout io.Writer
	Stderr io.Writer
	// Step is called after every single change of the kernel; tests count and
	// kill here.
	Step func()
}

// Main runs the command line of the process and returns its exit code: 0 for
// success, 1 for an error, and for plan 2 if there is something to do.
func Main() int {
	return Run(Options{Args: os.Args[1:], Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr})
}

// exitCode is an error that only carries an exit code; nothing is printed.
type exitCode int

func (c exitCode) Error() string { return fmt.Sprintf("exit code %d", int(c)) }

// Run runs one command line.
func Run(o Options) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	cmd := command(o)
	cmd.SetArgs(o.Args)
	cmd.SetIn(o.Stdin)
	cmd.SetOut(o.Stdout)
	cmd.SetErr(o.Stderr)
	err := cmd.ExecuteContext(ctx)
	var code exitCode
	switch {
	case err == nil:
		return 0
	case errors.As(err, &code):
		return int(code)
	}
	for _, line := range strings.Split(err.Error(), "\n") {
		// cobra puts empty lines around a command that it suggests.
		if line = strings.TrimSpace(line); line != "" {
			fmt.Fprintf(o.Stderr, "error: %s\n", line)
		}
	}
	return 1
}

func command(o Options) *cobra.Command {
	f := &flags{step: o.Step}
	root := &cobra.Command{
		Use:   "patchbay",
		Short: "Networks on nodes, from manifests",
		Long: `Patchbay builds networks on a node from manifests: bridges (BridgeNetwork),
network namespaces wired to them (NamespaceAttachment), and ports of the node
that lead there (PortPublish).`,
		Version:       origin().Version,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.CompletionOptions.HiddenDefaultCmd = true
	p := root.PersistentFlags()
	p.StringVar(&f.runDir, "run-dir", "/run", "folder of network namespaces (netns/) and records (patchbay/)")
	p.StringVar(&f.nodeName, "node-name", "", "name of this node (default: the host's name)")
	p.StringVar(&f.backend, "nat-backend", "auto", "firewall backend: nftables, iptables, or auto (nftables where it works); status finds the one in use")
	p.StringVar(&f.logLevel, "log-level", "", "debug, info, warn or error (default: info for agent and controller, warn otherwise)")
	completes(root, "nat-backend", "auto", "nftables", "iptables")
	completes(root, "log-level", "debug", "info", "warn", "error")
	root.AddCommand(planCommand(f), applyCommand(f), deleteCommand(f), statusCommand(f), agentCommand(f), controllerCommand(f), versionCommand())
	return root
}

// completes lets a shell offer the values of a flag instead of file names.
func completes(cmd *cobra.Command, flag string, values ...string) {
	if err := cmd.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp)); err != nil {
		panic(err)
	}
}

// flags are common to all commands.
type flags struct {
	runDir, nodeName, backend, logLevel string
	step                                func()
	// findNAT replaces the backend auto where it is set.
	findNAT func(firewall.Options) (*firewall.Firewall, error)
	// patience is how long an agent waits for a program of the firewall.
	patience time.Duration
}

func (f *flags) logger(w io.Writer, fallback slog.Level) (*slog.Logger, error) {
	level := fallback
	if f.logLevel != "" {
		if err := level.UnmarshalText([]byte(f.logLevel)); err != nil {
			return nil, fmt.Errorf("--log-level: %q is none of debug, info, warn, error", f.logLevel)
		}
	}
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: level})), nil
}
