package foreign

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

	"github.com/patchbay-dev/patchbay/nodeagent/firewall/iptsave"
	"github.com/patchbay-dev/patchbay/nodeagent/firewall/program"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
)

// Legacy iptables has tables of its own beside the tables of nftables, in the same
// hooks: a FORWARD that drops there drops what another firewall lets pass.

// LegacyTables reports whether legacy iptables has a table here. To ask it would
// make one.
func LegacyTables() bool { return len(legacyNames(false))+len(legacyNames(true)) > 0 }

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

// LegacyBlockers are the built-in chains of legacy iptables that drop packets, where the kernel has them and the node a program that reads them.
func LegacyBlockers(ctx context.Context) ([]netstate.Blocker, error) {
	var out []netstate.Blocker
	for _, six := range []bool{false, true} {
		path, err := exec.LookPath(iptsave.Legacy.Program(six, "-save"))
		if err != nil || !slices.ContainsFunc(legacyNames(six), func(table string) bool { return table != "nat" }) {
			continue
		}
		text, err := program.Run(ctx, "", path)
		if err != nil {
			return nil, fmt.Errorf("run %s: %w", path, err)
		}
		out = append(out, parseLegacy(six, text)...)
	}
	return out, nil
}

// parseLegacy reads the output of iptables-save. Nothing is opened there.
func parseLegacy(six bool, text []byte) []netstate.Blocker {
	s := iptsave.Parse(six, text)
	var out []netstate.Blocker
	for _, a := range slices.SortedFunc(maps.Keys(s.Policies), iptsave.CompareTables) {
		if b, blocks := blockerOf(s, a); blocks {
			out = append(out, b)
		}
	}
	out = append(out, blockersElsewhere(s)...)
	for i := range out {
		out[i].Name += " of legacy iptables"
	}
	return out
}

// legacyPause is the time between two looks at legacy iptables beside another
// backend. Where it has no table, that is reading two files of /proc.
const legacyPause = 2 * time.Second

// WatchLegacy calls fn whenever what legacyBlockers tells has changed, until ctx
// ends. What cannot be read is for Load to say.
func WatchLegacy(ctx context.Context, fn func()) {
	before, _ := LegacyBlockers(ctx)
	go Every(ctx, legacyPause, func() bool {
		now, err := LegacyBlockers(ctx)
		if err != nil || reflect.DeepEqual(before, now) {
			return false
		}
		before = now
		return true
	}, fn)
}

// Every looks at intervals, and calls fn when there is news, until ctx ends.
func Every(ctx context.Context, pause time.Duration, look func() bool, fn func()) {
	tick := time.NewTicker(pause)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if look() && ctx.Err() == nil {
			fn()
		}
	}
}
