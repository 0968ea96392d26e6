package engine

import (
	"fmt"
	"slices"
	"strings"

	"github.com/patchbay-dev/patchbay/api/v1alpha1"
	"github.com/patchbay-dev/patchbay/nodeagent/compile"
	"github.com/patchbay-dev/patchbay/nodeagent/hostport"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
)

// lookForListeners asks once who listens on the ports of all publishes that are
// being compiled.
func (e *Engine) lookForListeners(results []compile.Result) {
	var ask []netstate.Publish
	for _, r := range results {
		ask = append(ask, publishesIn(r.Objects)...)
	}
	e.keeper.Look(ask)
}

func publishesIn(objects netstate.Set) (list []netstate.Publish) {
	for _, o := range objects {
		if p, ok := o.(netstate.Publish); ok {
			list = append(list, p)
		}
	}
	return list
}

// giveWay leaves out the ports on which a process listens that was there first.
// A port that is published already stays, since to give it up would cut off its clients;
// but Ready says so.
func (e *Engine) giveWay(u *unit, r *compile.Result) {
	if u.problem != nil {
		e.keeper.Forget(u.owner)
		return
	}
	var lost, kept []string
	wide := false
	for _, in := range e.keeper.InTheWay(u.owner, r.Objects) {
		k := in.Publish.Key()
		if e.publishes(u, k) {
			kept = append(kept, listenersText(in.Listeners))
			continue
		}
		lost = append(lost, listenersText(in.Listeners))
		wide = wide || in.Publish.HostPortEnd != 0
		delete(r.Objects, k)
	}
	u.tellListeners(lost, kept, wide)
}

// tellListeners says which ports are not published, some of them as part of a range,
// and which are in spite of a process.
func (u *unit) tellListeners(lost, kept []string, wide bool) {
	conflict := func(format string, a ...any) *compile.Problem {
		return &compile.Problem{Reason: v1alpha1.ReasonHostPortConflict, Message: fmt.Sprintf(format, a...)}
	}
	if len(lost) > 0 {
		waits := "what is free is published, and the rest as soon as it is"
		if wide {
			waits = "a range waits as a whole; " + waits
		}
		u.partial = append(u.partial, conflict("spec.ports: %s: end it, or choose another hostPort; %s", some(lost), waits))
	}
	if len(kept) == 0 {
		return
	}
	note := conflict("published; but %s and gets nothing from where the publish answers: end it, or choose another hostPort", some(kept))
	if len(u.partial) > 0 {
		u.partial = append(u.partial, note)
	}
	u.notes = append(u.notes, note)
}

// publishes reports whether a port is led to the unit's target: it is in the
// kernel, or was brought there by this process and will be again.
func (e *Engine) publishes(u *unit, k netstate.Key) bool {
	found, _ := e.Firewall.Observe([]netstate.Key{k})
	_, whole := found[k].(netstate.Publish)
	return whole || u.done && u.Wanted()[k] != nil
}

func listenersText(list []hostport.Listener) string {
	var texts []string
	for _, l := range list {
		texts = append(texts, l.String())
	}
	return some(texts)
}

// some joins a few of many texts, each once: a message has its limits.
func some(texts []string) string {
	const few = 8
	var unique []string
	for _, t := range texts {
		if !slices.Contains(unique, t) {
			unique = append(unique, t)
		}
	}
	if len(unique) > few {
		unique = append(unique[:few], fmt.Sprintf("%d more", len(unique)-few))
	}
	return strings.Join(unique, ", ")
}

// followHostPorts looks again at the ports that are not held, or not even published.
func (e *Engine) followHostPorts() {
	e.facts.Mark(e.keeper.Again()...)
	e.lookAgain()
}

func (e *Engine) lookAgain() {
	if pause, any := e.keeper.Pause(); any {
		e.alarms.By(alarm{what: lookAtPorts}, e.Now().Add(pause))
	}
}

// keepPorts holds the ports of a batch as far as they are published, and lets all
// other ports of it go.
func (e *Engine) keepPorts(batch map[netstate.Owner]bool) {
	wishes := map[netstate.Owner]hostport.Wish{}
	for o := range batch {
		if o.Kind != netstate.OwnerPublish {
			continue
		}
		u := e.units[o]
		w := hostport.Wish{Publishes: publishesIn(u.Wanted()), InKernel: u.Holds}
		if u.in != nil {
			wish := u.in.Publish.Spec.ReservePort
			w.Reserve = wish == nil || *wish
		}
		wishes[o] = w
	}
	e.keeper.Keep(wishes)
	e.lookAgain()
}
