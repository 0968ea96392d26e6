package kernel

import (
	"errors"
	"fmt"
	"slices"

	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
	"github.com/patchbay-dev/patchbay/nodeagent/plan"
)

// Apply carries out steps of one stage and returns the error of each. One that
// fails does not stop the others. Deleting an absent object succeeds; creating a present
// one fails with ErrExists, or with ErrForeign where that will not change.
//
// Redirects through links are deleted first, then all links together, so that the objects
// on them need no message of their own. Sysctls are written last, with one thread switch
// for each namespace.
func (k *Kernel) Apply(steps []plan.Step) []error {
	s := k.session()
	defer s.close()
	errs := make([]error, len(steps))
	for i, step := range steps {
		if removesRedirect(step) {
			errs[i] = s.apply(step)
			s.trim()
		}
	}
	s.deleteLinks(steps, errs)
	for _, i := range order(steps) {
		step := steps[i]
		if step.Key.Kind == netstate.KindLink && step.Op == plan.Delete || removesRedirect(step) || isSysctl(step.Key) {
			continue
		}
		errs[i] = s.apply(step)
		s.trim()
	}
	s.applySysctls(steps, errs)
	return errs
}

// removesRedirect reports whether a step removes a redirect. The link that packets are led
// through must not go before it, or the packets are lost.
func removesRedirect(step plan.Step) bool {
	return step.Key.Kind == netstate.KindRedirect && step.Op == plan.Delete
}

// order puts new bridges before the veths that name them as master.
func order(steps []plan.Step) []int {
	indexes := make([]int, len(steps))
	for i := range indexes {
		indexes[i] = i
	}
	rank := func(i int) int {
		if l, ok := steps[i].New.(netstate.Link); ok && steps[i].Op == plan.Create && l.Type == netstate.Bridge {
			return 0
		}
		return 1
	}
	slices.SortStableFunc(indexes, func(a, b int) int { return rank(a) - rank(b) })
	return indexes
}

func (s *session) apply(step plan.Step) error {
	object := step.New
	if step.Op == plan.Delete {
		object = step.Old
	}
	switch o := object.(type) {
	case netstate.Netns:
		return s.applyNetns(step.Op, o)
	case netstate.Link:
		return s.applyLink(step, o)
	case netstate.Shaper:
		return s.applyShaper(step.Op, o)
	case netstate.Redirect:
		return s.applyRedirect(step.Op, o)
	case netstate.Address:
		return s.applyAddress(step.Op, o)
	case netstate.Route:
		return s.applyRoute(step.Op, o)
	case netstate.Rule:
		return s.applyRule(step.Op, o)
	case netstate.Port:
		return s.applyPort(step.Op, o)
	case netstate.Hairpin:
		return s.applyHairpin(step.Op, o)
	case nil:
		return fmt.Errorf("%s %s: the step has no object", step.Op, step.Key)
	}
	return unsupported(step.Op, step.Key)
}

// putOrRemove carries out an operation on an object that is put in place in the
// same way whether it is there or not.
func putOrRemove(op plan.Op, put, remove func() error) error {
	switch op {
	case plan.Create, plan.Update:
		return put()
	case plan.Delete:
		return remove()
	}
	return errors.ErrUnsupported
}

func unsupported(op plan.Op, key netstate.Key) error {
	return fmt.Errorf("%s %s: %w", op, key, errors.ErrUnsupported)
}

func isSysctl(key netstate.Key) bool {
	return key.Kind == netstate.KindSysctl || key.Kind == netstate.KindSysctlNode
}
