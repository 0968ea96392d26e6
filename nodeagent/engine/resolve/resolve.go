// Package resolve decides what each resource wants in the kernel. It compiles the resources
// that a change concerns, with what they read of each other and of the node, and settles who
// gets what only one may have. It changes nothing in the kernel.
package resolve

import (
	"log/slog"

	"github.com/patchbay-dev/patchbay/nodeagent/compile"
	"github.com/patchbay-dev/patchbay/nodeagent/engine/claims"
	"github.com/patchbay-dev/patchbay/nodeagent/engine/facts"
	"github.com/patchbay-dev/patchbay/nodeagent/engine/ledger"
	"github.com/patchbay-dev/patchbay/nodeagent/hostport"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
)

// Kernel is what compiling reads of the kernel.
type Kernel interface {
	Routing(netns string) (netstate.Routing, error)
	IPv6Off(netns string) bool
	// NetnsID reports false for a name that leads to no network namespace.
	NetnsID(name string) (netstate.NetnsID, bool)
}

// Firewall is what compiling reads of the firewall.
type Firewall interface {
	Observe([]netstate.Key) (netstate.Set, map[netstate.Key]error)
	// AntiSpoof reports whether it can hold filters of bridge ports.
	AntiSpoof() bool
	// Blockers are the chains of other programs that drop forwarded packets, as of the last
	// reading.
	Blockers() []netstate.Blocker
}

// Options are the parts that a Resolver shares with its caller.
type Options struct {
	Source   netstate.Source
	Kernel   Kernel
	Firewall Firewall
	// Ledger says what each owner wants and holds.
	Ledger *ledger.Ledger
	// HostPorts knows the processes that listen on the node's ports.
	HostPorts *hostport.Keeper
	Log       *slog.Logger
	// Wants is called with the keys that a first owner wants now, and the keys that no owner
	// wants any more.
	Wants func(came, went []netstate.Key)
}

// Resolver knows all resources. It is for one goroutine.
type Resolver struct {
	Options
	// Resources are the records of all owners, also of owners whose resource is gone.
	Resources map[netstate.Owner]*Resource
	// Node is the node as SetNode told last.
	Node netstate.Node
	// Bridged are the foreign bridges that the firewall knew at the start: they follow the
	// node, not any resource, and so go with the next owner of a forward guard.
	Bridged []netstate.Key

	claims *claims.Book
	facts  *factBook
	// again are owners to look at in the next turn.
	again []netstate.Owner
	// pods by UID; nil until they are known.
	pods map[string]Pod
}

// New makes a Resolver that knows no resource.
func New(o Options) *Resolver {
	return &Resolver{Options: o, Resources: map[netstate.Owner]*Resource{}, claims: claims.New(), facts: facts.New[netstate.Owner, fact]()}
}

// Resource returns the record of an owner, a new one for an owner without.
func (rv *Resolver) Resource(o netstate.Owner) *Resource {
	u := rv.Resources[o]
	if u == nil {
		u = &Resource{Owner: o, Account: rv.Ledger.Account(o), result: result{Errs: map[netstate.Key]error{}}}
		rv.Resources[o] = u
	}
	return u
}

// Receive stores what came in about an owner, nil for a resource that is gone.
func (rv *Resolver) Receive(o netstate.Owner, in *Input) *Resource {
	u := rv.Resource(o)
	next := input{Changed: in != nil || u.Changed, ByCommand: in != nil && in.Removed}
	if !next.ByCommand {
		next.In = in
	}
	rv.enter(u, next.In)
	u.input = next
	rv.facts.Mark(o)
	rv.show(u)
	return u
}

// Forget drops the record of an owner that wants and holds nothing.
func (rv *Resolver) Forget(u *Resource) {
	delete(rv.Resources, u.Owner)
	rv.facts.Begin(u.Owner)
	rv.lease(u)
	rv.Ledger.Close(u.Owner)
}

// Mark has owners looked at when Take is called next, in this turn or the next one.
func (rv *Resolver) Mark(owners ...netstate.Owner) { rv.facts.Mark(owners...) }

// Again has owners looked at in the next turn.
func (rv *Resolver) Again(owners ...netstate.Owner) { rv.again = append(rv.again, owners...) }

// Begin begins a turn: it marks the owners that Again was told of.
func (rv *Resolver) Begin() {
	rv.facts.Mark(rv.again...)
	rv.again = nil
}

// Take takes out the marked owners.
func (rv *Resolver) Take() map[netstate.Owner]bool {
	batch := map[netstate.Owner]bool{}
	for _, o := range rv.facts.Take(func(netstate.Owner) bool { return true }) {
		batch[o] = true
	}
	return batch
}

// Dirty reports whether owners are to be looked at in the next turn.
func (rv *Resolver) Dirty() bool { return len(rv.again) > 0 || !rv.facts.Clean() }

// Resolve compiles a batch, networks first, and adds to it the owners that have read what
// changed. Afterwards the Account of each owner has what it wants.
func (rv *Resolver) Resolve(batch map[netstate.Owner]bool) {
	for o := range batch {
		if u := rv.Resource(o); !u.Accepted() {
			rv.release(u)
		}
	}
	rv.compileKinds(batch)
	rv.inherit(batch)
}

// compileKinds compiles kind by kind. All owners let go of what they no longer claim
// before any claims anew, so that two may swap.
func (rv *Resolver) compileKinds(batch map[netstate.Owner]bool) {
	for _, kind := range ownerKinds {
		rv.addDirty(batch, kind)
		units := rv.ofKind(batch, kind)
		rv.setAside(units)
		results := make([]compile.Result, len(units))
		for i, u := range units {
			results[i] = rv.compile(u)
			rv.claims.Replace(u.Owner, results[i].Claims)
		}
		if kind == netstate.OwnerNetwork && len(units) > 0 {
			rv.showRouter()
		}
		rv.grantHeld(units, results)
		rv.lookForListeners(results)
		for i, u := range units {
			rv.adopt(u, results[i])
		}
	}
}
