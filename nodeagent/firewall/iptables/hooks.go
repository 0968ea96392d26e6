package iptables

import (
	"context"
	"fmt"
	"slices"

	"github.com/patchbay-dev/patchbay/nodeagent/firewall/iptsave"
	"github.com/patchbay-dev/patchbay/nodeagent/firewall/nfnl"
)

// mendHooks puts jumps right where they alone are wrong: the chains that they
// lead to stay as they are, and at no moment is there no jump that was there.
func (b *Driver) mendHooks(ctx context.Context) error {
	used := b.memory.used()
	for a, st := range b.memory.tables {
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
// text: a number may stand for a rule of other programs by the time it is used. Where a jump
// has gone since it was listed, the transaction fails whole and is tried anew.
func (b *Driver) mend(ctx context.Context, a iptsave.TableID) error {
	jumps := b.memory.tables[a].jumps
	var failed error
	for range nfnl.MaxTries {
		failed = b.write(ctx, []iptsave.Restore{{Six: a.Six, Text: iptsave.Text(a.Table, replaceJumps(a, jumps)), Commits: 1}})
		if failed == nil {
			return nil
		}
		text, err := b.save(ctx, a.Six)
		if err != nil {
			return err
		}
		listed := iptsave.Parse(a.Six, text).Tables[a]
		if listed == nil || slices.Equal(listed.Jumps, jumps) {
			break
		}
		jumps = listed.Jumps
	}
	return failed
}

// replaceJumps are the commands that remove jumps to our chains and add each
// hook's where it belongs.
func replaceJumps(a iptsave.TableID, jumps []iptsave.Rule) []string {
	out := iptsave.Deletions(jumps)
	for _, h := range hooks[a.Table] {
		if h.front() {
			out = append(out, "-I "+h.chain+" "+h.spec)
		} else {
			out = append(out, "-A "+h.chain+" "+h.spec)
		}
	}
	return out
}

func hooked(table, chain string) bool {
	return slices.ContainsFunc(hooks[table], func(h hook) bool { return h.chain == chain })
}
