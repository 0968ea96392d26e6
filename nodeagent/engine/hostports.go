package engine

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/patchbay-dev/patchbay/api/v1alpha1"
	"github.com/patchbay-dev/patchbay/nodeagent/compile"
	"github.com/patchbay-dev/patchbay/nodeagent/hostport"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
)

// HostPorts is what the engine needs to know of the ports of the node's own
// processes.
type HostPorts interface {
	Listeners([]netstate.Publish) (map[netstate.Key][]hostport.Listener, error)
	Hold([]netstate.Publish) map[netstate.Key]error
	Held(netstate.Publish) bool
	Release([]netstate.Key)
}

// nobody listens.
type nobody struct{}

func (nobody) Listeners([]netstate.Publish) (map[netstate.Key][]hostport.Listener, error) {
	return nil, nil
}
func (nobody) Hold([]netstate.Publish) map[netstate.Key]error { return nil }
func (nobody) Held(netstate.Publish) bool                     { return false }
func (nobody) Release([]netstate.Key)                         {}

// portPause is how often it is looked whether a port is free that was not. A
// socket's end could be heard of (SKNLGRP_INET_TCP_DESTROY), but then the kernel
// tells of every connection of the node that closes, for as long as one publish
// waits; a look costs the same whatever the node does.
const portPause = time.Second

// watchPause is how often it is looked whether a process has come to a port that is
// published and not held.
const watchPause = 5 * time.Second

// hostPorts are the state of the loop beside what a unit has.
type hostPorts struct {
	// listeners of the publishes that are being compiled.
	listeners map[netstate.Key][]hostport.Listener
	// said are the complaints that were logged.
	said map[string]bool
	// holds says that ports are held: by a process that stays, so not to apply
	// once.
	holds bool
}

// lookIn has the ports looked at after a while, if not sooner.
func (e *Engine) lookIn(d time.Duration) {
	e.alarms.By(alarm{what: lookAtPorts}, e.Now().Add(d))
}

// occupied is a port of a publish on which a process listens.
type occupied struct {
	publish   netstate.Publish
	listeners []hostport.Listener
}

// lookForListeners asks once who listens on the ports of all publishes that are
// being compiled. Those that are held need no question.
func (e *Engine) lookForListeners(results []compile.Result) {
	var ask []netstate.Publish
	for _, r := range results {
		for _, o := range r.Objects {
			if p, ok := o.(netstate.Publish); ok && !e.HostPorts.Held(p) {
				ask = append(ask, p)
			}
		}
	}
	e.ports.listeners = e.listeners(ask)
}

func (e *Engine) listeners(ask []netstate.Publish) map[netstate.Key][]hostport.Listener {
	if len(ask) == 0 {
		return nil
	}
	found, err := e.HostPorts.Listeners(ask)
	if err != nil {
		e.complain(err)
	}
	return found
}

// complain logs what is tried again and again only once.
func (e *Engine) complain(err error) {
	if !e.ports.said[err.Error()] {
		e.ports.said[err.Error()] = true
		e.Log.Warn("ports of the node's processes", "err", err)
	}
}

// giveWay leaves out the ports on which a process listens that was there first.
// What is published already stays, since to give it up would cut off who uses it;
// but it is said.
func (e *Engine) giveWay(u *unit, r *compile.Result) {
	clear(u.occupied)
	if u.problem != nil || len(e.ports.listeners) == 0 {
		return
	}
	var lost, kept []string
	wide := false
	for _, k := range slices.SortedFunc(maps.Keys(r.Objects), netstate.Key.Compare) {
		listeners := e.ports.listeners[k]
		if len(listeners) == 0 {
			continue
		}
		u.occupied[k] = occupied{r.Objects[k].(netstate.Publish), listeners}
		e.lookIn(portPause)
		if e.publishes(u, k) {
			kept = append(kept, listenersText(listeners))
			continue
		}
		lost = append(lost, listenersText(listeners))
		wide = wide || u.occupied[k].publish.HostPortEnd != 0
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
	if e.NAT.Observe([]netstate.Key{k})[k] != nil {
		return true
	}
	return u.done && u.Wanted()[k] != nil
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

// followHostPorts looks again at the ports that are not held, or not even
// published, and adds the owners for whom something has changed.
func (e *Engine) followHostPorts() {
	open := map[netstate.Owner][]netstate.Publish{}
	var ask []netstate.Publish
	for o, u := range e.units {
		if list := e.notHeld(u); len(list) > 0 {
			open[o], ask = list, append(ask, list...)
		}
	}
	found := e.listeners(ask)
	for o, list := range open {
		u := e.units[o]
		if u.portsChanged(list, found) {
			e.facts.Mark(o)
		} else if len(u.unheld) > 0 {
			e.holdPorts(u)
		}
		e.lookAgain(u)
	}
}

// lookAgain has the ports of a unit looked at again that are not held.
func (e *Engine) lookAgain(u *unit) {
	if len(u.occupied)+len(u.unheld) > 0 {
		e.lookIn(portPause)
	} else if len(e.notHeld(u)) > 0 {
		e.lookIn(watchPause)
	}
}

// notHeld are the ports of a publish that a process may have or come to have.
func (e *Engine) notHeld(u *unit) (list []netstate.Publish) {
	for _, o := range u.occupied {
		list = append(list, o.publish)
	}
	if u.in == nil || u.in.Publish == nil {
		return list
	}
	for k, o := range u.Wanted() {
		p, ok := o.(netstate.Publish)
		if _, known := u.occupied[k]; ok && !known && !e.HostPorts.Held(p) {
			list = append(list, p)
		}
	}
	return list
}

// portsChanged compares who listens now with who did.
func (u *unit) portsChanged(list []netstate.Publish, found map[netstate.Key][]hostport.Listener) bool {
	return slices.ContainsFunc(list, func(p netstate.Publish) bool {
		return !slices.Equal(found[p.Key()], u.occupied[p.Key()].listeners)
	})
}

// reservePorts holds the ports of a batch as far as they are published, and lets
// the others go.
func (e *Engine) reservePorts(batch map[netstate.Owner]bool) {
	if !e.ports.holds {
		return
	}
	// First all let go, so that a port may change hands.
	for o := range batch {
		u := e.units[o]
		var gone []netstate.Key
		for k := range u.reserved {
			if !u.Holds(k) || u.Wanted()[k] != nil && !u.reserves() {
				gone = append(gone, k)
				delete(u.reserved, k)
			}
		}
		e.HostPorts.Release(gone)
	}
	for o := range batch {
		e.holdPorts(e.units[o])
		e.lookAgain(e.units[o])
	}
}

// reserves reports whether the ports of a publish are to be held.
func (u *unit) reserves() bool {
	if u.in == nil || u.in.Publish == nil {
		return false
	}
	wish := u.in.Publish.Spec.ReservePort
	return wish == nil || *wish
}

// holdPorts holds the published ports of a unit. What cannot be held for now,
// since a process or an outgoing connection has the port, is tried again.
func (e *Engine) holdPorts(u *unit) {
	clear(u.unheld)
	if !u.reserves() {
		return
	}
	var list []netstate.Publish
	for k, o := range u.Wanted() {
		if p, ok := o.(netstate.Publish); ok && u.Holds(k) {
			list = append(list, p)
			u.reserved[k] = true
		}
	}
	for k, err := range e.HostPorts.Hold(list) {
		if !errors.Is(err, hostport.ErrInUse) {
			e.complain(err)
			continue
		}
		u.unheld[k] = true
	}
}
