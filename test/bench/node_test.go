package bench

import (
	"context"
	"io"
	"log/slog"
	"sync/atomic"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/patchbay-dev/patchbay/api/v1alpha1"
	"github.com/patchbay-dev/patchbay/nodeagent/engine"
	"github.com/patchbay-dev/patchbay/nodeagent/firewall"
	"github.com/patchbay-dev/patchbay/nodeagent/kernel"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
)

// stopwatch is a reporter that says when the kernel held all of an owner: at the
// last write to the kernel or the firewall before the engine called it Ready.
type stopwatch struct {
	quiet
	wrote   atomic.Pointer[time.Time]
	ready   chan mark
	removed chan netstate.Owner
}

type mark struct {
	owner netstate.Owner
	// held is the time of the last write, told that of the status.
	held, told time.Time
}

func newStopwatch() *stopwatch {
	// The loop must not wait for who reads: it says more than once who is Ready.
	return &stopwatch{ready: make(chan mark, 100*attachments), removed: make(chan netstate.Owner, 100*attachments)}
}

// step is the hook that kernel and nat call after every write.
func (w *stopwatch) step() {
	now := time.Now()
	w.wrote.Store(&now)
}

func (w *stopwatch) Report(s engine.Status) {
	if s.Ready.Status == metav1.ConditionTrue {
		w.ready <- mark{owner: s.Owner, held: *w.wrote.Load(), told: time.Now()}
	}
}

func (w *stopwatch) Removed(o netstate.Owner) { w.removed <- o }

// until returns the first word of an owner.
func (w *stopwatch) until(b *testing.B, o netstate.Owner) mark {
	b.Helper()
	for {
		if m := receive(b, w.ready); m.owner == o {
			return m
		}
	}
}

func receive[T any](b *testing.B, from chan T) (v T) {
	b.Helper()
	select {
	case v = <-from:
	case <-time.After(patience):
		b.Fatalf("nothing for %v", patience)
	}
	return v
}

// oneByOne sets each attachment when the former is held.
func oneByOne(b *testing.B) (held, told latencies) {
	withEngine(b, func(e *engine.Engine, w *stopwatch, inputs []engine.Input) {
		for _, in := range inputs {
			start := time.Now()
			e.Set(in)
			m := w.until(b, in.Owner())
			held, told = append(held, m.held.Sub(start)), append(told, m.told.Sub(start))
		}
	})
	return held, told
}

// atOnce sets all and returns when the kernel held the last.
func atOnce(b *testing.B) (took time.Duration) {
	withEngine(b, func(e *engine.Engine, w *stopwatch, inputs []engine.Input) {
		start := time.Now()
		e.Update(inputs, nil)
		took = w.untilAll(b, inputs).held.Sub(start)
	})
	return took
}

// withEngine runs an engine with a network that is built, hands over the
// attachments to it, and removes everything.
func withEngine(b *testing.B, measure func(*engine.Engine, *stopwatch, []engine.Input)) {
	w := newStopwatch()
	k, n := drivers(b, netstate.SourceLocal, w)
	e := engine.New(engine.Options{Source: netstate.SourceLocal, Kernel: k, Firewall: n, Reporter: w, Log: slog.New(slog.NewTextHandler(io.Discard, nil))})
	stop := inBackground(b, e.Run)
	defer stop()

	network, inputs := external()
	e.Set(network)
	w.until(b, network.Owner())
	measure(e, w, inputs)
	for _, in := range append(inputs, network) {
		e.Remove(in)
	}
	for left := len(inputs) + 1; left > 0; left-- {
		receive(b, w.removed)
	}
}

func drivers(b *testing.B, source netstate.Source, w *stopwatch) (*kernel.Kernel, *firewall.Firewall) {
	k, err := kernel.Open(kernel.Options{Source: source, NodeName: nodeName, RunDir: "/run", Step: w.step})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = k.Close() })
	n, err := firewall.New(firewall.KindNFTables, firewall.Options{Source: source, Step: w.step})
	if err != nil {
		b.Fatal(err)
	}
	return k, n
}

// inBackground runs what runs until its context ends.
func inBackground(b *testing.B, run func(context.Context) error) (stop func()) {
	ctx, cancel := context.WithCancel(b.Context())
	done := make(chan error, 1)
	go func() { done <- run(ctx) }()
	return func() {
		cancel()
		if err := <-done; err != nil {
			b.Error(err)
		}
	}
}

// external is a network and attachments of namespaces that exist.
func external() (network engine.Input, attached []engine.Input) {
	for _, in := range resources() {
		switch {
		case in.Network != nil:
			network = in
		case in.Attachment != nil:
			in.Attachment.Spec.Target.Netns.Lifecycle = v1alpha1.External
			attached = append(attached, in)
		}
	}
	return network, attached
}
