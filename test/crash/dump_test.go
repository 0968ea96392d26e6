package crash

import (
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"

	"github.com/patchbay-dev/patchbay/nodeagent/firewall"
)

var (
	volatile     = regexp.MustCompile(`^\d+: |@if\d+|link-netnsid \d+|qlen \d+|state [A-Z]+|(NO-CARRIER,)|(,LOWER_UP)|valid_lft \S+ preferred_lft \S+|\(id: \d+\)`)
	builtinTable = regexp.MustCompile(`(?m)^table ip6? (raw|mangle|nat|filter)$`)
	builtinChain = regexp.MustCompile(`(?m)^(:[A-Z]+ [A-Z]+ .*|#.*|\*.*|COMMIT)$`)
	// detected is what the kernel adds to a link-local address of its own once it has
	// found no other of that address, which takes longer on a busy machine.
	detected = regexp.MustCompile(`(?m)^(local|anycast) fe80:.*$|(inet6 fe80:.*) tentative`)
	blanks   = regexp.MustCompile(`[\s\\]+`)
)

// dump is everything that may differ, in lines: links, addresses, routes, qdiscs of
// every namespace, the firewall, sysctls, namespaces.
func (b *bench) dump() []string {
	b.t.Helper()
	lines := section("namespace", output("ip", "netns", "list"))
	for _, ns := range append([]string{""}, strings.Fields(strings.Join(section("", output("ip", "netns", "list")), " "))...) {
		at := []string{}
		if ns != "" {
			at = []string{"-n", ns}
		}
		for _, what := range [][]string{{"-o", "link"}, {"-o", "addr"}, {"route", "show", "table", "all"}, {"-6", "route", "show", "table", "all"}} {
			lines = append(lines, section("ns "+ns, output("ip", append(at, what...)...))...)
		}
		lines = append(lines, section("ns "+ns, output("tc", append(at, "qdisc")...))...)
	}
	lines = append(lines, b.firewall()...)
	forward, _ := os.ReadFile("/proc/sys/net/ipv4/ip_forward")
	lines = append(lines, "ip_forward "+strings.TrimSpace(string(forward)))
	slices.Sort(lines)
	return lines
}

func (b *bench) firewall() []string {
	if b.backend == firewall.KindNFTables {
		return section("nft", strings.NewReplacer(",", "\n", "{", "\n", "}", "\n").Replace(output("nft", "list", "ruleset")))
	}
	// To look at a table of iptables makes it, with its built-in chains.
	tables := section("nft", builtinTable.ReplaceAllString(output("nft", "list", "tables"), ""))
	for _, save := range []string{"iptables-save", "ip6tables-save"} {
		tables = append(tables, section(save, builtinChain.ReplaceAllString(output(save), ""))...)
	}
	return tables
}

func section(prefix, text string) []string {
	var out []string
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(blanks.ReplaceAllString(volatile.ReplaceAllString(detected.ReplaceAllString(line, "$2"), ""), " ")); line != "" {
			out = append(out, strings.TrimSpace(prefix+" "+line))
		}
	}
	return out
}

func output(name string, args ...string) string {
	// A namespace may vanish between two commands; the next dump tells.
	out, _ := exec.Command(name, args...).Output()
	return string(out)
}
