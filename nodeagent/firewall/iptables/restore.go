package iptables

import (
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/patchbay-dev/patchbay/nodeagent/firewall/iptsave"
	"golang.org/x/sys/unix"
)

// wholeRestore is how many commands a restore has where nothing keeps it from it.
const wholeRestore = 5000

// maxRestore is how many commands a restore may have here. iptables-nft sends them as
// one message; where it may not enlarge its socket's buffer (SO_SNDBUFFORCE is
// refused in a user namespace), more than some 200 rules are EMSGSIZE.
var maxRestore = sync.OnceValue(func() int {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
	if err != nil {
		return 150
	}
	defer unix.Close(fd)
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, 1<<20) != nil {
		return 150
	}
	return wholeRestore
})

// restores turn the kernel's tables into what memory holds, given the changes of
// rules since: one for each family, more where there are more commands than the
// limit.
func (m *memory) restores(c ipChanges, families []bool, limit int) []iptsave.Restore {
	var out []iptsave.Restore
	used := m.used()
	for _, six := range families {
		text, commits, commands := &strings.Builder{}, 0, 0
		for _, table := range ipTables {
			a := iptsave.InTable(six, table)
			for _, part := range m.parts(a, c, used[a], limit) {
				if commands+len(part) > limit && commands > 0 {
					out = append(out, iptsave.Restore{Six: six, Text: text.String(), Commits: commits})
					text, commits, commands = &strings.Builder{}, 0, 0
				}
				text.WriteString(iptsave.Text(table, part))
				commits++
				commands += len(part)
			}
		}
		if commits > 0 {
			out = append(out, iptsave.Restore{Six: six, Text: text.String(), Commits: commits})
		}
	}
	return out
}

// parts are the commands for one area, as few parts as their number allows.
func (m *memory) parts(a iptsave.TableID, c ipChanges, used, limit int) [][]string {
	st := m.tables[a]
	switch {
	case used == 0 && len(st.chains)+len(st.jumps) == 0:
		return nil
	case used == 0:
		return [][]string{st.removal()}
	case len(st.chains) == 0 || !st.sound:
		return m.rebuild(a, limit)
	}
	return chunks(m.commands(a, c), limit)
}

// chunks puts units of commands together.
func chunks(units [][]string, limit int) [][]string {
	var out [][]string
	var part []string
	for _, u := range units {
		if len(part) > 0 && len(part)+len(u) > limit {
			out, part = append(out, part), nil
		}
		part = append(part, u...)
	}
	if len(part) > 0 {
		out = append(out, part)
	}
	return out
}

// removal takes away all our chains.
func (st *tableState) removal() []string {
	out := iptsave.Deletions(st.jumps)
	chains := sortedKeys(st.chains)
	for _, c := range chains {
		out = append(out, "-F "+c)
	}
	for _, c := range chains {
		out = append(out, "-X "+c)
	}
	return out
}

// rebuild makes all chains of an area anew. What does not fit into the first
// part are rules of objects.
func (m *memory) rebuild(a iptsave.TableID, limit int) [][]string {
	lines := m.linesIn(a)
	common, define := shared(lines), own(lines)
	first := common[:min(len(common), limit/2)]
	units := m.commands(a, ipChanges{define: define})
	units = append(units, m.tables[a].frames(a, first, ownChains(define)))
	return chunks(append(units, m.commands(a, ipChanges{add: common[len(first):]})...), limit)
}

// frames makes the frames anew with the given rules of objects, and takes away
// our further chains, except the given ones. Rules are appended in their order: iptables-nft
// 1.8.9, when it inserts, counts the rules that the same input flushed from the chain.
func (st *tableState) frames(a iptsave.TableID, lines []iptsave.Rule, others []iptsave.ChainID) []string {
	var out, rules []string
	known := map[string]bool{}
	for _, s := range others {
		known[s.Chain] = true
	}
	for _, f := range framesOf(a) {
		known[f.chain] = true
		out = append(out, ":"+f.chain+" - [0:0]")
		for _, spec := range slices.Concat(f.head, specsAt(a.At(f.chain), lines), f.tail) {
			rules = append(rules, "-A "+f.chain+" "+spec)
		}
	}
	var gone []string
	for _, c := range sortedKeys(st.chains) {
		if !known[c] {
			out, gone = append(out, ":"+c+" - [0:0]"), append(gone, "-X "+c)
		}
	}
	out = append(out, rules...)
	out = append(out, replaceJumps(a, st.jumps)...)
	return append(out, gone...)
}

// commands are the changes of an area as units that stay together: what an
// object's own chain needs before what leads there, and what goes at last.
func (m *memory) commands(a iptsave.TableID, c ipChanges) [][]string {
	var out [][]string
	for _, s := range ownChains(c.define) {
		if s.TableID != a {
			continue
		}
		unit := []string{":" + s.Chain + " - [0:0]"}
		for _, l := range linesAt(s, c.define) {
			unit = append(unit, "-A "+l.Chain+" "+l.Spec)
		}
		out = append(out, unit)
	}
	out = append(out, swaps(a, c)...)
	// One of them may lead to another.
	var empty, gone []string
	for _, s := range c.drop {
		if s.TableID == a {
			empty, gone = append(empty, "-F "+s.Chain), append(gone, "-X "+s.Chain)
		}
	}
	return append(out, append(empty, gone...))
}

// swaps are the removals and additions in shared chains.
func swaps(a iptsave.TableID, c ipChanges) [][]string {
	position := map[string]int{}
	for _, f := range framesOf(a) {
		position[f.chain] = len(f.head) + 1
	}
	var out [][]string
	for _, l := range c.add {
		if l.TableID == a {
			out = append(out, []string{fmt.Sprintf("-I %s %d %s", l.Chain, position[l.Chain], l.Spec)})
		}
	}
	for _, l := range c.remove {
		if l.TableID == a {
			out = append(out, []string{"-D " + l.Chain + " " + l.Spec})
		}
	}
	return out
}

func specsAt(s iptsave.ChainID, lines []iptsave.Rule) []string {
	var out []string
	for _, l := range linesAt(s, lines) {
		out = append(out, l.Spec)
	}
	return out
}

func own(lines []iptsave.Rule) []iptsave.Rule {
	return slices.DeleteFunc(slices.Clone(lines), func(l iptsave.Rule) bool { return !ownChain(l.Chain) })
}

func shared(lines []iptsave.Rule) []iptsave.Rule {
	return slices.DeleteFunc(slices.Clone(lines), func(l iptsave.Rule) bool { return ownChain(l.Chain) })
}

func sortedKeys(set map[string]bool) []string {
	var out []string
	for k := range set {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}
