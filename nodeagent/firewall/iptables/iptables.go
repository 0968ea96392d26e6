// Package iptables is the dialect of the firewall that keeps objects as rules in chains of
// ours, in the tables of iptables and ip6tables.
package iptables

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"sync"
	"sync/atomic"

	"github.com/patchbay-dev/patchbay/nodeagent/firewall/book"
	"github.com/patchbay-dev/patchbay/nodeagent/firewall/conntrack"
	"github.com/patchbay-dev/patchbay/nodeagent/firewall/foreign"
	"github.com/patchbay-dev/patchbay/nodeagent/firewall/iptsave"
	"github.com/patchbay-dev/patchbay/nodeagent/firewall/nfnl"
	"github.com/patchbay-dev/patchbay/nodeagent/firewall/program"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
	"github.com/patchbay-dev/patchbay/nodeagent/plan"
)

// Driver is the Backend that keeps chains of its own in the tables raw, filter
// and nat. The chains of a table exist while there are rules of objects.
type Driver struct {
	opts book.Options
	iptsave.Variant
	// legacy says that rules are not nftables', which has events.
	legacy bool
	// families are those that the node has; true is IPv6.
	families []bool
	gens     nfnl.Generations
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
	forwards         foreign.Forwarders
	// pending conntrack entries are deleted by the next Apply.
	pending conntrack.Flows
	// seen is what was last seen of ours, where it is polled.
	seen string
}

// New fails where iptables does not run or the kernel has no tables for
// it.
func New(v iptsave.Variant, opts book.Options) (*Driver, error) {
	b := &Driver{opts: opts, Variant: v, stale: true, memory: newIPMemory(opts.Source)}
	for _, six := range []bool{false, true} {
		if _, err := os.Stat("/proc/sys/net/ipv6"); six && err != nil {
			continue
		}
		for _, suffix := range []string{"", "-save", "-restore"} {
			if _, err := exec.LookPath(v.Program(six, suffix)); err != nil {
				return nil, fmt.Errorf("find %s: %w: install the package iptables", v.Program(six, suffix), err)
			}
		}
		b.families = append(b.families, six)
	}
	version, err := program.Run(context.Background(), "", v.Program(false, ""), "--version")
	if err != nil {
		return nil, fmt.Errorf("ask %s for its version: %w", v.Program(false, ""), err)
	}
	b.legacy = !bytes.Contains(version, []byte("nf_tables"))
	return b, nil
}

// Usable fails where the kernel has no table for iptables.
func (b *Driver) Usable() error {
	for _, six := range b.families {
		for _, table := range []string{"filter", "nat"} {
			if _, err := program.Run(context.Background(), "", b.Program(six, ""), "-w", fmt.Sprint(iptsave.LockPatience), "-t", table, "-S"); err != nil {
				return fmt.Errorf("list table %s: %w", iptsave.InTable(six, table), err)
			}
		}
	}
	return nil
}

func (b *Driver) Name() string { return Kind }

func (b *Driver) AntiSpoof() bool { return false }

func (b *Driver) Transactions() uint64 { return b.count.Load() }

func (b *Driver) Load(ctx context.Context) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.stale = true
	return b.load(ctx)
}

func (b *Driver) load(ctx context.Context) error {
	m := newIPMemory(b.opts.Source)
	var all []iptsave.Saved
	var blockers []netstate.Blocker
	for _, six := range b.families {
		text, err := b.save(ctx, six)
		if err != nil {
			return err
		}
		s := iptsave.Parse(six, text)
		m.take(s)
		all, blockers = append(all, s), append(blockers, foreign.Blockers(s)...)
	}
	m.understand(all)
	b.memory, b.stale = m, false
	b.blockers = b.allBlockers(ctx, blockers)
	if b.legacy {
		return nil
	}
	legacy, err := foreign.LegacyBlockers(ctx)
	b.blockers = append(b.blockers, legacy...)
	return err
}

// save lists the tables of a family that the kernel has; it makes none.
func (b *Driver) save(ctx context.Context, six bool) ([]byte, error) {
	out, err := program.Run(ctx, "", b.Program(six, "-save"))
	if err != nil {
		return nil, fmt.Errorf("run %s: %w", b.Program(six, "-save"), err)
	}
	return out, nil
}

func (b *Driver) Blockers() []netstate.Blocker {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.blockers
}

func (b *Driver) Known() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return !b.stale
}

func (b *Driver) Observe(keys []netstate.Key) netstate.Set {
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

func (b *Driver) Held() netstate.Set {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.memory.held()
}

func (b *Driver) Intact() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.memory.intact()
}

func (b *Driver) Apply(ctx context.Context, steps []plan.Step) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := book.CheckSteps(steps, CheckIPTables); err != nil {
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
func (b *Driver) change(ctx context.Context, steps []plan.Step) (conntrack.Flows, error) {
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

func (b *Driver) Forget(gone []netip.Addr) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.pending = append(b.pending, conntrack.Gone(gone)...)
	return b.flush()
}

func (b *Driver) Clean(ctx context.Context) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.load(ctx); err != nil {
		return err
	}
	for k := range b.memory.held() {
		if p, ok := b.memory.entries[b.memory.key(k)].object.(netstate.Publish); ok {
			b.pending = append(b.pending, conntrack.Flow{Old: p, Lost: p.Targets})
		}
	}
	if err := b.empty(ctx, func(ipKey) bool { return true }); err != nil {
		return err
	}
	return b.flush()
}

// Retire removes all of our source and leaves connections alone.
func (b *Driver) Retire(ctx context.Context) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.load(ctx); err != nil {
		return err
	}
	return b.empty(ctx, func(k ipKey) bool { return k.source == b.opts.Source })
}

// empty removes the objects that go, and what is nobody's.
func (b *Driver) empty(ctx context.Context, goes func(ipKey) bool) error {
	var c ipChanges
	for k, e := range b.memory.entries {
		if goes(k) {
			c.between(e.lines, nil, b.memory.wantedChains(e.object))
			delete(b.memory.entries, k)
		}
	}
	b.stale = true
	if err := b.write(ctx, b.memory.restores(c, b.families, maxRestore())); err != nil {
		return fmt.Errorf("remove chains %s*: %w", iptsave.Prefix, err)
	}
	if err := b.dropBases(b.memory.used()); err != nil {
		return err
	}
	b.memory.committed()
	b.stale = false
	return nil
}

// write runs restores. Each is a transaction for every table.
func (b *Driver) write(ctx context.Context, restores []iptsave.Restore) error {
	if len(restores) == 0 {
		return nil
	}
	b.makeBases(b.memory.used())
	for _, r := range restores {
		if err := b.own(r.Commits, func() error { return r.Run(ctx, b.Variant) }); err != nil {
			return err
		}
		b.count.Add(1)
		b.opts.Step()
	}
	return nil
}

// own runs changes of ours that Watch is not to tell of.
func (b *Driver) own(commits int, run func() error) error {
	if !b.legacy {
		return b.gens.OwnAll(commits, run)
	}
	b.gens.Mu.Lock()
	defer b.gens.Mu.Unlock()
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

func (b *Driver) flush() error { return b.pending.Settle(b.memory.standing, b.opts.Step) }

// Inputs are the restores that make objects in a firewall without any of ours.
func Inputs(source netstate.Source, steps []plan.Step) ([]program.Input, error) {
	if err := book.CheckSteps(steps, CheckIPTables); err != nil {
		return nil, err
	}
	m := newIPMemory(source)
	changes, _, err := m.apply(steps)
	if err != nil {
		return nil, err
	}
	var out []program.Input
	for _, r := range m.restores(changes, []bool{false, true}, wholeRestore) {
		out = append(out, program.Input{Program: iptsave.Variant("").Program(r.Six, "-restore"), Text: r.Text})
	}
	return out, nil
}

const Kind = "iptables"

// Legacy reports whether the rules are not nftables', which has events.
func (b *Driver) Legacy() bool { return b.legacy }

// Beside reports whether nftables has tables of ours beside the chains here, and whether
// iptables-nft may have such chains.
func (b *Driver) Beside() (tables, chains bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.beside, b.besideIP
}
