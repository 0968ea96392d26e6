// Package engine keeps a node's kernel as the resources want it. It promises
// that an owner's change costs work in proportion to that owner, that one bad
// object stops only what depends on it, that nothing is removed before the
// source is in sync, and that a pass with nothing to do writes nothing. It
// knows neither where resources come from nor how the kernel is spoken to.
package engine

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/patchbay-dev/patchbay/api/v1alpha1"
	"github.com/patchbay-dev/patchbay/nodeagent/engine/fights"
	"github.com/patchbay-dev/patchbay/nodeagent/engine/ledger"
	"github.com/patchbay-dev/patchbay/nodeagent/engine/resolve"
	"github.com/patchbay-dev/patchbay/nodeagent/engine/schedule"
	"github.com/patchbay-dev/patchbay/nodeagent/hostport"
	"github.com/patchbay-dev/patchbay/nodeagent/kernel"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
	"github.com/patchbay-dev/patchbay/nodeagent/plan"
)

// Input is a resource as the engine takes it.
type Input = resolve.Input

// InputOf wraps a resource, not accepted yet.
func InputOf(o v1alpha1.Object) Input { return resolve.InputOf(o) }

// Pod is a pod as the engine takes it.
type Pod = resolve.Pod

// Driver is what the engine needs of the kernel and of the firewall alike.
type Driver interface {
	// Observe returns the objects that are there, of the keys that are the driver's. An
	// object with a key in the error map is unknown: neither present nor absent.
	Observe([]netstate.Key) (netstate.Set, map[netstate.Key]error)
	// Apply carries out steps of one stage and returns the error of each.
	Apply([]plan.Step) []error
	// Inventory reads all objects that bear our mark.
	Inventory() ([]netstate.Held, error)
}

// Kernel is the driver of all objects but the firewall's.
type Kernel interface {
	Driver
	resolve.Kernel
	Node() (netstate.Node, error)
	LinkIndex(netstate.End) (index, peer int32, err error)
	// Listen has Watch hear a namespace and reports whether it did not before.
	Listen(netns string) (news bool, err error)
	// ListenMounts has Watch hear changes of mounts, and say once that it does.
	ListenMounts()
	Announce([]plan.Step)
	Watch(context.Context, func(kernel.Event)) error
}

// Firewall is the driver of the objects of the firewall, the netstate.Ruleset among them.
type Firewall interface {
	Driver
	resolve.Firewall
	// Forget ends the tracked connections from and to addresses that have gone.
	Forget([]netip.Addr) error
	// Watch calls a function when the firewall is to be looked at again.
	Watch(context.Context, func()) error
}

// Reporter is told what came of the resources. Calls come from one goroutine.
type Reporter interface {
	// Report is called after every pass for every resource it took.
	Report(Status)
	// Removed is called when nothing of a resource is left in the kernel.
	Removed(netstate.Owner)
	// Changed is called for every kernel object that was changed; drift is true
	// where no resource had asked for a change.
	Changed(owner netstate.Owner, line plan.Line, drift bool)
	// Braked is called when a sweep waits because it would remove too much.
	Braked(gone, total int, until time.Time)
	// Keep is called with the keys of all that may be in the kernel because of a resource:
	// before a pass makes more of it, and after a pass that removed some.
	Keep(netstate.Owner, []netstate.Key)
}

// Options are the parts and settings of an engine.
type Options struct {
	Source   netstate.Source
	Kernel   Kernel
	Firewall Firewall
	Reporter Reporter
	// Kept are the keys that ended processes gave to Keep last. An object that its owner does
	// not want is removed.
	Kept map[netstate.Owner][]netstate.Key
	// HostPorts is asked before a port is published; nil asks nothing.
	HostPorts hostport.Sockets
	Log       *slog.Logger
	// Resync is the mean time between two looks at everything; default 10 min.
	Resync time.Duration
	// SweepDelay is how long a sweep of more than half of ten or more owners waits; default
	// 5 min. A negative value never waits.
	SweepDelay time.Duration
	// Now is the clock; default time.Now.
	Now func() time.Time
	// Retire, where set, is called once: when the firewall first holds all that
	// is wanted, with the source in sync. It removes what a firewall holds that
	// was used before.
	Retire func() error
}

// Engine is the loop from resources to the kernel.
type Engine struct {
	Options
	news
	// progress is when the turn that runs last got on, in Unix nanoseconds; zero
	// between turns.
	progress atomic.Int64

	// The rest is for the loop's goroutine alone.
	books
	seen
	phase
	work
}

// news is what came in since the last turn, from any goroutine.
type news struct {
	mu   sync.Mutex
	wake chan struct{}
	came
}

type came struct {
	inputs map[netstate.Owner]*Input
	events map[netstate.Key]kernel.Event
	// lost says that the kernel's events overflowed: all is read again. firewall says that the
	// firewall is to be read.
	lost, firewall bool
	// synced says that every resource of the source was Set.
	synced bool
	// remembered are attachments and publishes that are not Set yet.
	remembered []v1alpha1.Object
	// running are the pods as last told; nil for no news.
	running map[string]Pod
}

// books are who wants and holds what, who has to look again, and when.
type books struct {
	resolver *resolve.Resolver
	ledger   *ledger.Ledger
	keeper   *hostport.Keeper
	alarms   schedule.Schedule[alarm]
	fights   *fights.Book
	// stuck are owners whose failures end by what the kernel tells; see stuck.go.
	stuck map[netstate.Owner]bool
}

// seen is what the engine noticed on the node beside its facts.
type seen struct {
	// flushed are owners that miss objects in the firewall and nothing else.
	flushed map[netstate.Owner]bool
	// braked are dirty owners whose removal waits.
	braked map[netstate.Owner]bool
	// astray are the namespaces where other programs changed the routing since it was read.
	astray map[string]bool
	// early are our links on which another program sees packets first.
	early  map[netstate.Key]bool
	silent silent
	// doubted are objects to read when all news of the turn are known.
	doubted []netstate.Key
}

// phase is how far the process has come.
type phase struct {
	started bool
	// once says that this process ends when all is settled, and was told of all records.
	once bool
	// sweepDue says that some objects may have no owner any more; brake is until when a
	// large sweep waits, zero for no such sweep.
	sweepDue bool
	brake    time.Time
	// unread counts in a row how often the firewall could not be read when it was to be
	// looked at.
	unread int
	// retired says that Retire is done.
	retired bool
}

// work is what one pass knows.
type work struct {
	// leaving says who held what the pass removes.
	leaving map[netstate.Key]netstate.Owner
	// unseen are wanted objects whose state is unknown: nothing is opened beside them. Objects
	// of the firewall that were complete when it was known last are not among them.
	unseen map[netstate.Key]bool
}

// New makes an engine. Nothing happens before Run, RunOnce or Plan.
func New(o Options) *Engine {
	if o.Resync == 0 {
		o.Resync = 10 * time.Minute
	}
	if o.SweepDelay == 0 {
		o.SweepDelay = 5 * time.Minute
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.HostPorts == nil {
		o.HostPorts = hostport.None{}
	}
	e := &Engine{
		Options: o,
		news:    news{wake: make(chan struct{}, 1)},
		books:   books{ledger: ledger.New(), fights: fights.New(), stuck: map[netstate.Owner]bool{}},
		seen:    seen{flushed: map[netstate.Owner]bool{}, braked: map[netstate.Owner]bool{}, astray: map[string]bool{}, early: map[netstate.Key]bool{}, silent: silent{}},
	}
	_ = e.news.take()
	e.keeper = hostport.NewKeeper(o.HostPorts, func(err error) { e.Log.Warn("ports of the node's processes", "err", err) })
	e.resolver = resolve.New(resolve.Options{Source: o.Source, Kernel: o.Kernel, Firewall: o.Firewall, Ledger: e.ledger, HostPorts: e.keeper, Log: o.Log, Wants: e.followSilent})
	for owner, keys := range o.Kept {
		e.resolver.Resource(owner).Inherited = keys
	}
	return e
}

// Set adds or replaces a resource.
func (e *Engine) Set(in Input) { e.Update([]Input{in}, nil) }

// Update sets resources and takes owners away because the source no longer lists them, all
// at once: only so can the sweep brake tell how many went.
func (e *Engine) Update(set []Input, gone []netstate.Owner) {
	e.mu.Lock()
	for _, in := range set {
		e.inputs[in.Owner()] = &in
	}
	for _, o := range gone {
		e.inputs[o] = nil
	}
	e.mu.Unlock()
	e.signal()
}

// Remove takes a resource away by an explicit command; the sweep brake does not ask about it.
func (e *Engine) Remove(in Input) {
	in.Removed = true
	e.Set(in)
}

// Remember tells of an attachment or a publish that is not Set yet, since the verdict
// on it is out: until it is Set or gone, no other owner gets the addresses or the host
// ports of its record.
func (e *Engine) Remember(o v1alpha1.Object) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.remembered = append(e.remembered, o)
}

// Synced tells whether every resource of the source was Set. Only while it was
// is anything removed because it has no resource.
func (e *Engine) Synced(yes bool) {
	e.mu.Lock()
	e.synced = yes
	e.mu.Unlock()
	e.signal()
}

func (e *Engine) signal() {
	select {
	case e.wake <- struct{}{}:
	default:
	}
}

// Run keeps the kernel as wanted until the context ends, and holds the ports that
// it publishes. It removes nothing when it ends.
func (e *Engine) Run(ctx context.Context) error {
	e.keeper.Holds, e.Kept = true, nil
	err := e.watch(ctx)
	if err == nil {
		// At the start all is read: nothing can be built without.
		err = e.start()
	}
	switch {
	case ctx.Err() != nil:
		return nil
	case err != nil:
		return err
	}
	resync := time.NewTimer(e.jitter())
	defer resync.Stop()
	for {
		next, err := e.turn()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		retry := time.NewTimer(next)
		select {
		case <-ctx.Done():
			retry.Stop()
			return nil
		case <-e.wake:
		case <-retry.C:
		case <-resync.C:
			resync.Reset(e.jitter())
			e.everything()
		}
		retry.Stop()
	}
}

// RunOnce brings everything that was Set or Removed about and returns when all
// of it is settled or the time is over, with the last status of each resource.
// Before every pause it tells the statuses so far to waiting, which may be nil. It
// needs no watch: where the kernel grants none, it looks again and again.
func (e *Engine) RunOnce(ctx context.Context, wait time.Duration, waiting func([]Status)) ([]Status, error) {
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	e.once = true
	watched := e.watch(ctx) == nil
	for {
		next, err := e.turn()
		if err != nil {
			return nil, err
		}
		if e.settled() {
			return e.statuses(), nil
		}
		if waiting != nil {
			waiting(e.statuses())
		}
		if !watched {
			e.everything()
			next = min(next, unwatchedPause)
		}
		retry := time.NewTimer(next)
		select {
		case <-ctx.Done():
			retry.Stop()
			return e.statuses(), nil
		case <-e.wake:
		case <-retry.C:
		}
		retry.Stop()
	}
}

// unwatchedPause is how often RunOnce looks at what it waits for without a watch.
const unwatchedPause = 500 * time.Millisecond

func (e *Engine) jitter() time.Duration {
	return time.Duration(float64(e.Resync) * (0.8 + 0.4*rand.Float64()))
}

func (e *Engine) watch(ctx context.Context) error {
	if err := e.Kernel.Watch(ctx, e.event); err != nil {
		return err
	}
	return e.Firewall.Watch(ctx, e.firewallChanged)
}

// firewallChanged has the firewall looked at again.
func (e *Engine) firewallChanged() {
	e.mu.Lock()
	e.firewall = true
	e.mu.Unlock()
	e.signal()
}

// turnLimit is how long a turn may go without getting on.
const turnLimit = 2 * time.Minute

// Alive returns an error if the loop does not turn: if something in a turn of it takes
// longer than two minutes.
func (e *Engine) Alive() error {
	if at := e.progress.Load(); at != 0 && time.Since(time.Unix(0, at)) > turnLimit {
		return fmt.Errorf("the loop has not turned since %s", time.Unix(0, at).Format(time.TimeOnly))
	}
	return nil
}

// progressed notes that the turn gets on.
func (e *Engine) progressed() { e.progress.Store(time.Now().UnixNano()) }

// everything marks all for another look.
func (e *Engine) everything() {
	e.mu.Lock()
	e.lost = true
	e.mu.Unlock()
}

// SetPods tells which pods run, all of them. Before the first call nothing is
// known of them, and the objects that were built for some stay as they are.
func (e *Engine) SetPods(list []Pod) {
	running := map[string]Pod{}
	for _, p := range list {
		running[p.UID] = p
	}
	e.mu.Lock()
	e.running = running
	e.mu.Unlock()
	e.signal()
}
