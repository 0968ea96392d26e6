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
// It works from memory between two Loads, since listing a big table takes the
// kernel seconds. Nothing in it logs.
package firewall

import (
	"context"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"

	"github.com/patchbay-dev/patchbay/nodeagent/firewall/book"
	"github.com/patchbay-dev/patchbay/nodeagent/firewall/conntrack"
	"github.com/patchbay-dev/patchbay/nodeagent/firewall/iptables"
	"github.com/patchbay-dev/patchbay/nodeagent/firewall/iptsave"
	"github.com/patchbay-dev/patchbay/nodeagent/firewall/nftables"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
	"github.com/patchbay-dev/patchbay/nodeagent/plan"
)

// Backend programs one kind of firewall. Its methods may be called
// concurrently; Load, Apply and Clean exclude each other.
type Backend interface {
	// Name is the kind of the backend, such as nftables.
	Name() string
	// AntiSpoof reports whether it can hold PortFilters and PortAddresses; where
	// it cannot, Apply refuses them.
	AntiSpoof() bool
	// Load reads what the kernel holds in our name: at start, after an error and
	// after another program changed our part of the firewall. Everything else
	// works from memory.
	Load(ctx context.Context) error
	// Known reports whether the answers of the other methods are what the kernel holds.
	// They are not at the start, and after an error of Apply or Load, until a Load
	// succeeds: then nothing may be built on them.
	Known() bool
	// Observe returns the objects of the given keys that the kernel holds complete and
	// exactly, as of the last Load and Apply.
	Observe(keys []netstate.Key) netstate.Set
	// Held returns all objects of our source that the kernel holds, complete or
	// not, as of the last Load and Apply.
	Held() netstate.Set
	// Apply carries out the steps, all of firewall kinds, in one transaction
	// (several where there are more than 1,000 changes), mends whatever Load
	// found wrong, and then deletes the conntrack entries that contradict the
	// publishes it removed, changed or added. It writes nothing if nothing
	// changes, and may be repeated. An error fails all steps; call Load then.
	Apply(ctx context.Context, steps []plan.Step) error
	// Forget deletes the conntrack entries from and to addresses whose attachments
	// have gone, so that no other attachment inherits them. An error is retried by the next
	// Apply or Forget.
	Forget(gone []netip.Addr) error
	// Blockers are the chains of other programs that, as of the last Load, drop forwarded
	// packets by policy.
	Blockers() []netstate.Blocker
	// Intact reports whether, as of the last Load and Apply, everything around
	// the objects is as it must be. If it is not, the next Apply mends it, even
	// without steps.
	Intact() bool
	// Clean removes all our objects from the firewall, whatever its source.
	Clean(ctx context.Context) error
	// Watch calls fn whenever another program changed our part of the firewall, or
	// a chain that may be a Blocker, never for a transaction of this Backend, until ctx
	// ends. It returns once it is subscribed. fn must not block.
	Watch(ctx context.Context, fn func()) error
	// Transactions is the number of transactions committed so far.
	Transactions() uint64
}

// Options configure a Firewall.
type Options struct {
	// Source marks what the Firewall writes and selects what it reports.
	Source netstate.Source
	// Step, where set, is called after every committed transaction and every
	// flush of conntrack entries.
	Step func()
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

// Firewall is the Backend of one dialect.
type Firewall struct {
	dialect
	opts  Options
	count atomic.Uint64

	mu sync.Mutex
	// stale knowledge must be read before anything is written: at the start and
	// after an error.
	stale bool
	// pending connections are deleted by the next Apply or Forget.
	pending conntrack.Flows
}

// open makes a Firewall of a dialect.
func open[D dialect](o Options, make func(book.Options) (D, error)) (*Firewall, error) {
	if o.Step == nil {
		o.Step = func() {}
	}
	f := &Firewall{opts: o, stale: true}
	d, err := make(book.Options{Source: o.Source, Step: o.Step, Committed: func() {
		f.count.Add(1)
		o.Step()
	}})
	if err != nil {
		return nil, err
	}
	f.dialect = d
	return f, nil
}

// openIPTables makes a Firewall of a variant of iptables.
func openIPTables(v iptsave.Variant, o Options) (*Firewall, error) {
	return open(o, func(opts book.Options) (*iptables.Driver, error) { return iptables.New(v, opts) })
}

// New returns a backend of the given kind; auto takes the best one that the
// node has. It fails where the node lacks what the backend needs, and changes
// nothing.
func New(kind string, opts Options) (Backend, error) {
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

// Load reads what the kernel holds in our name.
func (f *Firewall) Load(ctx context.Context) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.read(ctx)
}

func (f *Firewall) read(ctx context.Context) error {
	f.stale = true
	if err := f.Read(ctx); err != nil {
		return err
	}
	f.stale = false
	return f.ReadBlockers(ctx)
}

// Known reports whether the answers of the other methods are what the kernel holds.
func (f *Firewall) Known() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return !f.stale
}

// Observe returns the objects that the kernel holds complete and exactly.
func (f *Firewall) Observe(keys []netstate.Key) netstate.Set {
	f.mu.Lock()
	defer f.mu.Unlock()
	set := netstate.Set{}
	for _, k := range keys {
		if o, whole := f.Object(k); whole {
			set.Add(o)
		}
	}
	return set
}

// Held returns all objects of the source, complete or not.
func (f *Firewall) Held() netstate.Set {
	f.mu.Lock()
	defer f.mu.Unlock()
	return netstate.Set{}.Add(f.Objects()...)
}

// Blockers are the chains of other programs that drop forwarded packets.
func (f *Firewall) Blockers() []netstate.Blocker {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.dialect.Blockers()
}

// Intact reports whether everything around the objects is as it must be.
func (f *Firewall) Intact() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.dialect.Intact()
}

// Apply carries out the steps, and then deletes the connections that contradict them.
func (f *Firewall) Apply(ctx context.Context, steps []plan.Step) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := book.CheckSteps(steps, f.Check); err != nil {
		return err
	}
	if f.stale {
		if err := f.read(ctx); err != nil {
			return err
		}
	}
	contradicted, err := f.Write(ctx, steps)
	if err != nil {
		f.stale = true
		return fmt.Errorf("apply %d firewall steps: %w", len(steps), err)
	}
	f.pending = append(f.pending, contradicted...)
	return f.flush()
}

// Forget deletes the connections from and to addresses that have gone.
func (f *Firewall) Forget(gone []netip.Addr) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.pending = append(f.pending, conntrack.Gone(gone)...)
	return f.flush()
}

// Clean removes all our objects from the firewall, whatever its source.
func (f *Firewall) Clean(ctx context.Context) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.stale = true
	gone, err := f.dialect.Clean(ctx)
	if err != nil {
		return err
	}
	f.stale = false
	for _, o := range gone {
		f.pending = f.pending.Add(o, nil)
	}
	return f.flush()
}

// Retire removes the objects of the source and leaves connections alone.
func (f *Firewall) Retire(ctx context.Context) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.read(ctx); err != nil {
		return err
	}
	var steps []plan.Step
	for _, o := range f.Objects() {
		steps = append(steps, plan.Step{Op: plan.Delete, Key: o.Key()})
	}
	if _, err := f.Write(ctx, steps); err != nil {
		f.stale = true
		return fmt.Errorf("remove what %s holds of source %s: %w", f.Name(), f.opts.Source, err)
	}
	return nil
}

func (f *Firewall) flush() error { return f.pending.Settle(f.Standing, f.opts.Step) }
