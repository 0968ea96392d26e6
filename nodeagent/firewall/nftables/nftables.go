// Package nftables is the dialect of the firewall that keeps objects as elements of sets,
// in the tables inet patchbay and bridge patchbay.
package nftables

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
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
	"golang.org/x/sys/unix"
	"sigs.k8s.io/knftables"
)

const Kind = "nftables"

// Driver is the Backend that keeps the tables inet patchbay and bridge
// patchbay. A table exists while it has elements.
type Driver struct {
	opts book.Options
	path string
	// commit makes edits without nft, all or none.
	commit func([]edit) error
	// Refused, where set, is told what the kernel refused by netlink, which nft tries then.
	Refused func(error)
	gens    nfnl.Generations
	count   atomic.Uint64

	mu sync.Mutex
	// stale memory must be loaded before anything is written: at the start and
	// after an error.
	stale  bool
	memory memory
	// blockers as of the last Load; beside says that iptables has chains of ours.
	blockers []netstate.Blocker
	beside   bool
	openings foreign.Accepts
	forwards foreign.Forwarders
	// pending conntrack entries are deleted by the next Apply.
	pending conntrack.Flows
}

func New(opts book.Options) (*Driver, error) {
	path, err := exec.LookPath("nft")
	if err != nil {
		return nil, fmt.Errorf("find nft: %w: install the package nftables", err)
	}
	if err := tryNFT(context.Background(), path); err != nil {
		return nil, fmt.Errorf("make NAT backend %s: %w", Kind, err)
	}
	b := &Driver{opts: opts, path: path, commit: commit, stale: true, memory: newMemory(opts.Source)}
	b.openings = foreign.NewAccepts(opts.Source, b.restore)
	return b, nil
}

func (b *Driver) Name() string { return Kind }

func (b *Driver) AntiSpoof() bool { return true }

func (b *Driver) Transactions() uint64 { return b.count.Load() }

func (b *Driver) Load(ctx context.Context) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.stale = true
	return b.load(ctx)
}

func (b *Driver) load(ctx context.Context) error {
	m := newMemory(b.opts.Source)
	for range nfnl.MaxTries {
		before, err := nfnl.Generation()
		if err != nil {
			return err
		}
		m = newMemory(b.opts.Source)
		for _, f := range families {
			t, err := b.list(ctx, f)
			if err != nil {
				return err
			}
			if t.unread {
				t.elements = b.memory.elementsOf(f)
			}
			m.take(f, t)
		}
		if after, err := nfnl.Generation(); err != nil || after == before {
			break
		}
	}
	m.understand()
	b.memory, b.stale = m, false
	return b.loadForward(ctx)
}

func (b *Driver) Blockers() []netstate.Blocker {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.blockers
}

// list reads one table; one that does not exist is empty, and one that cannot be read
// is to be made anew. knftables would need an nft run for every set, and does not list
// their definitions.
func (b *Driver) list(ctx context.Context, f knftables.Family) (table, error) {
	is, exists, err := nfnl.FindTable(f, nfnl.OwnTable)
	if err != nil || !exists {
		return table{}, err
	}
	t, err := b.listAs(ctx, f, "table "+string(f)+" "+nfnl.OwnTable)
	if errors.Is(err, errUnread) {
		t, err = b.listAs(ctx, f, "sets "+string(f), "maps "+string(f))
	}
	if errors.Is(err, errUnread) {
		return table{exists: true, unread: true}, nil
	}
	// None of ours has flags: dormant, it would filter nothing.
	t.sets = t.sets && is.Flags == 0
	return t, err
}

// errUnread marks listings that nft cannot make, or not as JSON.
var errUnread = errors.New("unreadable")

// listAs reads a table by listings of it, each with what nft calls them.
func (b *Driver) listAs(ctx context.Context, f knftables.Family, listings ...string) (table, error) {
	var texts [][]byte
	for _, l := range listings {
		text, err := program.Run(ctx, "", b.path, append([]string{"--json", "list"}, strings.Fields(l)...)...)
		if err != nil && strings.Contains(err.Error(), "No such file or directory") {
			return table{}, nil
		}
		if program.Crashed(err) {
			err = fmt.Errorf("%w: %w", errUnread, err)
		}
		if err != nil {
			return table{}, fmt.Errorf("list table %s %s: %w", f, nfnl.OwnTable, err)
		}
		texts = append(texts, text)
	}
	t, err := parseTable(f, texts...)
	if err != nil {
		err = fmt.Errorf("%w: %w", errUnread, err)
	}
	return t, err
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
		if o, ok := b.openings.Whole(k); ok {
			set.Add(o)
		}
	}
	return set
}

func (b *Driver) Held() netstate.Set {
	b.mu.Lock()
	defer b.mu.Unlock()
	set := netstate.Set{}
	for _, e := range b.memory.entries {
		set.Add(e.object)
	}
	for k := range b.openings.Rules {
		if o, ok := foreign.AcceptNamed(k.String()); ok {
			set.Add(o)
		}
	}
	return set
}

func (b *Driver) Intact() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.memory.intact()
}

func (b *Driver) Apply(ctx context.Context, steps []plan.Step) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := book.CheckSteps(steps, book.Check); err != nil {
		return err
	}
	if b.stale {
		if err := b.load(ctx); err != nil {
			return err
		}
	}
	opened, steps := foreign.ApartAccepts(steps)
	changes, contradicted, err := b.memory.apply(steps)
	if err == nil {
		err = b.write(ctx, b.memory.script(changes))
	}
	if err == nil {
		err = b.openings.Open(ctx, opened)
	}
	if err != nil {
		b.stale = true
		return fmt.Errorf("apply %d firewall steps: %w", len(steps), err)
	}
	b.memory.committed()
	b.pending = append(b.pending, contradicted...)
	return b.flush()
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
	// What cannot be listed goes as well, but for its connections.
	unlisted := b.load(ctx)
	if unlisted != nil {
		b.memory = newMemory(b.opts.Source)
		if err := b.loadForward(ctx); err != nil {
			return err
		}
	}
	if err := b.openings.CloseAll(ctx); err != nil {
		b.stale = true
		return err
	}
	var gone []unit
	for _, f := range families {
		if _, exists, err := nfnl.FindTable(f, nfnl.OwnTable); err != nil {
			return err
		} else if exists {
			gone = append(gone, deleteTable(f))
		}
	}
	for _, e := range objects(b.memory.holds, b.memory.holds) {
		if p, ok := e.object.(netstate.Publish); ok {
			b.pending = append(b.pending, conntrack.Flow{Old: p, Lost: p.Targets})
		}
	}
	b.stale = true
	if err := b.write(ctx, gone); err != nil {
		return fmt.Errorf("remove tables %s: %w", nfnl.OwnTable, err)
	}
	b.memory, b.stale = newMemory(b.opts.Source), false
	return b.flush()
}

// Retire removes all of our source and leaves connections alone.
func (b *Driver) Retire(ctx context.Context) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.load(ctx); err != nil {
		return err
	}
	if err := b.openings.CloseOwn(ctx); err != nil {
		b.stale = true
		return err
	}
	var steps []plan.Step
	for k := range b.memory.entries {
		steps = append(steps, plan.Step{Op: plan.Delete, Key: k})
	}
	changes, _, err := b.memory.apply(steps)
	if err == nil {
		err = b.write(ctx, b.memory.script(changes))
	}
	if err != nil {
		b.stale = true
		return fmt.Errorf("remove tables %s: %w", nfnl.OwnTable, err)
	}
	b.memory.committed()
	return nil
}

// maxLines bounds a transaction: in a user namespace about 2,200 element lines
// are EMSGSIZE, since SO_SNDBUFFORCE is not for everybody there. By netlink an
// element takes up to 140 bytes of net.core.wmem_default, usually 208 KiB.
const maxLines = 1000

// batches are the units in as few transactions as their number allows.
func batches(units []unit) [][]statement {
	var out [][]statement
	for len(units) > 0 {
		n, lines := 0, 0
		for n < len(units) && (n == 0 || lines+len(units[n]) <= maxLines) {
			lines += len(units[n])
			n++
		}
		out, units = append(out, slices.Concat(units[:n]...)), units[n:]
	}
	return out
}

func (b *Driver) write(ctx context.Context, units []unit) error {
	for _, statements := range batches(units) {
		if err := b.gens.Own(func() error { return b.run(ctx, statements) }); err != nil {
			return err
		}
		b.count.Add(1)
		b.opts.Step()
	}
	return nil
}

func (b *Driver) flush() error { return b.pending.Settle(b.memory.standing, b.opts.Step) }

func (b *Driver) Watch(ctx context.Context, fn func()) error {
	foreign.WatchLegacy(ctx, fn)
	look := func(kind uint16, body []byte) (bool, bool) {
		touched, _ := Ours(kind, body)
		touched = touched || foreign.AboutAccepts(kind, body)
		return touched, !touched && b.forwards.Matters(kind, body)
	}
	return nfnl.Watch(ctx, &b.gens, nfnl.Watched{Look: look, Changed: b.forwards.Changed}, fn)
}

// Ours looks for events about the tables of nftables that are ours.
func Ours(kind uint16, body []byte) (touched, forward bool) {
	family, table, _ := nfnl.TableOf(kind, body)
	return table == nfnl.OwnTable && (family == unix.NFPROTO_INET || family == unix.NFPROTO_BRIDGE), false
}

// loadForward reads who drops forwarded packets, and what is open there.
func (b *Driver) loadForward(ctx context.Context) error {
	is, chains, err := b.forwards.List(ctx, b.path, func(c nfnl.Chain) bool {
		return foreign.IsIPTables(c) && foreign.IptablesNFT(foreign.ForwardFamilies[c.Family][0], "-restore") != ""
	})
	if err != nil {
		return err
	}
	legacy, err := foreign.LegacyBlockers(ctx)
	if err != nil {
		return err
	}
	b.blockers = append(is.Blockers, legacy...)
	b.beside = slices.ContainsFunc(chains, func(c nfnl.Chain) bool { return strings.HasPrefix(c.Name, iptsave.Prefix) })
	return b.openings.Load(ctx, chains, is.Entered)
}

// Inputs are the scripts of nft, and the restores of iptables-nft for openings,
// that make objects in a firewall without any of ours.
func Inputs(source netstate.Source, steps []plan.Step) ([]program.Input, error) {
	if err := book.CheckSteps(steps, book.Check); err != nil {
		return nil, err
	}
	opened, steps := foreign.ApartAccepts(steps)
	m := newMemory(source)
	changes, _, err := m.apply(steps)
	if err != nil {
		return nil, err
	}
	var out []program.Input
	for _, statements := range batches(m.script(changes)) {
		text, err := scriptOf(statements)
		if err != nil {
			return nil, err
		}
		out = append(out, program.Input{Program: "nft", Text: text})
	}
	return append(out, foreign.AcceptInputs(source, opened)...), nil
}

// restore carries out commands in the table filter of iptables-nft, all or none.
func (b *Driver) restore(ctx context.Context, r iptsave.Restore) error {
	if err := b.gens.Own(func() error { return r.Run(ctx, iptsave.NFT) }); err != nil {
		return err
	}
	b.count.Add(1)
	b.opts.Step()
	return nil
}

// tryNFT asks the kernel whether it would take a table, without making it.
func tryNFT(ctx context.Context, nft string) error {
	version, err := program.Run(ctx, "", nft, "--version")
	if err != nil {
		return fmt.Errorf("ask nft for its version: %w", err)
	}
	if text := strings.TrimSpace(string(version)); strings.HasPrefix(text, "nftables v0.") || strings.HasPrefix(text, "nftables v1.0.0 ") {
		return fmt.Errorf("nft is too old: %s: install 1.0.1 or newer", text)
	}
	if _, err := program.Run(ctx, "", nft, "--check", "add table inet "+nfnl.OwnTable); err != nil {
		return fmt.Errorf("try to add a table: %w", err)
	}
	return nil
}

// Beside reports whether chains of ours may stand in iptables beside the tables here.
func (b *Driver) Beside() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.beside
}
