package resolve

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
func (rv *Resolver) lookForListeners(results []compile.Result) {
	var ask []netstate.Publish
	for _, r := range results {
		ask = append(ask, PublishesIn(r.Objects)...)
	}
	rv.HostPorts.Look(ask)
}

// PublishesIn returns the published ports among objects.
func PublishesIn(objects netstate.Set) (list []netstate.Publish) {
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
func (rv *Resolver) giveWay(u *Resource, r *compile.Result) {
	if u.Problem != nil {
		rv.HostPorts.Forget(u.Owner)
		return
	}
	var lost, kept []string
	wide := false
	for _, in := range rv.HostPorts.InTheWay(u.Owner, r.Objects) {
		k := in.Publish.Key()
		if rv.publishes(u, k) {
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
func (u *Resource) tellListeners(lost, kept []string, wide bool) {
	conflict := func(format string, a ...any) *compile.Problem {
		return &compile.Problem{Reason: v1alpha1.ReasonHostPortConflict, Message: fmt.Sprintf(format, a...)}
	}
	if len(lost) > 0 {
		waits := "what is free is published, and the rest as soon as it is"
		if wide {
			waits = "a range waits as a whole; " + waits
		}
		u.Partial = append(u.Partial, conflict("spec.ports: %s: end it, or choose another hostPort; %s", some(lost), waits))
	}
	if len(kept) == 0 {
		return
	}
	note := conflict("published; but %s and gets nothing from where the publish answers: end it, or choose another hostPort", some(kept))
	if len(u.Partial) > 0 {
		u.Partial = append(u.Partial, note)
	}
	u.Notes = append(u.Notes, note)
}

// publishes reports whether a port is led to the owner's targets: it is in the
// kernel, or was brought there by this process and will be again.
func (rv *Resolver) publishes(u *Resource, k netstate.Key) bool {
	return rv.inFirewall(k) != nil || u.Done && u.Wanted()[k] != nil
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
