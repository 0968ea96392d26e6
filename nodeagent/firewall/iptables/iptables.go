// Package iptables is the dialect of the firewall that keeps objects as rules in chains of
// its own, in the tables of iptables and ip6tables.
package iptables

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"slices"

	"github.com/patchbay-dev/patchbay/nodeagent/firewall/book"
	"github.com/patchbay-dev/patchbay/nodeagent/firewall/conntrack"
	"github.com/patchbay-dev/patchbay/nodeagent/firewall/foreign"
	"github.com/patchbay-dev/patchbay/nodeagent/firewall/iptsave"
	"github.com/patchbay-dev/patchbay/nodeagent/firewall/nfnl"
	"github.com/patchbay-dev/patchbay/nodeagent/firewall/program"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
	"github.com/patchbay-dev/patchbay/nodeagent/plan"
)

// Driver is the dialect that keeps chains of its own in the tables raw, filter
// and nat. The chains of a table exist while there are rules of objects.
type Driver struct {
	opts book.Options
	iptsave.Variant
	// legacy says that rules are not nftables', which has events.
	legacy bool
	// families are the IP families of the node; true is IPv6.
	families []bool
	gens     nfnl.Generations

	memory memory
	// blockers as of the last Read; beside says that nftables has our tables,
	// and besideIP that it may have such chains of iptables.
	blockers []netstate.Blocker
	// told are the blockers among iptables' own chains.
	told             []netstate.Blocker
	beside, besideIP bool
	forwards         foreign.Forwarders
	// seen is the hash of our chains as last read, where it is polled.
	seen string
}

// New fails where iptables does not run or the kernel has no tables for
// it.
func New(v iptsave.Variant, opts book.Options) (*Driver, error) {
	b := &Driver{opts: opts, Variant: v, memory: newMemory(opts.Source)}
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

// AntiSpoof reports false: a bridge port is not iptables' to filter.
func (b *Driver) AntiSpoof() bool { return false }

// Check refuses an object that iptables cannot hold.
func (b *Driver) Check(o netstate.Object) error { return check(o) }

// Read learns what iptables holds.
func (b *Driver) Read(ctx context.Context) error {
	var all []iptsave.Saved
	var blockers []netstate.Blocker
	for _, six := range b.families {
		text, err := b.save(ctx, six)
		if err != nil {
			return err
		}
		s := iptsave.Parse(six, text)
		all, blockers = append(all, s), append(blockers, foreign.Blockers(s)...)
	}
	b.memory, b.told = newMemory(b.opts.Source, all...), blockers
	return nil
}

// ReadBlockers learns who drops forwarded packets beside the chains that Read was told of.
func (b *Driver) ReadBlockers(ctx context.Context) error {
	b.blockers = b.allBlockers(ctx, b.told)
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

// Blockers are the chains of other programs that drop forwarded packets, as of the last Read.
func (b *Driver) Blockers() []netstate.Blocker { return b.blockers }

// Intact reports whether chains, frames and jumps are as they must be.
func (b *Driver) Intact() bool { return b.memory.intact() }

// Object returns the object of a key, and whether iptables holds it complete and exactly.
func (b *Driver) Object(k netstate.Key) (netstate.Object, bool) { return b.memory.Object(k) }

// Objects are the objects of the source, complete or not.
func (b *Driver) Objects() []netstate.Object { return slices.Collect(b.memory.Objects()) }

// Standing finds publishes as conntrack asks for them.
func (b *Driver) Standing() conntrack.Standing { return b.memory.Standing() }

// Write carries out steps and returns the connections that then contradict them.
func (b *Driver) Write(ctx context.Context, steps []plan.Step) (conntrack.Flows, error) {
	changes, contradicted, err := b.memory.apply(steps)
	if err == nil {
		err = b.mendHooks(ctx)
	}
	if err == nil {
		err = b.restore(ctx, changes)
	}
	return contradicted, err
}

// Clean removes all our objects, whatever its source, and returns the objects.
func (b *Driver) Clean(ctx context.Context) ([]netstate.Object, error) {
	if err := b.Read(ctx); err != nil {
		return nil, err
	}
	gone := b.memory.All()
	clear(b.memory.Holds)
	if err := b.restore(ctx, ipChanges{}); err != nil {
		return nil, fmt.Errorf("remove chains %s*: %w", iptsave.Prefix, err)
	}
	b.memory = newMemory(b.opts.Source)
	return gone, nil
}

// restore writes changes, and removes base chains that were made for our rules and have none now.
func (b *Driver) restore(ctx context.Context, c ipChanges) error {
	restores := b.memory.restores(c, b.families, maxRestore())
	if err := b.write(ctx, restores); err != nil {
		return err
	}
	if len(restores) > 0 {
		if err := b.dropBases(b.memory.used()); err != nil {
			return err
		}
	}
	b.memory.committed()
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
		b.opts.Committed()
	}
	return nil
}

// own runs our changes that Watch is not to tell of. Legacy iptables cannot tell them apart
// from changes that another program makes at the same time: the next look tells of both.
func (b *Driver) own(commits int, run func() error) error {
	if !b.legacy {
		return b.gens.OwnAll(commits, run)
	}
	b.gens.Mu.Lock()
	defer b.gens.Mu.Unlock()
	return run()
}

// Inputs are the restores that make objects in a firewall without any of our objects.
func Inputs(source netstate.Source, steps []plan.Step) ([]program.Input, error) {
	if err := book.CheckSteps(steps, check); err != nil {
		return nil, err
	}
	m := newMemory(source)
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

// Kind is the name of the dialect.
const Kind = "iptables"

// Legacy reports whether the rules are not nftables', which has events.
func (b *Driver) Legacy() bool { return b.legacy }

// Beside reports whether nftables has our tables beside the chains here, and whether
// iptables-nft may have such chains.
func (b *Driver) Beside() (tables, chains bool) {
	return b.beside, b.besideIP
}
