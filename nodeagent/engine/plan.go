package engine

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/patchbay-dev/patchbay/api/v1alpha1"
	"github.com/patchbay-dev/patchbay/nodeagent/engine/ledger"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
	"github.com/patchbay-dev/patchbay/nodeagent/plan"
)

// Planned is what the next pass would do for one owner.
type Planned struct {
	Owner netstate.Owner
	plan.Group
	// Mend says that the ruleset that its objects in the firewall need is not as it must be.
	Mend bool
	// Unseen says that the firewall could not be read.
	Unseen bool
	// Status is what the owner's would be; nil for an owner without a
	// resource.
	Status *Status
}

// Teller is who said last, in the record, how a resource stands.
type Teller string

const (
	// Agent runs: it tries what it says that it could not do until it can.
	Agent Teller = "agent"
	// Command has ended, and no process has looked since.
	Command Teller = "command"
)

// Observed is the status with Ready as the kernel is now: not, if there is
// anything to do, or an agent has not done it.
func (p Planned) Observed(last Teller) Status {
	s := *p.Status
	settled := len(p.Steps) == 0 && !p.Mend
	for _, c := range s.Input.Conditions() {
		if c.Type != v1alpha1.ConditionReady {
			continue
		}
		refused := c.Status == metav1.ConditionFalse
		// Who tried to mend it knows why that failed; an agent hears of the firewall's
		// changes, and knows what cannot be seen here.
		if refused && (last == Agent || s.Ready.Status == metav1.ConditionTrue && !settled) || p.Unseen && last == Agent && settled {
			return s.recorded(c)
		}
	}
	if settled || s.Ready.Status != metav1.ConditionTrue {
		return s
	}
	lines := plan.Lines(p.Steps)
	s.Ready.Status, s.Ready.Reason = metav1.ConditionFalse, v1alpha1.ReasonPending
	if len(lines) == 0 {
		s.Ready.Message = mendNote
		return s
	}
	s.Ready.Message = fmt.Sprintf("%d of its objects not as it should be, the first: %s %s %s", len(lines), lines[0].Sign(), lines[0].Key.Kind, plan.Describe(lines[0].Key))
	return s
}

// recorded is the status as the record has it, with its Ready condition.
func (s Status) recorded(ready metav1.Condition) Status {
	s.Ready = ready
	switch {
	case s.Attachment != nil:
		s.Attachment = s.Input.Attachment.Status.DeepCopy()
	case s.Publish != nil:
		s.Publish = s.Input.Publish.Status.DeepCopy()
	}
	return s
}

const mendNote = "chains or rules of the firewall are not as they must be: apply, or an agent, writes them anew"

// Plan returns what the next pass would do, by owner, and does nothing.
func (e *Engine) Plan() ([]Planned, error) {
	e.once = true
	if err := e.start(); err != nil {
		return nil, err
	}
	return e.planned(), nil
}

// Look is Plan for who only wants to know how things stand: where the firewall cannot
// be read, that is said with the objects which need it.
func (e *Engine) Look() ([]Planned, error) {
	if err := e.readFirewall(); err != nil {
		e.Log.Warn("not all can be seen", "err", fmt.Errorf("read the firewall: %w", err))
	}
	if err := e.startKernel(); err != nil {
		return nil, err
	}
	return e.planned(), nil
}

func (e *Engine) planned() []Planned {
	batch := e.take()
	e.work = work{leaving: map[netstate.Key]netstate.Owner{}}
	e.resolver.Resolve(batch)
	steps := e.prepare(batch)
	planned, mend := map[netstate.Owner]*Planned{}, mends(steps)
	for o := range batch {
		planned[o] = &Planned{Owner: o, Group: plan.Group{Title: planTitle(o)}, Unseen: e.unseen[netstate.Ruleset{}.Key()]}
		if u := e.resolver.Resources[o]; u.In != nil {
			s := e.status(u)
			planned[o].Status = &s
			if planned[o].Mend = mend && usesFirewall(u); planned[o].Mend {
				planned[o].Note = mendNote
			}
			if s.Ready.Status != metav1.ConditionTrue {
				planned[o].Note = s.Ready.Reason + ": " + s.Ready.Message
			}
		}
	}
	for _, s := range steps {
		if s.Key.Kind == netstate.KindRuleset {
			continue
		}
		o := e.planOwner(s.Key, batch)
		if planned[o] == nil {
			planned[o] = &Planned{Owner: o, Group: plan.Group{Title: planTitle(o)}}
		}
		p := planned[o]
		p.Steps = append(p.Steps, s)
	}
	return sorted(planned)
}

func sorted(planned map[netstate.Owner]*Planned) []Planned {
	var out []Planned
	for _, p := range planned {
		if p.Status != nil || len(p.Steps) > 0 {
			out = append(out, *p)
		}
	}
	slices.SortFunc(out, func(a, b Planned) int { return a.Owner.Compare(b.Owner) })
	return out
}

// planOwner returns the owner of a batch under which an object is shown: the first that
// wants it, else the first who holds it.
func (e *Engine) planOwner(k netstate.Key, batch map[netstate.Owner]bool) netstate.Owner {
	for _, owners := range []*ledger.Owners{e.ledger.Owners(k), e.ledger.Holders(k)} {
		in := slices.SortedFunc(owners.All(), netstate.Owner.Compare)
		if i := slices.IndexFunc(in, func(o netstate.Owner) bool { return batch[o] }); i >= 0 {
			return in[i]
		}
	}
	return orphans
}

func planTitle(o netstate.Owner) string {
	if o.Kind == "" {
		return "Without an owner"
	}
	return o.Title()
}

// Left returns an error that names what could not be removed; nil if nothing
// is left.
func (e *Engine) Left() error {
	var errs []error
	for o, u := range e.resolver.Resources {
		if u.In != nil {
			continue
		}
		for _, k := range slices.SortedFunc(maps.Keys(u.Errs), netstate.Key.Compare) {
			errs = append(errs, fmt.Errorf("%s: %w", planTitle(o), u.Errs[k]))
		}
	}
	return errors.Join(errs...)
}
