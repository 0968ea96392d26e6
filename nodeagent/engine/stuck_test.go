package engine

import (
	"errors"
	"fmt"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/patchbay-dev/patchbay/api/v1alpha1"
	"github.com/patchbay-dev/patchbay/nodeagent/kernel"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
	"github.com/patchbay-dev/patchbay/nodeagent/plan"
)

// TestFailuresOfOthersHaveNoTimer: a failure that only another program can end is not tried
// again by the clock, but at once when the kernel tells of its end. The kernel's own
// failures are.
func TestFailuresOfOthersHaveNoTimer(t *testing.T) {
	a := nsa("a", "red", "10.0.0.11/24")
	a.Spec.Target.Netns.Lifecycle = v1alpha1.External
	bridge := netstate.Link{Name: "br-red", Type: netstate.OtherLink}
	inside := netstate.Link{Netns: "a", Name: "eth0", Type: netstate.OtherLink}
	netns := netstate.Netns{Name: "a"}
	route := netstate.Route{Netns: "a", Link: "eth0", Dst: pfx("0.0.0.0/0")}
	foreign := route
	foreign.Link = "eth9"
	fails := func(w *world, err error) {
		w.k.appErr = func(s plan.Step) error {
			if s.Key == route.Key() {
				return fmt.Errorf("add route: %w", err)
			}
			return nil
		}
	}
	for name, c := range map[string]struct {
		begin, end func(*world)
		told       kernel.Event
		owner      v1alpha1.Object
		reason     string
		timer      bool
	}{
		"a name that is taken": {
			begin: func(w *world) { w.k.set.Add(netns, bridge) }, end: func(w *world) { w.k.remove(bridge.Key()) },
			told: kernel.Event{Key: bridge.Key(), Gone: true}, owner: bnet("red"), reason: v1alpha1.ReasonInterfaceConflict,
		},
		"a name in a namespace that another link has beside its own": {
			begin: func(w *world) { w.k.set.Add(netns, inside) }, end: func(w *world) { w.k.remove(inside.Key()) },
			told: kernel.Event{Key: netstate.Link{Netns: "a", Name: "eth9"}.Key()}, owner: a, reason: v1alpha1.ReasonInterfaceConflict,
		},
		"a namespace that is missing": {
			begin: func(*world) {}, end: func(w *world) { w.k.set.Add(netns) },
			told: kernel.Event{Key: netns.Key()}, owner: a, reason: v1alpha1.ReasonNetnsNotFound,
		},
		"a route in the way": {
			begin: func(w *world) { w.k.set.Add(netns); fails(w, kernel.ErrForeign) }, end: func(w *world) { w.k.appErr = nil },
			told: kernel.Event{Key: foreign.Key(), Gone: true}, owner: a, reason: v1alpha1.ReasonInterfaceConflict,
		},
		"a read-only mount": {
			begin: func(w *world) { w.k.set.Add(netns); fails(w, unix.EROFS) }, end: func(w *world) { w.k.appErr = nil },
			told: kernel.Event{Mounts: true}, owner: a, reason: v1alpha1.ReasonNotPermitted,
		},
		"read-only sysctls": {
			begin: func(w *world) { w.k.set.Add(netns); fails(w, kernel.ErrSysctlReadOnly) }, end: func(w *world) { w.k.appErr = nil },
			told: kernel.Event{Mounts: true}, owner: a, reason: v1alpha1.ReasonSysctlReadOnly,
		},
		"a refusal": {
			begin: func(w *world) { w.k.set.Add(netns); fails(w, unix.EPERM) }, end: func(w *world) { w.k.appErr = nil },
			owner: a, reason: v1alpha1.ReasonNotPermitted, timer: true,
		},
		"a failure of the kernel": {
			begin: func(w *world) { w.k.set.Add(netns); fails(w, errors.New("ENOBUFS")) }, end: func(w *world) { w.k.appErr = nil },
			owner: a, reason: v1alpha1.ReasonKernelError, timer: true,
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			c.begin(w)
			w.set(bnet("red", "10.0.0.0/24"))
			w.set(a)
			w.turns(20)
			w.expectReasons("at first", map[v1alpha1.Object]string{c.owner: "False " + c.reason})
			if got := w.turn() < idle; got != c.timer {
				t.Errorf("it has a timer: %t, want %t", got, c.timer)
			}
			c.end(w)
			if c.timer {
				w.later(lastRetry)
			} else {
				w.k.fn(c.told)
			}
			w.turns(20)
			w.expectReasons("at last", map[v1alpha1.Object]string{bnet("red"): "True Programmed", a: "True Programmed"})
		})
	}
}
