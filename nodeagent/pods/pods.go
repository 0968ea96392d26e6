// Package pods promises to say which network namespace each running pod of this
// node has, as its container runtime tells it by CRI, and nothing else: it knows
// neither resources nor the kernel, and changes nothing.
package pods

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"time"
)

// Sandbox is the running sandbox of a pod.
type Sandbox struct {
	// ID is the runtime's; UID is the pod's. A pod whose sandbox was replaced
	// keeps its UID.
	ID, UID, Namespace, Name string
	// Netns is the name of the network namespace under /run/netns; empty with
	// HostNetwork or a Problem.
	Netns string
	// HostNetwork says that the pod uses the node's own network.
	HostNetwork bool
	// Problem says, for a person, why its namespace cannot be used.
	Problem string
}

// Options are the options of a Runtime; the zero value looks for the runtime and reports
// nothing.
type Options struct {
	// Socket is the path of the runtime's; by default the first of the usual ones
	// that answers, anew at each connection.
	Socket string
	// Found is called when the runtime answers, and Lost when it does not, at
	// the start too; each once, until the other was. Failed is called with every
	// failure, of a call or of the way to the runtime.
	Found  func(socket, runtime string)
	Lost   func(error)
	Failed func(error)
}

// Runtime is the container runtime of this node.
type Runtime struct {
	opts   Options
	places []string
	pace   pace
	poke   chan struct{}
}

// pace has the intervals and time limits.
type pace struct {
	// rest is for how long further events are awaited before sandboxes are
	// listed; poll and resync are the intervals of listing without events and
	// with them; urgent is the interval during hurry after a poke.
	rest, poll, resync, urgent, hurry time.Duration
	// retry and retryMax bound the pauses between two tries to reach the runtime.
	retry, retryMax time.Duration
	// call and status bound one call; patience is for how long the first list
	// waits for sandboxes that give no answer.
	call, status, patience time.Duration
}

var usual = pace{
	rest:     20 * time.Millisecond,
	poll:     time.Second,
	resync:   30 * time.Second,
	urgent:   100 * time.Millisecond,
	hurry:    3 * time.Second,
	retry:    100 * time.Millisecond,
	retryMax: time.Second,
	call:     10 * time.Second,
	status:   2 * time.Second,
	patience: 30 * time.Second,
}

// New prepares to ask the runtime; it need not be there yet.
func New(o Options) *Runtime {
	places := knownSockets
	if o.Socket != "" {
		places = []string{o.Socket}
	}
	return &Runtime{opts: o, places: places, pace: usual, poke: make(chan struct{}, 1)}
}

// Poke has the sandboxes listed soon, and for a few seconds often. It is for who
// sees network namespaces come and go: a runtime makes one a moment before it
// calls the sandbox running. It never blocks.
func (r *Runtime) Poke() {
	select {
	case r.poke <- struct{}{}:
	default:
	}
}

// Watch calls changed with all running sandboxes, one per pod and in the order
// of their UIDs: first as soon as the runtime answers, then whenever they differ,
// until ctx ends. Calls do not overlap. While the runtime is not reached nothing is
// told, and the last list counts further. Only one Watch may run.
func (r *Runtime) Watch(ctx context.Context, changed func([]Sandbox)) {
	w := &watch{Runtime: r, changed: changed, known: map[string]Sandbox{}}
	pause := r.pace.retry
	for ctx.Err() == nil {
		answered, err := w.session(ctx)
		if ctx.Err() != nil {
			return
		}
		w.lose(err)
		if answered {
			pause = r.pace.retry
		}
		w.sleep(ctx, pause)
		pause = min(2*pause, r.pace.retryMax)
	}
}

// watch is the state of a Watch.
type watch struct {
	*Runtime
	changed func([]Sandbox)
	// known are the sandboxes that the runtime described, by ID: a description never
	// changes while a sandbox runs.
	known map[string]Sandbox
	told  []Sandbox
	// home is the socket of the runtime that has the pods; empty until one lists
	// any.
	home string
	// first is when the runtime listed sandboxes for the first time.
	first time.Time
	// begun says that a list was told; unanswered that the last is incomplete.
	begun, unanswered bool
	hurryUntil        time.Time
	reached, lost     bool
}

// session asks the runtime until it fails or ctx ends, and says whether it
// answered at all.
func (w *watch) session(ctx context.Context) (answered bool, err error) {
	c, err := w.connect(ctx)
	if err != nil {
		return false, err
	}
	defer c.close()
	events := follow(ctx, c, w.pace, w.fail)
	defer events.stop()
	for {
		if err := w.look(ctx, c); err != nil {
			return answered, err
		}
		w.find(c)
		answered = true
		if err := w.await(ctx, events); err != nil {
			return true, err
		}
	}
}

// look lists the sandboxes and tells of them if they differ.
func (w *watch) look(ctx context.Context, c *client) error {
	running, err := c.list(ctx, w.pace.call)
	if err != nil {
		return err
	}
	if w.first.IsZero() {
		w.first = time.Now()
	}
	sandboxes, unanswered, err := w.describe(ctx, c, running)
	if err != nil {
		return err
	}
	w.unanswered = unanswered
	if len(running) > 0 {
		w.home = c.socket
	}
	// What an earlier process built is not taken down because a runtime that is
	// just starting is slow to describe it.
	if unanswered && !w.begun && time.Since(w.first) < w.pace.patience {
		return nil
	}
	if w.begun && slices.Equal(sandboxes, w.told) {
		return nil
	}
	w.begun, w.told = true, sandboxes
	w.changed(slices.Clone(sandboxes))
	return nil
}

// await returns when it is time to list again; the error is ctx's.
func (w *watch) await(ctx context.Context, e *events) error {
	timer := time.NewTimer(w.interval(e))
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	case <-w.poke:
		w.hurryUntil = time.Now().Add(w.pace.hurry)
	case <-e.seen:
	}
	// One pod is several events.
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(w.pace.rest):
	}
	select {
	case <-e.seen:
	default:
	}
	return nil
}

func (w *watch) interval(e *events) time.Duration {
	switch {
	case time.Now().Before(w.hurryUntil):
		return w.pace.urgent
	// The runtime does not say when a subscription begins to count.
	case w.unanswered || !e.openFor(w.pace.poll):
		return w.pace.poll
	default:
		return w.pace.resync
	}
}

// sleep waits before another try to reach the runtime. Who pokes has seen that
// the runtime is at work.
func (w *watch) sleep(ctx context.Context, pause time.Duration) {
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	case <-w.poke:
		w.hurryUntil = time.Now().Add(w.pace.hurry)
	}
}

func (w *watch) find(c *client) {
	if !w.reached && w.opts.Found != nil {
		w.opts.Found(c.socket, c.name+" "+c.version)
	}
	w.reached, w.lost = true, false
}

func (w *watch) lose(err error) {
	w.fail(err)
	if !w.lost && w.opts.Lost != nil {
		w.opts.Lost(err)
	}
	w.reached, w.lost = false, true
}

func (w *watch) fail(err error) {
	if w.opts.Failed != nil && !errors.Is(err, context.Canceled) {
		w.opts.Failed(err)
	}
}

// onePerPod leaves the newest sandbox of each pod.
func onePerPod(all []described) []Sandbox {
	slices.SortFunc(all, func(a, b described) int {
		return cmp.Or(cmp.Compare(a.UID, b.UID), cmp.Compare(b.created, a.created), cmp.Compare(b.attempt, a.attempt), cmp.Compare(a.ID, b.ID))
	})
	var out []Sandbox
	for _, d := range all {
		if len(out) == 0 || out[len(out)-1].UID != d.UID {
			out = append(out, d.Sandbox)
		}
	}
	return out
}
