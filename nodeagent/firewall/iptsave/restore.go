package iptsave

import (
	"context"
	"fmt"
	"strings"

	"github.com/patchbay-dev/patchbay/nodeagent/firewall/program"
)

// Variant tells apart the two kinds of iptables that a node may have side by
// side; empty is the one that it uses for iptables.
type Variant string

// The two variants.
const (
	NFT    Variant = "nft"
	Legacy Variant = "legacy"
)

// Program is a program of the variant, such as ip6tables-legacy-restore.
func (v Variant) Program(six bool, suffix string) string {
	name := "iptables"
	if six {
		name = "ip6tables"
	}
	if v != "" {
		name += "-" + string(v)
	}
	return name + suffix
}

// LockPatience is how many seconds to wait for the lock that all users of
// iptables take in turns.
const LockPatience = 10

// Restore is the input of an iptables-restore --noflush.
type Restore struct {
	Six  bool
	Text string
	// Commits are its tables.
	Commits int
}

// Text is the text that has iptables-restore carry out commands in a table.
func Text(table string, commands []string) string {
	return fmt.Sprintf("*%s\n%s\nCOMMIT\n", table, strings.Join(commands, "\n"))
}

// Deletions remove rules, each by its whole text.
func Deletions(rules []Rule) []string {
	var out []string
	for _, r := range rules {
		out = append(out, "-D "+r.Chain+" "+r.Spec)
	}
	return out
}

// Run has a restore carried out, all of it or none.
func (r Restore) Run(ctx context.Context, v Variant) error {
	name := v.Program(r.Six, "-restore")
	if _, err := program.Run(ctx, r.Text, name, "--noflush", "-w", fmt.Sprint(LockPatience)); err != nil {
		return fmt.Errorf("run %s: %w", name, err)
	}
	return nil
}
