// Package firewall keeps the firewall's share of what Patchbay wants: published
// ports, masquerading, isolation and anti-spoofing. It promises that
//
//   - what it holds is exactly the netstate objects that were applied, whatever
//     order they came in, and that applying the held objects writes nothing;
//   - every object is marked with its source, and objects of another source are
//     neither reported nor changed;
//   - a change is one transaction: no packet sees half of it (where it exceeds a
//     transaction, closing rules and filters come first);
//   - nothing of it is left once the last object is removed.
//
// It works from memory between two readings, since listing a big table takes the kernel
// seconds. What it cannot tell is an error for each key. Nothing in it logs.
package firewall

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"github.com/patchbay-dev/patchbay/nodeagent/firewall/book"
	"github.com/patchbay-dev/patchbay/nodeagent/firewall/conntrack"
	"github.com/patchbay-dev/patchbay/nodeagent/firewall/iptables"
	"github.com/patchbay-dev/patchbay/nodeagent/firewall/iptsave"
	"github.com/patchbay-dev/patchbay/nodeagent/firewall/nftables"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
	"github.com/patchbay-dev/patchbay/nodeagent/plan"
)

// Options configure a Firewall.
type Options struct {
	// Source marks what the Firewall writes and selects what it reports.
	Source netstate.Source
	// Step, where set, is called after every committed transaction and every
	// flush of conntrack entries.
	Step func()
	// Context, where set, ends the programs that run.
	Context context.Context
	// Patience is how long a caller waits for a program, once the firewall was read; zero
	// is until the program ends.
	Patience time.Duration
}

// The kinds that New knows.
const (
	KindAuto     = "auto"
	KindNFTables = nftables.Kind
	KindIPTables = iptables.Kind
)

// dialect is one language of the kernel's firewall. Its methods but for Watch are called
// one at a time.
type dialect interface {
	Name() string
	AntiSpoof() bool
	// Check refuses an object that the dialect cannot hold.
	Check(netstate.Object) error
	// Read learns what the kernel holds. Until it succeeds after an error of Write, what
	// Object and Objects tell may be wrong.
	Read(context.Context) error
	// ReadBlockers learns who else drops forwarded packets, after Read.
	ReadBlockers(context.Context) error
	// Object returns the object of a key, and whether it is held complete and exactly.
	Object(netstate.Key) (o netstate.Object, whole bool)
	// Objects are the objects of the source, complete or not.
	Objects() []netstate.Object
	// Standing finds publishes among them.
	Standing() conntrack.Standing
	Intact() bool
	Blockers() []netstate.Blocker
	// Write carries out steps, mends what Read found wrong, and returns the connections
	// that then contradict the publishes.
	Write(context.Context, []plan.Step) (conntrack.Flows, error)
	// Clean reads, removes all our objects, whatever its source, and returns it.
	Clean(context.Context) ([]netstate.Object, error)
	Watch(context.Context, func()) error
}

// Firewall is the driver of one dialect. Its methods but for Transactions are for one
// goroutine at a time.
type Firewall struct {
	dialect
	opts  Options
	end   context.CancelFunc
	count atomic.Uint64
	calls

	// stale knowledge must be read before it is used: at the start and after an error.
	// unread is the error of the last reading.
	stale  bool
	unread error
	// pending connections are deleted by the next Apply or Forget; gone are addresses to
	// Forget, and blockers those as of the last call.
	pending  conntrack.Flows
	gone     []netip.Addr
	blockers []netstate.Blocker
}

// open makes a Firewall of a dialect.
func open[D dialect](o Options, make func(book.Options) (D, error)) (*Firewall, error) {
	if o.Step == nil {
		o.Step = func() {}
	}
	if o.Context == nil {
		o.Context = context.Background()
	}
	f := &Firewall{opts: o, stale: true}
	f.opts.Context, f.end = context.WithCancel(o.Context)
	d, err := make(book.Options{Source: o.Source, Step: o.Step, Committed: func() {
		f.count.Add(1)
		o.Step()
	}})
	if err != nil {
		f.end()
		return nil, err
	}
	f.dialect, f.program = d, d.Name()
	if f.program == KindNFTables {
		f.program = "nft"
	}
	return f, nil
}

// openIPTables makes a Firewall of a variant of iptables.
func openIPTables(v iptsave.Variant, o Options) (*Firewall, error) {
	return open(o, func(opts book.Options) (*iptables.Driver, error) { return iptables.New(v, opts) })
}

// New returns a Firewall of the given kind; auto takes the best one that the
// node has. It fails where the node lacks what the backend needs, and changes
// nothing.
func New(kind string, opts Options) (*Firewall, error) {
	if opts.Source != netstate.SourceCluster && opts.Source != netstate.SourceLocal {
		return nil, fmt.Errorf("make NAT backend %s: unknown source %q", kind, opts.Source)
	}
	var f *Firewall
	var err error
	switch kind {
	case KindAuto:
		f, err = choose(opts)
	case KindNFTables:
		f, err = open(opts, nftables.New)
	case KindIPTables:
		if f, err = openIPTables("", opts); err != nil {
			err = fmt.Errorf("make NAT backend %s: %w", kind, err)
		}
	default:
		err = fmt.Errorf("make NAT backend %q: unknown kind; use %s, %s or %s", kind, KindAuto, KindNFTables, KindIPTables)
	}
	if err != nil {
		return nil, err
	}
	return f, nil
}

// Transactions is the number of transactions committed so far.
func (f *Firewall) Transactions() uint64 { return f.count.Load() }

// Watch calls fn whenever another program changed our part of the firewall, or a chain that
// may be a Blocker, and whenever else the firewall is to be looked at again: never for a
// transaction of this Firewall, except with legacy iptables. It returns once it is subscribed. fn must not block.
func (f *Firewall) Watch(ctx context.Context, fn func()) error {
	f.mu.Lock()
	f.tell = fn
	f.mu.Unlock()
	return f.dialect.Watch(ctx, f.changed)
}

// Observe returns the objects of the firewall's keys that the kernel holds, as of the last
// reading and Apply; an object that it does not hold complete and exactly is a
// netstate.Partial. It reads the firewall where that is not known. An object with a key in
// the error map is unknown: neither present nor absent.
func (f *Firewall) Observe(keys []netstate.Key) (netstate.Set, map[netstate.Key]error) {
	set, unknown := netstate.Set{}, map[netstate.Key]error{}
	err := f.know()
	for _, k := range keys {
		switch {
		case !k.Kind.Firewall():
		case err != nil:
			unknown[k] = fmt.Errorf("read the firewall: %w", err)
		case k.Kind == netstate.KindRuleset:
			if f.Intact() {
				set.Add(netstate.Ruleset{})
			}
		default:
			if o, whole := f.Object(k); whole {
				set[k] = o
			} else if o != nil {
				set[k] = netstate.Partial{Object: o}
			}
		}
	}
	return set, unknown
}

// Inventory reads the firewall and lists all objects of the source, complete or not. The
// firewall does not say their owners.
func (f *Firewall) Inventory() ([]netstate.Held, error) {
	err := f.busy()
	if err == nil {
		err = f.load()
	}
	if err != nil {
		return nil, err
	}
	var held []netstate.Held
	for _, o := range f.Objects() {
		held = append(held, netstate.Held{Object: o})
	}
	return held, nil
}

// Apply carries out the steps, all of firewall kinds, in one transaction (several where
// there are more than 1,000 changes), mends the ruleset, and then deletes the conntrack
// entries that contradict the publishes it removed, changed or added. It writes nothing if
// nothing changes, and may be repeated. An error is that of all steps.
func (f *Firewall) Apply(steps []plan.Step) []error {
	errs := make([]error, len(steps))
	objects := slices.DeleteFunc(slices.Clone(steps), func(s plan.Step) bool { return s.Key.Kind == netstate.KindRuleset })
	if err := f.apply(objects); err != nil {
		f.failed()
		for i := range errs {
			errs[i] = err
		}
		return errs
	}
	f.succeeded()
	return errs
}

func (f *Firewall) apply(steps []plan.Step) error {
	if err := book.CheckSteps(steps, f.Check); err != nil {
		return err
	}
	return f.run(false, func() error {
		if f.stale {
			if err := f.read(); err != nil {
				return err
			}
		}
		contradicted, err := f.write(steps)
		if err != nil {
			return fmt.Errorf("apply %d firewall steps: %w", len(steps), err)
		}
		f.pending = append(f.pending, contradicted...)
		return f.flush()
	})
}

// Forget deletes the conntrack entries from and to addresses whose attachments have gone,
// so that no other attachment inherits them. An error is retried by the next Apply or
// Forget; while a program hangs, the addresses wait for its end.
func (f *Firewall) Forget(gone []netip.Addr) error {
	if f.gone = append(f.gone, gone...); len(f.gone) == 0 || f.busy() != nil {
		return nil
	}
	f.pending, f.gone = append(f.pending, conntrack.Gone(f.gone)...), nil
	return f.flush()
}

// Blockers are the chains of other programs that, as of the last reading, drop forwarded
// packets.
func (f *Firewall) Blockers() []netstate.Blocker {
	if f.busy() == nil {
		f.blockers = f.dialect.Blockers()
	}
	return f.blockers
}

// Clean removes all our objects from the firewall, whatever its source.
func (f *Firewall) Clean() error {
	f.stale = true
	gone, err := f.dialect.Clean(f.opts.Context)
	if err != nil {
		return err
	}
	f.stale = false
	for _, o := range gone {
		f.pending = f.pending.Add(o, nil)
	}
	return f.flush()
}

// Close ends the programs that run.
func (f *Firewall) Close() {
	f.end()
	f.finish()
}

// know reads the firewall where it is not known what it holds: what a change that failed
// was to bring may be there or not.
func (f *Firewall) know() error {
	if err := f.busy(); err != nil || !f.stale {
		return err
	}
	return f.load()
}

// load reads the firewall, but for a reading of whose end the caller has yet to hear. After
// a reading that failed it waits for the end of the pause.
func (f *Firewall) load() error {
	if f.stale && f.unread != nil && f.pauses() {
		return f.unread
	}
	f.unread = nil
	if !f.hasRead() {
		f.unread = f.run(true, f.read)
	}
	if f.unread == nil {
		f.calm(f.opts.Patience)
		f.unread = f.Forget(nil)
	}
	if f.unread != nil {
		f.failed()
	}
	return f.unread
}

func (f *Firewall) read() error {
	f.stale = true
	if err := f.Read(f.opts.Context); err != nil {
		return err
	}
	f.stale = false
	return f.ReadBlockers(f.opts.Context)
}

func (f *Firewall) write(steps []plan.Step) (conntrack.Flows, error) {
	contradicted, err := f.Write(f.opts.Context, steps)
	f.stale = err != nil
	return contradicted, err
}

// retire removes the objects of the source and leaves connections alone.
func (f *Firewall) retire() error {
	if err := f.read(); err != nil {
		return err
	}
	var steps []plan.Step
	for _, o := range f.Objects() {
		steps = append(steps, plan.Step{Op: plan.Delete, Key: o.Key()})
	}
	if _, err := f.write(steps); err != nil {
		return fmt.Errorf("remove what %s holds of source %s: %w", f.Name(), f.opts.Source, err)
	}
	return nil
}

func (f *Firewall) flush() error { return f.pending.Settle(f.Standing, f.opts.Step) }
