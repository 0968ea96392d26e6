package engine

import (
	"slices"
	"time"

	"github.com/patchbay-dev/patchbay/nodeagent/engine/resolve"
	"github.com/patchbay-dev/patchbay/nodeagent/kernel"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
	"github.com/patchbay-dev/patchbay/nodeagent/plan"
)

// The turn of the loop: news make owners dirty, the dirty owners are compiled kind by
// kind, and the kernel is brought to what they want.

// turn takes the news and brings them about. It returns when to look again at the latest.
func (e *Engine) turn() (time.Duration, error) {
	e.progressed()
	defer e.progress.Store(0)
	if err := e.start(); err != nil {
		return 0, err
	}
	batch := e.take()
	e.restore(batch)
	e.repairBraked()
	if len(batch) > 0 {
		e.pass(batch)
	}
	if len(batch) >= largeBatch {
		e.alarms.At(alarm{what: returnMemory}, e.Now().Add(memoryPause))
	}
	e.retire()
	return e.untilNext(), nil
}

// take has the news make owners dirty, looks again where an alarm is due, and returns the owners
// that may be looked at now.
func (e *Engine) take() map[netstate.Owner]bool {
	in := e.news.take()
	e.resolver.Begin()
	if in.lost && in.synced {
		e.readMarks()
	}
	for _, o := range in.remembered {
		e.resolver.Remember(resolve.InputOf(o))
	}
	e.resolver.SetPods(in.running)
	for o, input := range in.inputs {
		e.receive(o, input)
	}
	for _, ev := range in.events {
		e.consider(ev)
	}
	if in.lost {
		e.addAll()
	}
	if in.lost || in.firewall {
		e.reloadFirewall()
	}
	e.follow(e.due())
	e.readDoubted()
	batch := e.resolver.Take()
	e.hold(batch, in.synced)
	return batch
}

// pass brings a batch of owners about: compile, observe, diff, apply, report.
func (e *Engine) pass(batch map[netstate.Owner]bool) {
	e.resolver.Resolve(batch)
	e.keep(batch)
	e.realize(batch)
}

// realize has the kernel hold what a batch wants, and reports.
func (e *Engine) realize(batch map[netstate.Owner]bool) {
	e.work = work{leaving: map[netstate.Key]netstate.Owner{}}
	applied := e.converge(batch)
	if slices.ContainsFunc(applied, func(s plan.Step) bool { return losesRoutes(s) || e.joinsForeign(s) }) {
		applied = append(applied, e.converge(batch)...)
	}
	e.Kernel.Announce(applied)
	e.finish(batch, applied)
}

// repairBraked puts back what other programs changed of owners whose removal waits. They are
// not compiled: they want what they wanted before.
func (e *Engine) repairBraked() {
	batch := e.braked
	e.braked = map[netstate.Owner]bool{}
	if len(batch) > 0 {
		e.realize(batch)
	}
}

// finish counts and reports the steps that were applied for a batch.
func (e *Engine) finish(batch map[netstate.Owner]bool, applied []plan.Step) {
	e.countRepairs(batch, applied)
	e.keepPorts(batch)
	e.settle(batch, applied, e.noteFights(batch, applied))
}

// take empties the news and returns what there was.
func (n *news) take() (in came) {
	n.mu.Lock()
	defer n.mu.Unlock()
	in, n.came = n.came, came{inputs: map[netstate.Owner]*Input{}, events: map[netstate.Key]kernel.Event{}, synced: n.synced}
	return in
}
