package nat

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"sync"
	"sync/atomic"

	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
	"github.com/patchbay-dev/patchbay/nodeagent/plan"
)

// variant tells apart the two kinds of iptables that a node may have side by
// side; empty is the one that it uses for iptables.
type variant string

const (
	variantNFT    variant = "nft"
	variantLegacy variant = "legacy"
)

// program is a program of the variant, such as ip6tables-legacy-restore.
func (v variant) program(six bool, suffix string) string {
	name := "iptables"
	if six {
		name = "ip6tables"
	}
	if v != "" {
		name += "-" + string(v)
	}
	return name + suffix
}

// iptables is the Backend that keeps chains of its own in the tables raw, filter
// and nat. The chains of a table exist while there are rules of objects.
type iptables struct {
	opts Options
	variant
	// legacy says that rules are not nftables', which has events.
	legacy bool
	// families are those that the node has; true is IPv6.
	families []bool
	gens     generations
	count    atomic.Uint64

	mu sync.Mutex
	// stale memory must be loaded before anything is written: at the start and
	// after an error.
	stale  bool
	memory ipMemory
	// blockers as of the last Load; beside says that nftables has tables of ours,
	// and besideIP that it may have such chains of iptables.
	blockers         []netstate.Blocker
	beside, besideIP bool
	forwards         forwarders
	// pending conntrack entries are deleted by the next Apply.
	pending flows
	// seen is what was last seen of ours, where it is polled.
	seen string
}

// newIPTables fails where iptables does not run or the kernel has no tables for
// it.
func newIPTables(v variant, opts Options) (*iptables, error) {
	b := &iptables{opts: opts, variant: v, stale: true, memory: newIPMemory(opts.Source)}
	for _, six := range []bool{false, true} {
		if _, err := os.Stat("/proc/sys/net/ipv6"); six && err != nil {
			continue
		}
		for _, suffix := range []string{"", "-save", "-restore"} {
			if _, err := exec.LookPath(v.program(six, suffix)); err != nil {
				return nil, fmt.Errorf("find %s: %w: install the package iptables", v.program(six, suffix), err)
			}
		}
		b.families = append(b.families, six)
	}
	version, err := output(context.Background(), "", v.program(false, ""), "--version")
	if err != nil {
		return nil, fmt.Errorf("ask %s for its version: %w", v.program(false, ""), err)
	}
	b.legacy = !bytes.Contains(version, []byte("nf_tables"))
	return b, nil
}

// lockPatience is how many seconds to wait for the lock that all users of
// iptables take in turns.
const lockPatience = 10

// usable fails where the kernel has no table for iptables.
func (b *iptables) usable() error {
	for _, six := range b.families {
		for _, table := range []string{"filter", "nat"} {
			if _, err := output(context.Background(), "", b.program(six, ""), "-w", fmt.Sprint(lockPatience), "-t", table, "-S"); err != nil {
				return fmt.Errorf("list table %s: %w", area{six, table}, err)
			}
		}
	}
	return nil
}

func (b *iptables) Name() string { return KindIPTables }

func (b *iptables) AntiSpoof() bool { return false }

func (b *iptables) Transactions() uint64 { return b.count.Load() }

func (b *iptables) Load(ctx context.Context) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.stale = true
	return b.load(ctx)
}

func (b *iptables) load(ctx context.Context) error {
	m := newIPMemory(b.opts.Source)
	var all []saved
	var blockers []netstate.Blocker
	for _, six := range b.families {
		text, err := b.save(ctx, six)
		if err != nil {
			return err
		}
		s := parseSave(six, text)
		m.take(s)
		all, blockers = append(all, s), append(blockers, s.blockers()...)
	}
	m.understand(all)
	b.memory, b.stale = m, false
	b.blockers = b.allBlockers(ctx, blockers)
	if b.legacy {
		return nil
	}
	legacy, err := legacyBlockers(ctx)
	b.blockers = append(b.blockers, legacy...)
	return err
}

// save lists the tables of a family that the kernel has; it makes none.
func (b *iptables) save(ctx context.Context, six bool) ([]byte, error) {
	out, err := output(ctx, "", b.program(six, "-save"))
	if err != nil {
		return nil, fmt.Errorf("run %s: %w", b.program(six, "-save"), err)
	}
	return out, nil
}

func (b *iptables) Blockers() []netstate.Blocker {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.blockers
}

func (b *iptables) Known() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return !b.stale
}

func (b *iptables) Observe(keys []netstate.Key) netstate.Set {
	b.mu.Lock()
	defer b.mu.Unlock()
	set := netstate.Set{}
	for _, k := range keys {
		if o := b.memory.observe(k); o != nil {
			set.Add(o)
		}
	}
	return set
}

func (b *iptables) Held() netstate.Set {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.memory.held()
}

func (b *iptables) Intact() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.memory.intact()
}

func (b *iptables) Apply(ctx context.Context, steps []plan.Step) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := checkSteps(steps, checkIPTables); err != nil {
		return err
	}
	contradicted, err := b.change(ctx, steps)
	if err != nil {
		return fmt.Errorf("apply %d firewall steps: %w", len(steps), err)
	}
	b.pending = append(b.pending, contradicted...)
	return b.flush()
}

// change carries out steps, but for the connections that contradict them, which
// it returns.
func (b *iptables) change(ctx context.Context, steps []plan.Step) (flows, error) {
	if b.stale {
		if err := b.load(ctx); err != nil {
			return nil, err
		}
	}
	changes, contradicted, err := b.memory.apply(steps)
	if err == nil {
		err = b.mendHooks(ctx)
	}
	if err == nil {
		restores := b.memory.restores(changes, b.families, maxRestore())
		if err = b.write(ctx, restores); err == nil && len(restores) > 0 {
			err = b.dropBases(b.memory.used())
		}
	}
	if err != nil {
		b.stale = true
		return nil, err
	}
	b.memory.committed()
	return contradicted, nil
}

func (b *iptables) Forget(gone []netip.Addr) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.pending = append(b.pending, addresses(gone)...)
	return b.flush()
}

func (b *iptables) Clean(ctx context.Context) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.load(ctx); err != nil {
		return err
	}
	for k := range b.memory.held() {
		if p, ok := b.memory.entries[b.memory.key(k)].object.(netstate.Publish); ok {
			b.pending = append(b.pending, flow{old: p, lost: p.Targets})
		}
	}
	if err := b.empty(ctx, func(ipKey) bool { return true }); err != nil {
		return err
	}
	return b.flush()
}

// retire removes all of our source and leaves connections alone.
func (b *iptables) retire(ctx context.Context) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.load(ctx); err != nil {
		return err
	}
	return b.empty(ctx, func(k ipKey) bool { return k.source == b.opts.Source })
}

// empty removes the objects that go, and what is nobody's.
func (b *iptables) empty(ctx context.Context, goes func(ipKey) bool) error {
	var c ipChanges
	for k, e := range b.memory.entries {
		if goes(k) {
			c.between(e.lines, nil, b.memory.wantedChains(e.object))
			delete(b.memory.entries, k)
		}
	}
	b.stale = true
	if err := b.write(ctx, b.memory.restores(c, b.families, maxRestore())); err != nil {
		return fmt.Errorf("remove chains %s*: %w", chainPrefix, err)
	}
	if err := b.dropBases(b.memory.used()); err != nil {
		return err
	}
	b.memory.committed()
	b.stale = false
	return nil
}

// write runs restores. Each is a transaction for every table.
func (b *iptables) write(ctx context.Context, restores []restore) error {
	if len(restores) == 0 {
		return nil
	}
	b.makeBases(b.memory.used())
	for _, r := range restores {
		if err := b.own(r.commits, func() error { return r.run(ctx, b.variant) }); err != nil {
			return err
		}
		b.count.Add(1)
		b.opts.Step()
	}
	return nil
}

// own runs changes of ours that Watch is not to tell of.
func (b *iptables) own(commits int, run func() error) error {
	if !b.legacy {
		return b.gens.ownAll(commits, run)
	}
	b.gens.mu.Lock()
	defer b.gens.mu.Unlock()
	if b.seen == "" {
		return run()
	}
	foreign, err := b.compare(context.Background())
	if err == nil {
		err = run()
	}
	if err == nil && !foreign {
		_, err = b.compare(context.Background())
	}
	return err
}

// run has a restore carried out, all of it or none.
func (r restore) run(ctx context.Context, v variant) error {
	name := v.program(r.six, "-restore")
	if _, err := output(ctx, r.text, name, "--noflush", "-w", fmt.Sprint(lockPatience)); err != nil {
		return fmt.Errorf("run %s: %w", name, err)
	}
	return nil
}

func (b *iptables) flush() error { return b.pending.settle(b.memory.standing, b.opts.Step) }
