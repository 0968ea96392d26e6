package scenarios

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/patchbay-dev/patchbay/test/netlab"
	"github.com/rogpeppe/go-internal/diff"
	"github.com/rogpeppe/go-internal/testscript"
)

type stateKey struct{}

// state is what the commands of one script share.
type state struct {
	snapshots map[string]string
	agent     *agentProcess
	open      map[string]conversation
	workDir   string
}

func newState(env *testscript.Env) *state {
	s := &state{snapshots: map[string]string{}, open: map[string]conversation{}, workDir: env.WorkDir}
	env.Defer(func() {
		if s.agent != nil {
			_ = s.agent.Kill()
		}
	})
	return s
}

func snapshot(c call) (output, error) {
	if c.neg || len(c.args) != 1 {
		return output{}, errUsage
	}
	dump, err := settledDump()
	c.state.snapshots[c.args[0]] = dump
	return output{}, err
}

// settledDump dumps until two dumps in a row agree.
func settledDump() (string, error) {
	var last string
	err := netlab.Retry(5*time.Second, func() error {
		before := last
		var err error
		if last, err = dump(); err == nil && last != before {
			err = netlab.Refuted("the state of the node keeps changing:\n%s", delta("before", before, "after", last))
		}
		return err
	})
	return last, err
}

func unchanged(c call) (output, error) {
	normal := func(s string) string { return s }
	args := c.args
	if len(args) > 0 && args[0] == "-rebuilt" {
		normal, args = withoutIDs, args[1:]
	}
	if len(args) != 1 {
		return output{}, errUsage
	}
	before, ok := c.state.snapshots[args[0]]
	if !ok {
		return output{}, fmt.Errorf("no snapshot %s", args[0])
	}
	now, err := dump()
	if err != nil {
		return output{}, err
	}
	if before, now = normal(before), normal(now); before != now {
		return output{}, netlab.Refuted("not as it was:\n%s", delta(args[0], before, "now", now))
	}
	return output{}, nil
}

var ids = regexp.MustCompile(` (index|inode)=\d+`)

func withoutIDs(dump string) string { return ids.ReplaceAllString(dump, "") }

func delta(oldName, oldText, newName, newText string) string {
	return string(diff.Diff(oldName, []byte(oldText), newName, []byte(newText)))
}

// dump is the state of the node and of all its named namespaces as text, a
// line for each thing.
func dump() (string, error) { return dumpBy(dumpNetns) }

// dumpKernel is that state without the firewall.
func dumpKernel() (string, error) { return dumpBy(dumpNetnsKernel) }

func dumpBy(dumpNetns func(netlab.Netns) ([]string, error)) (string, error) {
	names := []netlab.Netns{netlab.Node}
	files, err := os.ReadDir(netlab.Folder)
	if err != nil && !os.IsNotExist(err) {
		return "", err
	}
	var lines []string
	for _, f := range files {
		var st syscall.Stat_t
		if err := syscall.Stat(filepath.Join(netlab.Folder, f.Name()), &st); err != nil {
			return "", err
		}
		names = append(names, netlab.Netns(f.Name()))
		lines = append(lines, fmt.Sprintf("netns %s inode=%d", f.Name(), st.Ino))
	}
	for _, name := range names {
		here, err := dumpNetns(name)
		if err != nil {
			return "", fmt.Errorf("dump netns %s: %w", name, err)
		}
		for _, l := range here {
			lines = append(lines, string(name)+": "+l)
		}
	}
	return strings.Join(lines, "\n") + "\n", nil
}

func dumpNetnsKernel(name netlab.Netns) ([]string, error) {
	lines, err := dumpLinks(name)
	if err != nil {
		return nil, err
	}
	err = name.Do(func() error {
		lines = append(lines, dumpSysctls()...)
		return nil
	})
	return lines, err
}

func dumpNetns(name netlab.Netns) ([]string, error) {
	lines, err := dumpNetnsKernel(name)
	if err != nil {
		return nil, err
	}
	var ruleset strings.Builder
	for _, family := range []string{"ip", "ip6", "inet", "bridge", "arp", "netdev"} {
		// One run for each: nft 1.0.6 prints targets of iptables for the family alone
		// whose table comes first.
		one, err := name.Run("nft", "-s", "list", "ruleset", family)
		if err != nil {
			return nil, err
		}
		ruleset.WriteString(one)
	}
	return append(lines, dumpRuleset(ruleset.String())...), nil
}

func dumpSysctls() []string {
	var lines []string
	for _, pattern := range []string{"ipv4/ip_forward", "ipv4/conf/*/*", "ipv6/conf/*/*", "bridge/*"} {
		paths, _ := filepath.Glob("/proc/sys/net/" + pattern)
		for _, path := range paths {
			// Some cannot be read before they are set, some vanish with their link.
			if value, err := os.ReadFile(path); err == nil {
				lines = append(lines, fmt.Sprintf("%s = %s", strings.TrimPrefix(path, "/proc/sys/"), strings.TrimSpace(string(value))))
			}
		}
	}
	return lines
}

// dumpRuleset brings tables, the elements of sets and the rules in our chains of
// iptables, whose order is that of their making or none, into one, and leaves out the
// empty built-in chains that looking at a table with iptables leaves behind.
func dumpRuleset(ruleset string) []string {
	var tables [][]string
	var table []string
	for line := range strings.Lines(elementsOnOneLine(ruleset)) {
		line = strings.TrimRight(line, "\n")
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		table = append(table, "nft "+sortElements(line))
		if line == "}" {
			if table = tidy(table); len(table) > 0 {
				tables = append(tables, table)
			}
			table = nil
		}
	}
	slices.SortFunc(tables, func(a, b []string) int { return strings.Compare(a[0], b[0]) })
	return slices.Concat(tables...)
}

var elementsBreak = regexp.MustCompile(`,\n\s+`)

func elementsOnOneLine(ruleset string) string { return elementsBreak.ReplaceAllString(ruleset, ", ") }

func sortElements(line string) string {
	head, rest, ok := strings.Cut(line, "elements = { ")
	if !ok {
		return line
	}
	elements := strings.Split(strings.TrimSuffix(rest, " }"), ", ")
	slices.Sort(elements)
	return head + "elements = { " + strings.Join(elements, ", ") + " }"
}

var builtinTable = regexp.MustCompile(`^nft table (ip|ip6|arp|bridge) (filter|nat|mangle|raw|security) \{$`)
var emptyChain = regexp.MustCompile(`^nft \tchain (PREROUTING|INPUT|FORWARD|OUTPUT|POSTROUTING) \{\nnft \t\ttype .*policy accept;\nnft \t\}$`)

// baseComment is the mark of a chain that we made because iptables had not yet.
const baseComment = "nft \t\tcomment \"patchbay\""

// tidy sorts the chains of a table of iptables, and the rules in Patchbay's chains,
// and leaves out empty built-in chains; a table without further chains is left out.
func tidy(table []string) []string {
	if !builtinTable.MatchString(table[0]) {
		return table
	}
	var chains [][]string
	for _, l := range table[1 : len(table)-1] {
		if strings.HasPrefix(l, "nft \tchain ") {
			chains = append(chains, nil)
		}
		last := len(chains) - 1
		if last < 0 {
			// The comment by which we know a table that we made.
			continue
		}
		if chains[last] = append(chains[last], l); l != "nft \t}" {
			continue
		}
		c := chains[last]
		if strings.Contains(c[0], "chain PATCHBAY-") {
			slices.Sort(c[1 : len(c)-1])
		}
		if emptyChain.MatchString(strings.Join(c, "\n")) {
			chains = chains[:last]
			continue
		}
		// An empty chain that bears our mark would be left over. One in use may have
		// lost it: iptables-restore makes it anew.
		if len(c) > 4 {
			chains[last] = slices.DeleteFunc(c, func(l string) bool { return l == baseComment })
		}
	}
	if len(chains) == 0 {
		return nil
	}
	slices.SortFunc(chains, func(a, b []string) int { return strings.Compare(a[0], b[0]) })
	return slices.Concat(table[:1], slices.Concat(chains...), table[len(table)-1:])
}
