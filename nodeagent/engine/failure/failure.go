// Package failure says why a kernel object could not be made: to a person, with a reason
// and what to do, and to the loop, whether trying again helps.
package failure

import (
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/patchbay-dev/patchbay/api/v1alpha1"
	"github.com/patchbay-dev/patchbay/nodeagent/kernel"
	"github.com/patchbay-dev/patchbay/nodeagent/limit"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
)

// The failures that the engine finds itself.
var (
	// ErrWaits marks errors that only repeat another object's.
	ErrWaits = errors.New("waits for")
	// ErrMissing marks namespaces that another program is to make.
	ErrMissing = errors.New("missing")
	// ErrTaken marks names that another program has.
	ErrTaken = errors.New("taken")
	// ErrForwardsSoon marks ports that a spanning tree lets forward in a while.
	ErrForwardsSoon = errors.New("lets it forward after its forward delay")
	// ErrObstructed marks obstacles that another program put in the way of packets.
	ErrObstructed = errors.New("is in the way")
	// ErrContested marks objects that another program undoes again and again.
	ErrContested = errors.New("is changed again and again")
)

// cause is a failure that a person can end.
type cause struct {
	err error
	// kind of the object that failed; zero for any.
	kind   netstate.Kind
	reason string
	// remedy is added to a message that does not say it.
	remedy string
	// byOthers says that nothing ends it on this node but its administrator or another
	// program, so that one who runs a command need not wait.
	byOthers bool
}

const (
	adviceRefused     = "the kernel refuses the value: change the field"
	adviceUnsupported = "this kernel cannot do it: load or build the module for it, or leave the field out"
	advicePermitted   = "it is not permitted: run with CAP_NET_ADMIN and CAP_SYS_ADMIN, outside of a restricted container, and see what a security module logs"
	adviceReadOnly    = "have it mounted read-write"
	adviceBusy        = "another program uses it: release it there, or choose another"
	adviceExists      = "another program has made it: remove it, or choose another"
	adviceUnreachable = "no address of the interface reaches the gateway: correct spec.routes, or add an address of its subnet"
)

// causes are looked through in this order.
var causes = []cause{
	{err: ErrWaits, reason: v1alpha1.ReasonPending, byOthers: true},
	{err: ErrForwardsSoon, reason: v1alpha1.ReasonPending},
	{err: ErrObstructed, reason: v1alpha1.ReasonObstructed, byOthers: true},
	{err: ErrContested, reason: v1alpha1.ReasonContested, byOthers: true},
	{err: kernel.ErrMountsApart, reason: v1alpha1.ReasonMountsNotShared, byOthers: true},
	{err: kernel.ErrSysctlReadOnly, reason: v1alpha1.ReasonSysctlReadOnly, byOthers: true},
	{err: kernel.ErrNetnsNotFound, reason: v1alpha1.ReasonNetnsNotFound},
	{err: ErrMissing, reason: v1alpha1.ReasonNetnsNotFound},
	{err: kernel.ErrBridgeFull, reason: v1alpha1.ReasonBridgeFull},
	{err: kernel.ErrForeign, reason: v1alpha1.ReasonInterfaceConflict},
	{err: ErrTaken, reason: v1alpha1.ReasonInterfaceConflict, byOthers: true},
	// They were made, or went, between the look and the change: the next look tells.
	{err: kernel.ErrExists, reason: v1alpha1.ReasonPending},
	{err: kernel.ErrLinkNotFound, reason: v1alpha1.ReasonPending},
	{err: unix.ENODEV, reason: v1alpha1.ReasonPending},
	{err: limit.ErrReached, reason: v1alpha1.ReasonLimitReached},
	{err: unix.EROFS, reason: v1alpha1.ReasonNotPermitted, remedy: adviceReadOnly, byOthers: true},
	{err: unix.EPERM, reason: v1alpha1.ReasonNotPermitted, remedy: advicePermitted, byOthers: true},
	{err: unix.EACCES, reason: v1alpha1.ReasonNotPermitted, remedy: advicePermitted, byOthers: true},
	{err: unix.EBUSY, kind: netstate.KindPort, reason: v1alpha1.ReasonUplinkInUse, remedy: adviceBusy},
	{err: unix.ELOOP, kind: netstate.KindPort, reason: v1alpha1.ReasonUplinkInUse, remedy: adviceBusy},
	{err: unix.EINVAL, kind: netstate.KindPort, reason: v1alpha1.ReasonUplinkInUse, remedy: "the kernel takes no such interface as a bridge's port: choose another"},
	{err: unix.EOPNOTSUPP, kind: netstate.KindPort, reason: v1alpha1.ReasonUplinkInUse, remedy: "the kernel takes no such interface as a bridge's port: choose another"},
	{err: unix.EBUSY, reason: v1alpha1.ReasonInterfaceConflict, remedy: adviceBusy},
	{err: unix.EEXIST, reason: v1alpha1.ReasonInterfaceConflict, remedy: adviceExists},
	{err: unix.ENETUNREACH, reason: v1alpha1.ReasonUnsupported, remedy: adviceUnreachable},
	{err: unix.EHOSTUNREACH, reason: v1alpha1.ReasonUnsupported, remedy: adviceUnreachable},
	{err: unix.EOPNOTSUPP, reason: v1alpha1.ReasonUnsupported, remedy: adviceUnsupported, byOthers: true},
	{err: unix.EAFNOSUPPORT, reason: v1alpha1.ReasonUnsupported, remedy: adviceUnsupported, byOthers: true},
	{err: unix.EPROTONOSUPPORT, reason: v1alpha1.ReasonUnsupported, remedy: adviceUnsupported, byOthers: true},
	{err: unix.EINVAL, reason: v1alpha1.ReasonUnsupported, remedy: adviceRefused},
	{err: unix.ERANGE, reason: v1alpha1.ReasonUnsupported, remedy: adviceRefused},
	{err: unix.EADDRNOTAVAIL, reason: v1alpha1.ReasonUnsupported, remedy: adviceRefused},
}

// causeOf returns what an error of an object means to a person: KernelError, with no
// remedy, for what no person can be expected to mend.
func causeOf(k netstate.Key, err error) cause {
	for _, c := range causes {
		// What the firewall's rules are is no choice of a person's.
		value := c.remedy == adviceRefused && k.Kind.Firewall()
		if errors.Is(err, c.err) && (c.kind == 0 || c.kind == k.Kind) && !value {
			return c
		}
	}
	return cause{reason: v1alpha1.ReasonKernelError}
}

// OnlyByOthers reports whether only another program, or the node's administrator, can end
// the failure of an object.
func OnlyByOthers(k netstate.Key, err error) bool { return causeOf(k, err).byOthers }

// ReasonOf returns the reason of the Ready condition for an error of an object.
func ReasonOf(k netstate.Key, err error) string { return causeOf(k, limit.Explain(err)).reason }

// Explained adds to an error what to do about it.
func Explained(k netstate.Key, err error) error {
	err = limit.Explain(err)
	if c := causeOf(k, err); c.remedy != "" {
		return fmt.Errorf("%w: %s", err, c.remedy)
	}
	return err
}

// Failures that only other programs can end are not tried again by the clock: the kernel tells
// when a name, a route or a port becomes free, a namespace appears, or a mount changes.
// It does not tell when a security module allows more.
var (
	othersEnd = []error{ErrTaken, ErrMissing, ErrWaits, ErrObstructed, ErrContested, kernel.ErrForeign, kernel.ErrNetnsNotFound, kernel.ErrBridgeFull}
	mountsEnd = []error{kernel.ErrMountsApart, kernel.ErrSysctlReadOnly, unix.EROFS}
)

// EndIsTold reports whether the kernel will tell of the end of a failure.
func EndIsTold(err error) bool { return isOneOf(err, othersEnd) }

// EndsByMount reports whether a mount may end a failure.
func EndsByMount(err error) bool { return isOneOf(err, mountsEnd) }

func isOneOf(err error, kinds []error) bool {
	return slices.ContainsFunc(kinds, func(kind error) bool { return errors.Is(err, kind) })
}
