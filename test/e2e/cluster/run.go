package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	kindexec "sigs.k8s.io/kind/pkg/exec"
)

// ExitError is the error of a command that ran and failed.
type ExitError struct {
	Command string
	Code    int
	Stderr  string
}

func (e *ExitError) Error() string {
	return fmt.Sprintf("%s: exit code %d: %s", e.Command, e.Code, e.Stderr)
}

// run runs a command and returns its standard output.
func run(ctx context.Context, stdin []byte, program string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, program, args...)
	if stdin != nil {
		cmd.Stdin = bytes.NewReader(stdin)
	}
	return output(cmd)
}

// output runs a command and returns its standard output.
func output(cmd *exec.Cmd) (string, error) {
	var stdout, stderr bytes.Buffer
	cmd.Stdout = &stdout
	if cmd.Stderr == nil {
		cmd.Stderr = &stderr
	}
	err := cmd.Run()
	command := strings.Join(append([]string{filepath.Base(cmd.Path)}, cmd.Args[1:]...), " ")
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		return stdout.String(), &ExitError{Command: command, Code: exit.ExitCode(), Stderr: strings.TrimSpace(stderr.String())}
	}
	if err != nil {
		return "", fmt.Errorf("run %s: %w", command, err)
	}
	return stdout.String(), nil
}

// asRoot returns a command that runs as root.
func asRoot(ctx context.Context, program string, args ...string) *exec.Cmd {
	if os.Geteuid() != 0 {
		program, args = "sudo", append([]string{program}, args...)
	}
	return exec.CommandContext(ctx, program, args...)
}

// script runs one of the repository's scripts, whose progress goes to standard
// error, and returns the last line it prints.
func script(ctx context.Context, path string, args ...string) (string, error) {
	root, err := repository()
	if err != nil {
		return "", err
	}
	cmd := exec.CommandContext(ctx, filepath.Join(root, path), args...)
	cmd.Stderr = os.Stderr
	out, err := output(cmd)
	lines := strings.Split(strings.TrimSpace(out), "\n")
	return lines[len(lines)-1], err
}

// repository returns the folder of the checkout this process was started in.
func repository() (string, error) {
	start, err := os.Getwd()
	for dir := start; err == nil; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "hack", "kind", "lib.sh")); err == nil {
			return dir, nil
		}
		if dir == filepath.Dir(dir) {
			return "", fmt.Errorf("find hack/kind above %s: run this inside Patchbay's repository", start)
		}
	}
	return "", err
}

// withOutput adds what a command of kind's has printed to its error.
func withOutput(err error) error {
	if failed := kindexec.RunErrorForError(err); failed != nil {
		return fmt.Errorf("%w\n%s", err, failed.Output)
	}
	return err
}
