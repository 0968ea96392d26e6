// Package plan compares desired with observed objects and returns the ordered steps
// between them. It promises that plan(x, x) is empty, that carrying out the steps makes
// observed equal desired, and that in that order no bridge port is ever up and
// unfiltered. It is pure.
package plan

import "github.com/patchbay-dev/patchbay/nodeagent/netstate"

// Op is what a step does to its object.
type Op string

const (
	// Create makes the object. A link is created down; a primary veth brings
	// its peer along, down and unmarked.
	Create Op = "create"
	// Mark sets a link's alias, the second half of creating it.
	Mark Op = "mark"
	// Update changes an existing object from Old to New in everything but
	// Master, Isolated, Up (links).
	Update Op = "update"
	// Activate gives a link its Master, Isolated and Up as New has them.
	Activate Op = "activate"
	// Delete removes the object. A veth takes its peer along.
	Delete Op = "delete"
)

// Stage orders steps: all steps of one stage precede the steps of the next, for all
// owners of one pass.
type Stage uint8

// The stages in the order of a pass: first what goes, then what comes. See
// ARCHITECTURE.md for why each stands where it does.
const (
	// StageClosePublish mends the ruleset and removes publishes and masquerades (firewall).
	StageClosePublish Stage = iota
	// StageRemove removes routes, addresses, hairpins, ports, links, sysctls.
	StageRemove
	// StageUnfilter removes filters and link policies of ports that are gone (firewall).
	StageUnfilter
	// StageRemoveNetns removes namespaces without users.
	StageRemoveNetns
	// StageNetns makes namespaces.
	StageNetns
	// StageLink makes links, down.
	StageLink
	// StageMark sets aliases, link sysctls, changed link properties and what
	// limits links.
	StageMark
	// StageFilter adds link policies, filters and filter addresses (firewall).
	StageFilter
	// StageActivate sets masters and brings links up.
	StageActivate
	// StageAddress adds addresses.
	StageAddress
	// StageRoute adds routes.
	StageRoute
	// StagePublish adds masquerades and publishes (firewall), then flushes
	// conntrack entries that contradict them.
	StagePublish
)

// Firewall reports whether the stage's steps are one firewall transaction.
func (s Stage) Firewall() bool {
	return s == StageClosePublish || s == StageUnfilter || s == StageFilter || s == StagePublish
}

// Step is one change of one kernel object.
type Step struct {
	Stage Stage
	Op    Op
	Key   netstate.Key
	// Old is the observed object; nil for Create and Mark of a new object.
	Old netstate.Object
	// New is the desired object; nil for Delete.
	New netstate.Object
	// Peer is the other end that Create of a primary veth brings along.
	Peer netstate.Object
	// Needs are further objects without which the step must not be taken: what
	// limits and filters a link, before it is up; of a deletion, further deletions.
	Needs []netstate.Key
}
