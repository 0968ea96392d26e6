package engine

import (
	"maps"
	"net/netip"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/patchbay-dev/patchbay/api/v1alpha1"
	"github.com/patchbay-dev/patchbay/nodeagent/compile"
	"github.com/patchbay-dev/patchbay/nodeagent/engine/failure"
	"github.com/patchbay-dev/patchbay/nodeagent/engine/ledger"
	"github.com/patchbay-dev/patchbay/nodeagent/engine/schedule"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
)

// unit is what the engine knows of one owner.
type unit struct {
	owner netstate.Owner
	// Account is what compile wanted last, and what may be in the kernel.
	*ledger.Account
	input
	outcome
	result
}

// input is what came in about an owner.
type input struct {
	// in is nil for an owner that is gone, or known only by its marks.
	in *Input
	// byCommand owners were removed by an explicit command.
	byCommand bool
	// changed says that something else is wanted since all was made last.
	changed bool
	// formerly is what earlier processes built, until it is recalled.
	formerly []metav1.Object
	// recalled are the objects of former versions. They are no proof of a claim: a
	// former version may have lost it.
	recalled []netstate.Key
}

// outcome is what came of compiling an owner.
type outcome struct {
	network compile.NetworkView
	view    compile.AttachmentView
	lease
	// targets are the attachments that a publish leads to.
	targets []netstate.Owner
	problem *compile.Problem
	// kept says that the objects stay in spite of the problem.
	kept bool
	// short is why an attachment goes without an address of some subnet.
	short *compile.Problem
	// noIPv6 says that IPv6 addresses were left out, or would be, since a namespace has
	// IPv6 off.
	noIPv6 bool
	// partial are claims lost for single objects.
	partial []*compile.Problem
	// notes are what Ready says beside True.
	notes []*compile.Problem
}

// lease is what of an attachment outlives a compile.
type lease struct {
	// given are the addresses that the interface has, or had last.
	given []netip.Prefix
	// adopted says that this process decided once what the owner gets; joined are the
	// addresses that it got then.
	adopted bool
	joined  []netip.Prefix
	// siblings is the fact that the attachment shares with other ones of its target.
	siblings fact
}

// next is an outcome with the values that outlive a compile.
func (o outcome) next() outcome {
	return outcome{network: o.network, view: o.view, lease: o.lease}
}

// result is what came of an owner in the kernel.
type result struct {
	errs map[netstate.Key]error
	// done says that the last pass found or made everything.
	done bool
	// complete are the wanted objects when all of them were there last.
	complete netstate.Set
	// attempts counts the failures in a row.
	attempts int
	// repairs counts the passes that put something back.
	repairs int64
	// ready is the Ready condition as last reported; crowded says that it told of nearly
	// all ports being used.
	ready   metav1.Condition
	crowded bool
}

func (e *Engine) unit(o netstate.Owner) *unit {
	u := e.units[o]
	if u == nil {
		u = &unit{owner: o, Account: e.ledger.Account(o), result: result{errs: map[netstate.Key]error{}}}
		e.units[o] = u
	}
	return u
}

// forget ends a unit.
func (e *Engine) forget(u *unit) {
	delete(e.units, u.owner)
	delete(e.stuck, u.owner)
	e.fights.Forget(u.owner)
	e.facts.Begin(u.owner)
	e.lease(u)
	e.calm(u)
	e.ledger.Close(u.owner)
}

// accepted says whether the owner is there and may be built.
func (u *unit) accepted() bool { return u.in != nil && u.in.Accepted.Status == "True" }

// going reports whether the owner would be swept: it, or the network or attachment that it
// references, has disappeared. An explicit removal, or a rejection for any other reason, is
// no sweep and is not braked.
func (u *unit) going() bool {
	switch {
	case u.byCommand || u.accepted():
		return false
	case u.in == nil:
		return true
	}
	switch u.in.Accepted.Reason {
	case v1alpha1.ReasonNetworkNotFound, v1alpha1.ReasonAttachmentNotFound, v1alpha1.ReasonNodeNotFound:
		return !u.Empty()
	}
	return false
}

// want replaces what an owner wants, and keeps up what follows from wanted objects.
func (e *Engine) want(u *unit, objects netstate.Set) {
	u.changed = u.changed || !maps.Equal(u.Wanted(), objects)
	came, went := u.Want(objects)
	for _, k := range went {
		e.giveHostAddress(k, -1)
		delete(e.silent, k)
	}
	for _, k := range came {
		e.giveHostAddress(k, 1)
		e.addSilent(k)
	}
}

// final reports whether only another program can mend the failures: waiting here
// makes no sense.
func (u *unit) final() bool {
	for k, err := range u.errs {
		if !failure.OnlyByOthers(k, err) {
			return false
		}
	}
	return len(u.errs) > 0
}

// backOff sets when to try a failing owner again.
func (e *Engine) backOff(u *unit) {
	e.alarms.At(alarm{owner: u.owner}, e.Now().Add(schedule.BackOff(firstRetry, lastRetry, u.attempts)))
	u.attempts++
}

func (e *Engine) calm(u *unit) {
	u.attempts = 0
	e.alarms.Clear(alarm{owner: u.owner})
}
