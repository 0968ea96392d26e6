package nat

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

	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
	"github.com/patchbay-dev/patchbay/nodeagent/plan"
	"sigs.k8s.io/knftables"
)

// nftables is the Backend that keeps the tables inet patchbay and bridge
// patchbay. A table exists while it has elements.
type nftables struct {
	opts Options
	path string
	// commit makes edits without nft, all or none.
	commit func([]edit) error
	gens   generations
	count  atomic.Uint64

	mu sync.Mutex
	// stale memory must be loaded before anything is written: at the start and
	// after an error.
	stale  bool
	memory memory
	// blockers as of the last Load; beside says that iptables has chains of ours.
	blockers []netstate.Blocker
	beside   bool
	openings openings
	forwards forwarders
	// pending conntrack entries are deleted by the next Apply.
	pending flows
}

func newNFTables(opts Options) (Backend, error) {
	path, err := exec.LookPath("nft")
	if err != nil {
		return nil, fmt.Errorf("find nft: %w: install the package nftables", err)
	}
	if err := tryNFT(context.Background(), path); err != nil {
		return nil, fmt.Errorf("make NAT backend %s: %w", KindNFTables, err)
	}
	return &nftables{opts: opts, path: path, commit: commit, stale: true, memory: newMemory(opts.Source), openings: newOpenings(opts.Source)}, nil
}

func (b *nftables) Name() string { return KindNFTables }

func (b *nftables) AntiSpoof() bool { return true }

func (b *nftables) Transactions() uint64 { return b.count.Load() }

func (b *nftables) Load(ctx context.Context) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.stale = true
	return b.load(ctx)
}

// maxListings bounds how often the tables are listed until nothing changed
// in between; each listing alone is consistent anyway.
const maxListings = 5

func (b *nftables) load(ctx context.Context) error {
	m := newMemory(b.opts.Source)
	for range maxListings {
		before, err := Generation()
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
		if after, err := Generation(); err != nil || after == before {
			break
		}
	}
	m.understand()
	b.memory, b.stale = m, false
	return b.loadForward(ctx)
}

func (b *nftables) Blockers() []netstate.Blocker {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.blockers
}

// list reads one table; one that does not exist is empty, and one that cannot be read
// is to be made anew. knftables would need an nft run for every set, and does not list
// their definitions.
func (b *nftables) list(ctx context.Context, f knftables.Family) (table, error) {
	is, exists, err := findTable(f, tableName)
	if err != nil || !exists {
		return table{}, err
	}
	t, err := b.listAs(ctx, f, "table "+string(f)+" "+tableName)
	if errors.Is(err, errUnread) {
		t, err = b.listAs(ctx, f, "sets "+string(f), "maps "+string(f))
	}
	if errors.Is(err, errUnread) {
		return table{exists: true, unread: true}, nil
	}
	// None of ours has flags: dormant, it would filter nothing.
	t.sets = t.sets && is.flags == 0
	return t, err
}

// errUnread marks listings that nft cannot make, or not as JSON.
var errUnread = errors.New("unreadable")

// listAs reads a table by listings of it, each with what nft calls them.
func (b *nftables) listAs(ctx context.Context, f knftables.Family, listings ...string) (table, error) {
	var texts [][]byte
	for _, l := range listings {
		text, err := output(ctx, "", b.path, append([]string{"--json", "list"}, strings.Fields(l)...)...)
		if err != nil && strings.Contains(err.Error(), "No such file or directory") {
			return table{}, nil
		}
		if crashed(err) {
			err = fmt.Errorf("%w: %w", errUnread, err)
		}
		if err != nil {
			return table{}, fmt.Errorf("list table %s %s: %w", f, tableName, err)
		}
		texts = append(texts, text)
	}
	t, err := parseTable(f, texts...)
	if err != nil {
		err = fmt.Errorf("%w: %w", errUnread, err)
	}
	return t, err
}

func (b *nftables) Known() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return !b.stale
}

func (b *nftables) Observe(keys []netstate.Key) netstate.Set {
	b.mu.Lock()
	defer b.mu.Unlock()
	set := netstate.Set{}
	for _, k := range keys {
		if o := b.memory.observe(k); o != nil {
			set.Add(o)
		}
		if o, ok := b.openings.whole(k); ok {
			set.Add(o)
		}
	}
	return set
}

func (b *nftables) Held() netstate.Set {
	b.mu.Lock()
	defer b.mu.Unlock()
	set := netstate.Set{}
	for _, e := range b.memory.entries {
		set.Add(e.object)
	}
	for k := range b.openings.rules {
		if o, ok := openingNamed(k.String()); ok {
			set.Add(o)
		}
	}
	return set
}

func (b *nftables) Intact() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.memory.intact()
}

func (b *nftables) Apply(ctx context.Context, steps []plan.Step) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := checkSteps(steps, validate); err != nil {
		return err
	}
	if b.stale {
		if err := b.load(ctx); err != nil {
			return err
		}
	}
	opened, steps := apartOpenings(steps)
	changes, contradicted, err := b.memory.apply(steps)
	if err == nil {
		err = b.write(ctx, b.memory.script(changes))
	}
	if err == nil {
		err = b.open(ctx, opened)
	}
	if err != nil {
		b.stale = true
		return fmt.Errorf("apply %d firewall steps: %w", len(steps), err)
	}
	b.memory.committed()
	b.pending = append(b.pending, contradicted...)
	return b.flush()
}

func checkSteps(steps []plan.Step, validate func(netstate.Object) error) error {
	var errs []error
	for _, s := range steps {
		if !s.Key.Kind.Firewall() {
			errs = append(errs, fmt.Errorf("%s %s: not a firewall object", s.Op, s.Key))
			continue
		}
		if s.Op == plan.Delete {
			continue
		}
		if s.New == nil || s.New.Key() != s.Key {
			errs = append(errs, fmt.Errorf("%s %s: the step names another object", s.Op, s.Key))
		} else if err := validate(s.New); err != nil {
			errs = append(errs, fmt.Errorf("%s %s: %w", s.Op, s.Key, err))
		}
	}
	return errors.Join(errs...)
}

func (b *nftables) Forget(gone []netip.Addr) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.pending = append(b.pending, addresses(gone)...)
	return b.flush()
}

func (b *nftables) Clean(ctx context.Context) error {
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
	if err := b.closeAll(ctx); err != nil {
		b.stale = true
		return err
	}
	var gone []unit
	for _, f := range families {
		if _, exists, err := findTable(f, tableName); err != nil {
			return err
		} else if exists {
			gone = append(gone, deleteTable(f))
		}
	}
	for _, e := range objects(b.memory.holds, b.memory.holds) {
		if p, ok := e.object.(netstate.Publish); ok {
			b.pending = append(b.pending, flow{old: p, lost: p.Targets})
		}
	}
	b.stale = true
	if err := b.write(ctx, gone); err != nil {
		return fmt.Errorf("remove tables %s: %w", tableName, err)
	}
	b.memory, b.stale = newMemory(b.opts.Source), false
	return b.flush()
}

// retire removes all of our source and leaves connections alone.
func (b *nftables) retire(ctx context.Context) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.load(ctx); err != nil {
		return err
	}
	if err := b.closeOwn(ctx); err != nil {
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
		return fmt.Errorf("remove tables %s: %w", tableName, err)
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

func (b *nftables) write(ctx context.Context, units []unit) error {
	for _, statements := range batches(units) {
		if err := b.gens.own(func() error { return b.run(ctx, statements) }); err != nil {
			return err
		}
		b.count.Add(1)
		b.opts.Step()
	}
	return nil
}

func (b *nftables) flush() error { return b.pending.settle(b.memory.standing, b.opts.Step) }
