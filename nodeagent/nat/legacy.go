package nat

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
)

// Legacy iptables has tables of its own beside those of nftables, in the same
// hooks: a FORWARD that drops by policy there drops what another firewall lets
// pass.

// legacyTables reports whether legacy iptables has a table here. To ask it would
// make one.
func legacyTables() bool { return len(legacyNames(false))+len(legacyNames(true)) > 0 }

// legacyNames are the tables of a family; one without a name where they are kept
// from us.
func legacyNames(six bool) []string {
	file := "/proc/thread-self/net/ip_tables_names"
	if six {
		file = "/proc/thread-self/net/ip6_tables_names"
	}
	names, err := os.ReadFile(file)
	if err != nil && !os.IsNotExist(err) {
		return []string{""}
	}
	return strings.Fields(string(names))
}

// legacyBlockers are the FORWARD chains of legacy iptables that drop by policy,
// where the kernel has them and the node a program that reads them.
func legacyBlockers(ctx context.Context) ([]netstate.Blocker, error) {
	var out []netstate.Blocker
	for _, six := range []bool{false, true} {
		program, err := exec.LookPath(variantLegacy.program(six, "-save"))
		if err != nil || !slices.Contains(legacyNames(six), filterTable) {
			continue
		}
		text, err := exec.CommandContext(ctx, program, "-t", filterTable).Output()
		if err != nil {
			return nil, fmt.Errorf("run %s: %w", program, withStderr(err))
		}
		if b, blocks := parseLegacy(six, string(text)); blocks {
			out = append(out, b)
		}
	}
	return out, nil
}

// parseLegacy reads the output of iptables-save for the table filter.
func parseLegacy(six bool, text string) (b netstate.Blocker, blocks bool) {
	family := "ip"
	if six {
		family = "ip6"
	}
	b.Name, b.Families = "chain FORWARD of table "+family+" filter of legacy iptables", forwardFamilies[family]
	for l := range strings.Lines(text) {
		spec, rule := strings.CutPrefix(l, "-A FORWARD ")
		blocks = blocks || strings.HasPrefix(l, ":FORWARD DROP")
		if rule {
			b.Accepts = append(b.Accepts, legacyAccepts(strings.TrimSpace(spec))...)
		}
	}
	slices.Sort(b.Accepts)
	b.Accepts = slices.Compact(b.Accepts)
	return b, blocks
}

// legacyAccepts are the interfaces that a rule accepts, as a Blocker has them.
func legacyAccepts(spec string) (links []string) {
	if target(spec) != "ACCEPT" {
		return nil
	}
	if len(clauses(spec)) == 1 {
		return []string{"*"}
	}
	for _, name := range []string{"-i", "-o"} {
		if link := option(spec, name); link != "" {
			if prefix, wild := strings.CutSuffix(link, "+"); wild {
				link = prefix + "*"
			}
			links = append(links, link)
		}
	}
	return links
}

// legacyPause is the time between two looks at legacy iptables beside another
// backend. Where it has no table, that is reading two files of /proc.
const legacyPause = 2 * time.Second

// watchLegacy calls fn whenever what legacyBlockers tells has changed, until ctx
// ends. What cannot be read is for Load to say.
func watchLegacy(ctx context.Context, fn func()) {
	before, _ := legacyBlockers(ctx)
	go func() {
		tick := time.NewTicker(legacyPause)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			now, err := legacyBlockers(ctx)
			if err == nil && !reflect.DeepEqual(before, now) && ctx.Err() == nil {
				before = now
				fn()
			}
		}
	}()
}
