package nat

import (
	"fmt"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// restore is the input of an iptables-restore --noflush.
type restore struct {
	six  bool
	text string
	// commits are its tables.
	commits int
}

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
func (m *ipMemory) restores(c ipChanges, families []bool, limit int) []restore {
	var out []restore
	used := m.used()
	for _, six := range families {
		text, commits, commands := &strings.Builder{}, 0, 0
		for _, table := range ipTables {
			a := area{six, table}
			for _, part := range m.parts(a, c, used[a], limit) {
				if commands+len(part) > limit && commands > 0 {
					out = append(out, restore{six, text.String(), commits})
					text, commits, commands = &strings.Builder{}, 0, 0
				}
				text.WriteString(restoreOf(table, part))
				commits++
				commands += len(part)
			}
		}
		if commits > 0 {
			out = append(out, restore{six, text.String(), commits})
		}
	}
	return out
}

// parts are the commands for one area, as few parts as their number allows.
func (m *ipMemory) parts(a area, c ipChanges, used, limit int) [][]string {
	st := m.areas[a]
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

// removal takes away all that is ours.
func (st *areaState) removal() []string {
	out := deletions(st.jumps)
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
func (m *ipMemory) rebuild(a area, limit int) [][]string {
	lines := m.linesIn(a)
	common, define := shared(lines), own(lines)
	first := common[:min(len(common), limit/2)]
	units := m.commands(a, ipChanges{define: define})
	units = append(units, m.areas[a].frames(a, first, ownChains(define)))
	return chunks(append(units, m.commands(a, ipChanges{add: common[len(first):]})...), limit)
}

// frames makes the frames anew with the given rules of objects, and takes away
// what else is there of ours but for others. Rules are appended in their order: iptables-nft
// 1.8.9 counts those of a chain that the same input flushed when it inserts.
func (st *areaState) frames(a area, lines []ipRule, others []spot) []string {
	var out, rules []string
	known := map[string]bool{}
	for _, s := range others {
		known[s.chain] = true
	}
	for _, f := range framesOf(a) {
		known[f.chain] = true
		out = append(out, ":"+f.chain+" - [0:0]")
		for _, spec := range slices.Concat(f.head, specsAt(spot{a, f.chain}, lines), f.tail) {
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
func (m *ipMemory) commands(a area, c ipChanges) [][]string {
	var out [][]string
	for _, s := range ownChains(c.define) {
		if s.area != a {
			continue
		}
		unit := []string{":" + s.chain + " - [0:0]"}
		for _, l := range linesAt(s, c.define) {
			unit = append(unit, "-A "+l.chain+" "+l.spec)
		}
		out = append(out, unit)
	}
	out = append(out, swaps(a, c)...)
	// One of them may lead to another.
	var empty, gone []string
	for _, s := range c.drop {
		if s.area == a {
			empty, gone = append(empty, "-F "+s.chain), append(gone, "-X "+s.chain)
		}
	}
	return append(out, append(empty, gone...))
}

// swaps are the removals and additions in shared chains.
func swaps(a area, c ipChanges) [][]string {
	position := map[string]int{}
	for _, f := range framesOf(a) {
		position[f.chain] = len(f.head) + 1
	}
	var out [][]string
	for _, l := range c.add {
		if l.area == a {
			out = append(out, []string{fmt.Sprintf("-I %s %d %s", l.chain, position[l.chain], l.spec)})
		}
	}
	for _, l := range c.remove {
		if l.area == a {
			out = append(out, []string{"-D " + l.chain + " " + l.spec})
		}
	}
	return out
}

func specsAt(s spot, lines []ipRule) []string {
	var out []string
	for _, l := range linesAt(s, lines) {
		out = append(out, l.spec)
	}
	return out
}

func own(lines []ipRule) []ipRule {
	return slices.DeleteFunc(slices.Clone(lines), func(l ipRule) bool { return !ownChain(l.chain) })
}

func shared(lines []ipRule) []ipRule {
	return slices.DeleteFunc(slices.Clone(lines), func(l ipRule) bool { return ownChain(l.chain) })
}

func sortedKeys(set map[string]bool) []string {
	var out []string
	for k := range set {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}
