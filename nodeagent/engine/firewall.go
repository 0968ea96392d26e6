package engine

import (
	"context"
	"errors"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/patchbay-dev/patchbay/nodeagent/firewall"
	"github.com/patchbay-dev/patchbay/nodeagent/firewall/program"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
	"github.com/patchbay-dev/patchbay/nodeagent/plan"
)

// patientFirewall is a Backend whose programs may hang while the loop goes on: a call that
// the loop's patience is too short for ends beside it, and until then the firewall is
// not known. Its methods are for the loop's goroutine alone.
type patientFirewall struct {
	firewall.Backend
	// patience is how long the loop waits for a call; zero is until it ends.
	patience time.Duration
	// ended is called when a call ends that the loop did not wait for.
	ended func()
	// changes counts what Watch told.
	changes atomic.Uint64

	// beside is the call that goes on, nil for none; reading says that it is a Load,
	// begun after so many changes.
	beside  chan error
	reading bool
	began   uint64
	// read says that a Load beside the loop succeeded, which no Load has returned yet.
	read bool
	// slow says that the last Load was not waited for until its end: nor is the next.
	slow bool
	// last is the error of the last call that ended beside the loop.
	last error
	// gone are addresses to Forget, and blockers those as of the last call.
	gone     []netip.Addr
	blockers []netstate.Blocker
}

// loopPatience is longer than reading or writing a firewall takes on a node that is
// busy, and what a link waits at most for its repair when a program hangs.
const loopPatience = 3 * time.Second

// busy reports whether a call goes on beside the loop.
func (f *patientFirewall) busy() bool {
	select {
	case f.last = <-f.beside:
		f.beside, f.read = nil, f.reading && f.last == nil
	default:
	}
	return f.beside != nil
}

// run calls a function and waits for it as long as the loop may.
func (f *patientFirewall) run(reading bool, call func() error) error {
	if f.patience == 0 {
		return call()
	}
	if f.busy() {
		return f.unanswered()
	}
	patience := f.patience
	if reading && f.slow {
		patience = 0
	}
	done := make(chan error, 1)
	go func() { done <- call() }()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case err := <-done:
		return err
	case <-timer.C:
	}
	f.beside, f.reading, f.began = make(chan error, 1), reading, f.changes.Load()
	f.slow = f.slow || reading
	go func(beside chan error) {
		beside <- <-done
		f.ended()
	}(f.beside)
	return f.unanswered()
}

// unanswered is the error of what needs the firewall while it does not answer.
func (f *patientFirewall) unanswered() error {
	if hung := (*program.NoAnswer)(nil); errors.As(f.last, &hung) {
		return hung
	}
	name := f.Name()
	if name == firewall.KindNFTables {
		name = "nft"
	}
	return &program.NoAnswer{Program: name, After: f.patience}
}

func (f *patientFirewall) Load(ctx context.Context) error {
	if f.busy() {
		return f.unanswered()
	}
	if f.read && f.began != f.changes.Load() {
		// It may have read the state before a change.
		f.ended()
	}
	if !f.read {
		if err := f.run(true, func() error { return f.Backend.Load(ctx) }); err != nil {
			return err
		}
	}
	f.read, f.slow, f.last = false, false, nil
	return f.Forget(nil)
}

func (f *patientFirewall) Apply(ctx context.Context, steps []plan.Step) error {
	return f.run(false, func() error { return f.Backend.Apply(ctx, steps) })
}

func (f *patientFirewall) Forget(gone []netip.Addr) error {
	if f.gone = append(f.gone, gone...); len(f.gone) == 0 || f.busy() {
		return nil
	}
	gone, f.gone = f.gone, nil
	return f.Backend.Forget(gone)
}

func (f *patientFirewall) Known() bool { return !f.busy() && f.Backend.Known() }

// Intact reports true of a firewall that is not known: nothing in it can be mended.
func (f *patientFirewall) Intact() bool { return !f.Known() || f.Backend.Intact() }

func (f *patientFirewall) Observe(keys []netstate.Key) netstate.Set {
	if f.busy() {
		return netstate.Set{}
	}
	return f.Backend.Observe(keys)
}

func (f *patientFirewall) Held() netstate.Set {
	if f.busy() {
		return netstate.Set{}
	}
	return f.Backend.Held()
}

func (f *patientFirewall) Blockers() []netstate.Blocker {
	if !f.busy() {
		f.blockers = f.Backend.Blockers()
	}
	return f.blockers
}

func (f *patientFirewall) Watch(ctx context.Context, fn func()) error {
	return f.Backend.Watch(ctx, func() {
		f.changes.Add(1)
		fn()
	})
}

// finish waits for the call beside the loop, whose programs the end of the loop's
// context kills.
func (f *patientFirewall) finish() {
	if f.beside == nil {
		return
	}
	select {
	case f.last = <-f.beside:
	case <-time.After(loopPatience):
	}
}
