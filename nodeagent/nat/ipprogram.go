package nat

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strconv"
	"strings"
)

// ipProgram is the program iptables of one family, for single changes: its path.
type ipProgram string

func (p ipProgram) run(table string, args ...string) ([]byte, error) {
	out, err := output(context.Background(), "", string(p), append([]string{"-w", strconv.Itoa(lockPatience), "-t", table}, args...)...)
	if err != nil {
		return nil, fmt.Errorf("run %s -t %s %s: %w", p, table, strings.Join(args, " "), err)
	}
	return out, nil
}

func (p ipProgram) Insert(table, chain string, at int, rule ...string) error {
	_, err := p.run(table, append([]string{"-I", chain, strconv.Itoa(at)}, rule...)...)
	return err
}

func (p ipProgram) Append(table, chain string, rule ...string) error {
	_, err := p.run(table, append([]string{"-A", chain}, rule...)...)
	return err
}

func (p ipProgram) AppendUnique(table, chain string, rule ...string) error {
	if there, err := p.exists(table, append([]string{"-C", chain}, rule...)...); err != nil || there {
		return err
	}
	return p.Append(table, chain, rule...)
}

func (p ipProgram) DeleteIfExists(table, chain string, rule ...string) error {
	if there, err := p.exists(table, append([]string{"-C", chain}, rule...)...); err != nil || !there {
		return err
	}
	_, err := p.run(table, append([]string{"-D", chain}, rule...)...)
	return err
}

func (p ipProgram) DeleteById(table, chain string, n int) error {
	_, err := p.run(table, "-D", chain, strconv.Itoa(n))
	return err
}

func (p ipProgram) ChainExists(table, chain string) (bool, error) {
	return p.exists(table, "-S", chain, "1")
}

func (p ipProgram) NewChain(table, chain string) error {
	_, err := p.run(table, "-N", chain)
	return err
}

func (p ipProgram) ClearAndDeleteChain(table, chain string) error {
	if there, err := p.ChainExists(table, chain); err != nil || !there {
		return err
	}
	if _, err := p.run(table, "-F", chain); err != nil {
		return err
	}
	_, err := p.run(table, "-X", chain)
	return err
}

// List is a chain with its rules, as iptables -S prints them.
func (p ipProgram) List(table, chain string) ([]string, error) {
	out, err := p.run(table, "-S", chain)
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	return slices.DeleteFunc(lines, func(l string) bool { return l == "" }), err
}

// exists reports whether what a call asks for is there. iptables ends with 1 where it
// is not, or where a chain in it is not.
func (p ipProgram) exists(table string, args ...string) (bool, error) {
	_, err := p.run(table, args...)
	if ee := (*exec.ExitError)(nil); errors.As(err, &ee) && ee.ExitCode() == 1 {
		return false, nil
	}
	return err == nil, err
}
