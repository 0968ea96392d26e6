package nat

import (
	"context"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
)

// Legacy iptables has tables of its own beside those of nftables, in the same
// hooks: a FORWARD that drops there drops what another firewall lets pass.

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

// legacyBlockers are the built-in chains of legacy iptables that drop packets, where the kernel has them and the node a program that reads them.
func legacyBlockers(ctx context.Context) ([]netstate.Blocker, error) {
	var out []netstate.Blocker
	for _, six := range []bool{false, true} {
		program, err := exec.LookPath(variantLegacy.program(six, "-save"))
		if err != nil || !slices.ContainsFunc(legacyNames(six), func(table string) bool { return table != "nat" }) {
			continue
		}
		text, err := output(ctx, "", program)
		if err != nil {
			return nil, fmt.Errorf("run %s: %w", program, err)
		}
		out = append(out, parseLegacy(six, text)...)
	}
	return out, nil
}

// parseLegacy reads the output of iptables-save. Nothing is opened there.
func parseLegacy(six bool, text []byte) []netstate.Blocker {
	s := parseSave(six, text)
	var out []netstate.Blocker
	for _, a := range slices.SortedFunc(maps.Keys(s.policies), compareAreas) {
		if b, blocks := s.blocker(a); blocks {
			out = append(out, b)
		}
	}
	out = append(out, s.blockersElsewhere()...)
	for i := range out {
		out[i].Name += " of legacy iptables"
	}
	return out
}

// legacyPause is the time between two looks at legacy iptables beside another
// backend. Where it has no table, that is reading two files of /proc.
const legacyPause = 2 * time.Second

// watchLegacy calls fn whenever what legacyBlockers tells has changed, until ctx
// ends. What cannot be read is for Load to say.
func watchLegacy(ctx context.Context, fn func()) {
	before, _ := legacyBlockers(ctx)
	go every(ctx, legacyPause, func() bool {
		now, err := legacyBlockers(ctx)
		if err != nil || reflect.DeepEqual(before, now) {
			return false
		}
		before = now
		return true
	}, fn)
}
