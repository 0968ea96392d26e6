// Package nftables is the dialect of the firewall that keeps objects as elements of sets,
// in the tables inet patchbay and bridge patchbay.
package nftables

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strings"

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

// Kind is the name of the dialect.
const Kind = "nftables"

// Driver keeps the tables inet patchbay and bridge
// patchbay. A table exists while it has elements.
type Driver struct {
	opts book.Options
	path string
	// commit makes edits without nft, all or none.
	commit func([]edit) error
	// Refused, where set, is told what the kernel refused by netlink, which nft tries then.
	Refused func(error)
	gens    nfnl.Generations

	memory memory
	// blockers as of the last Read; beside says that iptables has our chains.
	blockers []netstate.Blocker
	beside   bool
	openings foreign.Accepts
	forwards foreign.Forwarders
}

// New fails where the node lacks nft or the kernel refuses a table; it changes nothing.
func New(opts book.Options) (*Driver, error) {
	path, err := exec.LookPath("nft")
	if err != nil {
		return nil, fmt.Errorf("find nft: %w: install the package nftables", err)
	}
	if err := tryNFT(context.Background(), path); err != nil {
		return nil, fmt.Errorf("make NAT backend %s: %w", Kind, err)
	}
	b := &Driver{opts: opts, path: path, commit: commit, memory: newMemory(opts.Source, nil)}
	b.openings = foreign.NewAccepts(opts.Source, b.restore)
	return b, nil
}

func (b *Driver) Name() string { return Kind }

// AntiSpoof reports true: bridge ports have filters.
func (b *Driver) AntiSpoof() bool { return true }

// Check refuses an object that has no place in the tables.
func (b *Driver) Check(o netstate.Object) error { return book.Check(o) }

// Read learns what the tables hold. Each listing is consistent in itself; they are repeated
// until nothing changed between them.
func (b *Driver) Read(ctx context.Context) error {
	tables := map[knftables.Family]table{}
	for range nfnl.MaxTries {
		before, err := nfnl.Generation()
		if err != nil {
			return err
		}
		for _, f := range families {
			t, err := b.list(ctx, f)
			if err != nil {
				return err
			}
			if t.unread {
				t.elements = b.memory.elementsOf(f)
			}
			tables[f] = t
		}
		if after, err := nfnl.Generation(); err != nil || after == before {
			break
		}
	}
	b.memory = newMemory(b.opts.Source, tables)
	return nil
}

// Blockers are the chains of other programs that drop forwarded packets, as of the last Read.
func (b *Driver) Blockers() []netstate.Blocker { return b.blockers }

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
	// None of our tables has flags: dormant, it would filter nothing.
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

// Intact reports whether the tables have their sets and rules, and no other element.
func (b *Driver) Intact() bool { return b.memory.intact() }

// Object returns the object of a key, and whether the tables hold it complete and exactly.
func (b *Driver) Object(k netstate.Key) (netstate.Object, bool) {
	if k.Kind == netstate.KindOpening {
		return b.openings.Object(k)
	}
	return b.memory.object(k)
}

// Objects are the objects of the source, complete or not.
func (b *Driver) Objects() []netstate.Object {
	return append(slices.Collect(b.memory.Objects()), b.openings.Objects()...)
}

// Standing finds publishes as conntrack asks for them.
func (b *Driver) Standing() conntrack.Standing { return b.memory.Standing() }

// Write carries out steps and returns the connections that then contradict them.
func (b *Driver) Write(ctx context.Context, steps []plan.Step) (conntrack.Flows, error) {
	opened, steps := foreign.ApartAccepts(steps)
	changes, contradicted, err := b.memory.apply(steps)
	if err == nil {
		err = b.write(ctx, b.memory.script(changes))
	}
	if err == nil {
		err = b.openings.Open(ctx, opened)
	}
	if err == nil {
		b.memory.committed()
	}
	return contradicted, err
}

// Clean removes all our objects, whatever its source, and returns the objects. What
// cannot be listed goes as well, but is not returned.
func (b *Driver) Clean(ctx context.Context) ([]netstate.Object, error) {
	if err := b.Read(ctx); err != nil {
		b.memory = newMemory(b.opts.Source, nil)
	}
	if err := b.ReadBlockers(ctx); err != nil {
		return nil, err
	}
	if err := b.openings.CloseAll(ctx); err != nil {
		return nil, err
	}
	var tables []unit
	for _, f := range families {
		if _, exists, err := nfnl.FindTable(f, nfnl.OwnTable); err != nil {
			return nil, err
		} else if exists {
			tables = append(tables, deleteTable(f))
		}
	}
	gone := b.memory.All()
	if err := b.write(ctx, tables); err != nil {
		return nil, fmt.Errorf("remove tables %s: %w", nfnl.OwnTable, err)
	}
	b.memory = newMemory(b.opts.Source, nil)
	return gone, nil
}

// maxLines bounds a transaction: in a user namespace about 2,200 element lines
// are EMSGSIZE, since SO_SNDBUFFORCE is refused there. By netlink an
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
		b.opts.Committed()
	}
	return nil
}

func (b *Driver) Watch(ctx context.Context, fn func()) error {
	foreign.WatchLegacy(ctx, fn)
	look := func(kind uint16, body []byte) (bool, bool) {
		touched, _ := Ours(kind, body)
		touched = touched || foreign.AboutAccepts(kind, body)
		return touched, !touched && b.forwards.Matters(kind, body)
	}
	return nfnl.Watch(ctx, &b.gens, nfnl.Watched{Look: look, Changed: b.forwards.Changed}, fn)
}

// Ours reports events about the tables of nftables that bear our name.
func Ours(kind uint16, body []byte) (touched, forward bool) {
	family, table, _ := nfnl.TableOf(kind, body)
	return table == nfnl.OwnTable && (family == unix.NFPROTO_INET || family == unix.NFPROTO_BRIDGE), false
}

// ReadBlockers learns who drops forwarded packets, and which openings are there.
func (b *Driver) ReadBlockers(ctx context.Context) error {
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
// that make objects in a firewall without any of our objects.
func Inputs(source netstate.Source, steps []plan.Step) ([]program.Input, error) {
	if err := book.CheckSteps(steps, book.Check); err != nil {
		return nil, err
	}
	opened, steps := foreign.ApartAccepts(steps)
	m := newMemory(source, nil)
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
	b.forwards.Forget()
	if err := b.gens.Own(func() error { return r.Run(ctx, iptsave.NFT) }); err != nil {
		return err
	}
	b.opts.Committed()
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

// Beside reports whether our chains may stand in iptables beside the tables here.
func (b *Driver) Beside() bool {
	return b.beside
}
