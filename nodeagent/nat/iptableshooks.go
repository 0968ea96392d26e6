package nat

import (
	"fmt"
	"strings"
)

// mendHooks puts jumps right where they alone are wrong: the chains that they
// lead to stay as they are, and at no moment is there no jump that was there.
func (b *iptables) mendHooks() error {
	used := b.memory.used()
	for a, st := range b.memory.areas {
		if st.sound || !st.framed || used[a] == 0 {
			continue
		}
		for _, h := range hooks[a.table] {
			if err := b.own(0, func() error { return mendHook(b.single[a.six], a.table, h) }); err != nil {
				return fmt.Errorf("mend %s of %s: %w", h.chain, a, err)
			}
		}
		for _, j := range st.jumps {
			if !hooked(a.table, j.chain) {
				if err := b.single[a.six].DeleteIfExists(a.table, j.chain, words(j.spec)...); err != nil {
					return fmt.Errorf("delete the jump from %s of %s: %w", j.chain, a, err)
				}
			}
		}
		st.sound = true
		b.count.Add(1)
		b.opts.Step()
	}
	return nil
}

func hooked(table, chain string) bool {
	for _, h := range hooks[table] {
		if h.chain == chain {
			return true
		}
	}
	return false
}

// mendHook adds a hook's jump where it belongs and then removes all others to
// chains of ours.
func mendHook(one ipProgram, table string, h hook) error {
	var err error
	if h.front() {
		err = one.Insert(table, h.chain, 1, words(h.spec)...)
	} else {
		err = one.Append(table, h.chain, words(h.spec)...)
	}
	if err != nil {
		return err
	}
	rules, err := one.List(table, h.chain)
	if err != nil {
		return err
	}
	var jumps []int
	n := 0
	for _, r := range rules {
		spec, isRule := strings.CutPrefix(r, "-A "+h.chain+" ")
		if !isRule {
			continue
		}
		if n++; strings.HasPrefix(target(spec), chainPrefix) {
			jumps = append(jumps, n)
		}
	}
	keep := len(jumps) - 1
	if h.front() {
		keep = 0
	}
	for i := len(jumps) - 1; i >= 0; i-- {
		if i == keep {
			continue
		}
		if err := one.DeleteById(table, h.chain, jumps[i]); err != nil {
			return err
		}
	}
	return nil
}
