package nat

import (
	"context"
	"fmt"
	"slices"
	"strings"
)

// mendHooks puts jumps right where they alone are wrong: the chains that they
// lead to stay as they are, and at no moment is there no jump that was there.
func (b *iptables) mendHooks(ctx context.Context) error {
	used := b.memory.used()
	for a, st := range b.memory.areas {
		if st.sound || !st.framed || used[a] == 0 {
			continue
		}
		if err := b.mend(ctx, a); err != nil {
			return fmt.Errorf("mend the jumps of %s: %w", a, err)
		}
		st.sound = true
	}
	return nil
}

// mend replaces the jumps of an area by one transaction that names each rule by its
// text: a number may stand for a rule of others by the time it is used. Where a jump
// has gone since it was listed, the transaction fails whole and is tried anew.
func (b *iptables) mend(ctx context.Context, a area) error {
	jumps := b.memory.areas[a].jumps
	var failed error
	for range maxListings {
		failed = b.write(ctx, []restore{{a.six, restoreOf(a.table, replaceJumps(a, jumps)), 1}})
		if failed == nil {
			return nil
		}
		text, err := b.save(ctx, a.six)
		if err != nil {
			return err
		}
		listed := parseSave(a.six, text).areas[a]
		if listed == nil || slices.Equal(listed.jumps, jumps) {
			break
		}
		jumps = listed.jumps
	}
	return failed
}

// replaceJumps are the commands that remove jumps to chains of ours and add each
// hook's where it belongs.
func replaceJumps(a area, jumps []ipRule) []string {
	out := deletions(jumps)
	for _, h := range hooks[a.table] {
		if h.front() {
			out = append(out, "-I "+h.chain+" "+h.spec)
		} else {
			out = append(out, "-A "+h.chain+" "+h.spec)
		}
	}
	return out
}

// deletions remove rules, each by its whole text.
func deletions(rules []ipRule) []string {
	var out []string
	for _, r := range rules {
		out = append(out, "-D "+r.chain+" "+r.spec)
	}
	return out
}

// restoreOf is the text that has iptables-restore carry out commands in a table.
func restoreOf(table string, commands []string) string {
	return fmt.Sprintf("*%s\n%s\nCOMMIT\n", table, strings.Join(commands, "\n"))
}

func hooked(table, chain string) bool {
	return slices.ContainsFunc(hooks[table], func(h hook) bool { return h.chain == chain })
}
