package resolve

import (
	"maps"
	"net/netip"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/patchbay-dev/patchbay/api/v1alpha1"
	"github.com/patchbay-dev/patchbay/nodeagent/compile"
	"github.com/patchbay-dev/patchbay/nodeagent/engine/ledger"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
)

// Resource is the record of one owner: what came in about it, what came of compiling it, and
// how the kernel took it.
type Resource struct {
	Owner netstate.Owner
	// Account is what compile wanted last, and what may be in the kernel.
	*ledger.Account
	input
	outcome
	result
	// Inherited are the keys that ended processes kept, until the owner is compiled.
	Inherited []netstate.Key
}

// input is what came in about an owner.
type input struct {
	// In is nil for an owner that is gone, or known only by its marks.
	In *Input
	// ByCommand owners were removed by an explicit command.
	ByCommand bool
	// Changed says that what the owner wants is not all made yet: a change of it is wanted, and
	// no drift.
	Changed bool
}

// outcome is what came of compiling an owner.
type outcome struct {
	Network compile.NetworkView
	View    compile.AttachmentView
	lease
	// Targets are the attachments that a publish leads to.
	Targets []netstate.Owner
	Problem *compile.Problem
	// kept says that the objects stay in spite of the problem.
	kept bool
	// short is why an attachment goes without an address of some subnet.
	short *compile.Problem
	// NoIPv6 says that IPv6 addresses were left out, or would be, since a namespace has
	// IPv6 off.
	NoIPv6 bool
	// Partial are claims lost for single objects.
	Partial []*compile.Problem
	// Notes are what Ready says beside True.
	Notes []*compile.Problem
}

// lease has the parts of an attachment that outlive a compile.
type lease struct {
	// Given are the addresses that the interface has, or had last.
	Given []netip.Prefix
	// adopted says that this process decided once what the owner gets; joined are the
	// addresses that it got then.
	adopted bool
	joined  []netip.Prefix
	// siblings is the fact that the attachment shares with other ones of its target.
	siblings fact
}

// next is an outcome with the values that outlive a compile.
func (o outcome) next() outcome {
	return outcome{Network: o.Network, View: o.View, lease: o.lease}
}

// result says how the kernel took the objects. The caller of Resolve sets it.
type result struct {
	Errs map[netstate.Key]error
	// Done says that the last pass found or made everything.
	Done bool
	// Complete are the wanted objects when all of them were there last.
	Complete netstate.Set
	// Attempts counts the failures in a row.
	Attempts int
	// Repairs counts the passes that put something back.
	Repairs int64
	// Ready is the Ready condition as last reported; Crowded says that it told of nearly
	// all ports being used.
	Ready   metav1.Condition
	Crowded bool
}

// Accepted says whether the owner is there and may be built.
func (u *Resource) Accepted() bool { return u.In != nil && u.In.Accepted.Status == "True" }

// Going reports whether the owner would be swept: it, or the network or attachment that it
// references, has disappeared. An explicit removal, or a rejection for any other reason, is
// no sweep and is not braked.
func (u *Resource) Going() bool {
	switch {
	case u.ByCommand || u.Accepted():
		return false
	case u.In == nil:
		return true
	}
	switch u.In.Accepted.Reason {
	case v1alpha1.ReasonNetworkNotFound, v1alpha1.ReasonAttachmentNotFound, v1alpha1.ReasonNodeNotFound:
		return !u.Empty()
	}
	return false
}

// want replaces what an owner wants, and keeps up what follows from wanted objects.
func (rv *Resolver) want(u *Resource, objects netstate.Set) {
	u.Changed = u.Changed || !maps.Equal(u.Wanted(), objects)
	came, went := u.Want(objects)
	for _, k := range went {
		rv.giveHostAddress(k, -1)
	}
	for _, k := range came {
		rv.giveHostAddress(k, 1)
	}
	rv.Wants(came, went)
}
