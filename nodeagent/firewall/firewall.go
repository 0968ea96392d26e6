// Package firewall keeps the firewall's share of what Patchbay wants: published
// ports, masquerading, isolation and anti-spoofing. It promises that
//
//   - what it holds is exactly the netstate objects that were applied, whatever
//     order they came in, and that applying what is held writes nothing;
//   - every object is marked with its source, and those of another source are
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

	"github.com/patchbay-dev/patchbay/nodeagent/firewall/book"
	"github.com/patchbay-dev/patchbay/nodeagent/firewall/iptables"
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
	// Load reads what the kernel holds of ours: at start, after an error and
	// after somebody else changed our part of the firewall. Everything else
	// works from memory.
	Load(ctx context.Context) error
	// Known reports whether what the other methods tell is what the kernel holds.
	// It is not at the start, and after an error of Apply or of reading what is ours,
	// until that was read: then nothing may be built on what they tell.
	Known() bool
	// Observe returns those of the objects with the given keys that the kernel
	// holds complete and exactly, as of the last Load and Apply.
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
	// have gone, so that nobody inherits them. An error is retried by the next
	// Apply or Forget.
	Forget(gone []netip.Addr) error
	// Blockers are the chains of others that, as of the last Load, drop forwarded
	// packets by policy.
	Blockers() []netstate.Blocker
	// Intact reports whether, as of the last Load and Apply, everything around
	// the objects is as it must be. If it is not, the next Apply mends it, even
	// without steps.
	Intact() bool
	// Clean removes everything of ours from the firewall, whatever its source.
	Clean(ctx context.Context) error
	// Watch calls fn whenever somebody else changed our part of the firewall, or
	// what may be a Blocker, never for a transaction of this Backend, until ctx
	// ends. It returns once it is subscribed. fn must not block.
	Watch(ctx context.Context, fn func()) error
	// Transactions is the number of transactions committed so far.
	Transactions() uint64
}

// Options configure a Backend.
type Options = book.Options

// The kinds of backends that New knows.
const (
	KindAuto     = "auto"
	KindNFTables = nftables.Kind
	KindIPTables = iptables.Kind
)

// New returns a backend of the given kind; auto takes the best one that the
// node has. It fails where the node lacks what the backend needs, and changes
// nothing.
func New(kind string, opts book.Options) (Backend, error) {
	if opts.Source != netstate.SourceCluster && opts.Source != netstate.SourceLocal {
		return nil, fmt.Errorf("make NAT backend %s: unknown source %q", kind, opts.Source)
	}
	if opts.Step == nil {
		opts.Step = func() {}
	}
	switch kind {
	case KindAuto:
		return choose(opts)
	case KindNFTables:
		b, err := nftables.New(opts)
		if err != nil {
			return nil, err
		}
		return b, nil
	case KindIPTables:
		b, err := iptables.New("", opts)
		if err != nil {
			return nil, fmt.Errorf("make NAT backend %s: %w", kind, err)
		}
		return b, nil
	}
	return nil, fmt.Errorf("make NAT backend %q: unknown kind; use %s, %s or %s", kind, KindAuto, KindNFTables, KindIPTables)
}
