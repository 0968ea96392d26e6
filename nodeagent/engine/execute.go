package engine

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/patchbay-dev/patchbay/nodeagent/engine/failure"
	"github.com/patchbay-dev/patchbay/nodeagent/engine/resolve"
	"github.com/patchbay-dev/patchbay/nodeagent/kernel"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
	"github.com/patchbay-dev/patchbay/nodeagent/plan"
)

// execute carries out steps stage by stage and returns the steps that succeeded. A step
// whose dependencies failed, or could not be observed, is skipped, and so are further
// steps of an owner whose sysctls are read-only.
func (e *Engine) execute(batch map[netstate.Owner]bool, steps []plan.Step) []plan.Step {
	x := execution{e: e, batch: batch, failed: map[netstate.Key]bool{}, stopped: map[netstate.Owner]bool{}}
	maps.Copy(x.failed, e.unseen)
	for stage := plan.StageClosePublish; stage <= plan.StagePublish; stage++ {
		e.progressed()
		var part []plan.Step
		for _, s := range steps {
			if s.Stage == stage && !x.blocked(s) {
				part = append(part, s)
			}
		}
		x.apply(stage, part)
	}
	x.e.endConnections(batch)
	for o := range batch {
		// An object that no owner wants and that nothing kept from going is gone, by a
		// step of its own or with its link or namespace.
		u := e.resolver.Resources[o]
		u.DropIf(func(k netstate.Key) bool { return e.ledger.Owners(k).Len() == 0 && u.Errs[k] == nil })
	}
	return x.applied
}

type execution struct {
	e       *Engine
	batch   map[netstate.Owner]bool
	failed  map[netstate.Key]bool
	stopped map[netstate.Owner]bool
	applied []plan.Step
}

// blocked reports whether a step depends on something that failed, and tells
// its owners so.
func (x *execution) blocked(s plan.Step) bool {
	dependencies := plan.Dependencies(s)
	if i := slices.IndexFunc(dependencies, func(k netstate.Key) bool { return x.failed[k] }); i >= 0 {
		if k := dependencies[i]; k != s.Key {
			x.e.fail(x.batch, s.Key, fmt.Errorf("%w %s", failure.ErrWaits, plan.Describe(k)))
			x.failed[s.Key] = true
		}
		return true
	}
	owners := x.e.ledger.Owners(s.Key)
	for o := range owners.All() {
		if !x.stopped[o] && !x.waitsForAttachment(o, s) {
			return false
		}
	}
	return owners.Len() > 0
}

// waitsForAttachment keeps a publish closed whose target is not built.
func (x *execution) waitsForAttachment(o netstate.Owner, s plan.Step) bool {
	if s.Stage != plan.StagePublish {
		return false
	}
	for _, a := range x.e.resolver.Resources[o].Targets {
		if t := x.e.resolver.Resources[a]; t != nil && len(t.Errs) > 0 {
			// It is looked at again when the attachment is whole.
			x.e.resolver.HearOfFailing(o, a)
			x.e.fail(x.batch, s.Key, fmt.Errorf("%w %s", failure.ErrWaits, a.Title()))
			return true
		}
	}
	return false
}

// apply has the driver of a stage carry out its steps.
func (x *execution) apply(stage plan.Stage, part []plan.Step) {
	if len(part) == 0 {
		return
	}
	var driver Driver = x.e.Kernel
	if stage.Firewall() {
		driver = x.e.Firewall
	}
	for i, err := range driver.Apply(part) {
		if err != nil {
			if stage.Firewall() && i == 0 {
				x.e.Log.Error("change the firewall", "err", err)
			}
			x.failed[part[i].Key] = true
			x.e.fail(x.batch, part[i].Key, failure.Advised(part[i].Key, err))
			if errors.Is(err, kernel.ErrSysctlReadOnly) {
				for o := range x.e.ledger.Owners(part[i].Key).All() {
					x.stopped[o] = true
				}
			}
			continue
		}
		x.success(part[i])
	}
}

// success notes which owners hold the object of a step now.
func (x *execution) success(s plan.Step) {
	x.applied = append(x.applied, s)
	x.e.resolver.IdentifyMade(s)
	for o := range x.e.ledger.Owners(s.Key).All() {
		x.e.ledger.Account(o).Hold(s.Key)
	}
}

// fail notes an error with the owners that want or hold the object. Owners outside the
// batch are looked at in the next turn, unless they have an error for the object already.
func (e *Engine) fail(batch map[netstate.Owner]bool, k netstate.Key, err error) {
	owners := e.ledger.Owners(k)
	for o := range owners.All() {
		switch u := e.resolver.Resources[o]; {
		case batch[o]:
			u.Errs[k] = err
		case u.Errs[k] == nil:
			e.resolver.Again(o)
		}
	}
	if owners.Len() > 0 {
		return
	}
	for o := range e.ledger.Holders(k).All() {
		if batch[o] {
			e.resolver.Resources[o].Errs[k] = err
		}
	}
}

// endConnections ends the tracked connections of attachments that have gone, or have
// other addresses now: the next attachment with their addresses would inherit them.
func (e *Engine) endConnections(batch map[netstate.Owner]bool) {
	var gone []netip.Addr
	for o := range batch {
		gone = append(gone, e.vacated(e.resolver.Resources[o])...)
	}
	if len(gone) == 0 {
		return
	}
	if err := e.Firewall.Forget(gone); err != nil {
		e.Log.Error("forget connections of attachments that have gone", "err", err)
	}
}

// vacated are the addresses in a namespace that a pass took from an attachment.
// Addresses that the node does not reach belong to other hosts there, if to any; but on a
// LAN it may have reached them by an address that has gone too. Of an attachment that is
// known by its marks alone, that is not known.
func (e *Engine) vacated(u *resolve.Resource) []netip.Addr {
	known := u.View.Target != (netstate.End{})
	if u.Owner.Kind != netstate.OwnerAttachment || known && !u.View.Reachable && !u.View.External {
		return nil
	}
	stays := map[netip.Addr]bool{}
	for _, o := range u.Wanted() {
		if a, ok := o.(netstate.Address); ok {
			stays[a.Prefix.Addr()] = true
		}
	}
	var gone []netip.Addr
	for k := range u.Held() {
		if k.Kind != netstate.KindAddress || k.Netns == "" || e.ledger.Owners(k).Len() > 0 || u.Errs[k] != nil {
			continue
		}
		if p, err := netip.ParsePrefix(k.Name); err == nil && !stays[p.Addr()] {
			gone = append(gone, p.Addr())
		}
	}
	return gone
}
