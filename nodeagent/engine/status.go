package engine

import (
	"fmt"
	"net/netip"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/patchbay-dev/patchbay/api/v1alpha1"
	"github.com/patchbay-dev/patchbay/nodeagent/compile"
	"github.com/patchbay-dev/patchbay/nodeagent/engine/failure"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
	"github.com/patchbay-dev/patchbay/nodeagent/plan"
)

// Status is what came of one resource on this node. Conditions carry no
// transition time; who stores them knows whether they changed.
type Status struct {
	Owner netstate.Owner
	Input Input
	Ready metav1.Condition
	// Done says that the kernel holds what can be had of the resource, and
	// nothing else of it.
	Done bool
	// One of these is set, by kind, without conditions.
	Bridge     *v1alpha1.NodeBridgeStatus
	Attachment *v1alpha1.NamespaceAttachmentStatus
	Publish    *v1alpha1.PortPublishStatus
}

// settle ends a pass: it logs and counts what changed, and reports.
func (e *Engine) settle(batch map[netstate.Owner]bool, applied []plan.Step, summed map[netstate.Key]bool) {
	e.tell(applied, summed)
	e.rejoin(applied)
	e.showFailing(batch)
	for o := range batch {
		u := e.units[o]
		u.done = len(u.errs) == 0
		if u.done {
			u.complete = u.Wanted()
		}
		e.pause(u)
		switch {
		case u.in != nil:
			u.changed = u.changed && !u.done
			e.report(u)
		case o.Kind != "" && u.done && u.Empty():
			e.forget(u)
			e.Reporter.Removed(o)
		}
		for k, err := range u.errs {
			e.Log.Debug("not as wanted", "owner", ownerText(o), "object", k.String(), "err", err)
		}
	}
	e.reportPorts(batch)
	e.wakeLosers()
}

// showFailing lets other owners see which owners of a batch fail. An owner that fails itself
// hears of the end of that: it may be what it waits for.
func (e *Engine) showFailing(batch map[netstate.Owner]bool) {
	for o := range batch {
		var failing any
		if len(e.units[o].errs) > 0 {
			failing = true
		}
		e.facts.Set(about(failingFact, o), failing)
	}
	for o := range batch {
		u := e.units[o]
		if len(u.errs) == 0 || u.in == nil {
			continue
		}
		e.facts.Get(o, fact{kind: nodeFact})
		if u.in.Attachment != nil && u.in.Attachment.Spec.Network != "" {
			e.facts.Get(o, about(failingFact, networkOf(u.in.Attachment.Spec.Network)))
		}
		for _, a := range u.targets {
			e.facts.Get(o, about(failingFact, a))
		}
	}
}

// report tells what came of an owner.
func (e *Engine) report(u *unit) {
	s := e.status(u)
	summed := u.ready.Reason == v1alpha1.ReasonContested && s.Ready.Reason == v1alpha1.ReasonContested
	if u.ready != s.Ready && !summed {
		e.Log.Info("status", "owner", u.owner.String(), "ready", s.Ready.Status, "reason", s.Ready.Reason, "message", s.Ready.Message)
	}
	u.ready = s.Ready
	e.Reporter.Report(s)
}

// countRepairs counts for each owner of the batch that something of it was put
// back: an object, or the rules that the firewall's objects need.
func (e *Engine) countRepairs(batch map[netstate.Owner]bool, applied []plan.Step) {
	repaired, mended := map[netstate.Owner]bool{}, mends(applied)
	for _, s := range applied {
		if owner, drift := e.blame(s.Key); drift {
			repaired[owner] = true
		}
	}
	for o := range batch {
		u := e.units[o]
		if repaired[o] || mended && u.mended() {
			u.repairs++
		}
	}
}

// mends reports whether steps put back the ruleset of the firewall.
func mends(steps []plan.Step) bool {
	return slices.ContainsFunc(steps, func(s plan.Step) bool { return s.Key.Kind == netstate.KindRuleset })
}

// mended reports whether rules of the firewall that were put back are drift of the owner.
func (u *unit) mended() bool { return !u.changed && u.filtered() }

// filtered says whether something of the owner is in the firewall.
func (u *unit) filtered() bool {
	for k := range u.Wanted() {
		if k.Kind.Firewall() {
			return true
		}
	}
	return false
}

// rejoin has the attachments of a bridge that was made anew looked at: they
// lost their place in it.
func (e *Engine) rejoin(applied []plan.Step) {
	for _, s := range applied {
		l, ok := s.New.(netstate.Link)
		if !ok || s.Op != plan.Create || l.Type != netstate.Bridge {
			continue
		}
		if owner, drift := e.blame(s.Key); drift {
			e.facts.Touch(about(viewFact, owner))
		}
	}
}

// tell logs one line per changed object, except for objects that are summed. What changes
// although its owner did not is drift.
func (e *Engine) tell(applied []plan.Step, summed map[netstate.Key]bool) {
	for _, l := range plan.Lines(applied) {
		owner, drift := e.blame(l.Key)
		cause := "wanted"
		if drift {
			cause = "drift"
		}
		args := []any{"owner", ownerText(owner), "object", l.Key.Kind.String() + " " + plan.Describe(l.Key), "cause", cause}
		if l.Old != nil {
			args = append(args, "old", l.Old.String())
		}
		if l.New != nil {
			args = append(args, "new", l.New.String())
		}
		if !summed[l.Key] {
			e.Log.Info(map[string]string{"+": "made", "-": "removed", "~": "changed"}[l.Sign()], args...)
		}
		e.Reporter.Changed(owner, l, drift)
	}
}

func ownerText(o netstate.Owner) string {
	if o.Kind == "" {
		return "none"
	}
	return o.String()
}

// blame returns an owner of an object, and whether none of its owners had a
// change to make.
func (e *Engine) blame(k netstate.Key) (owner netstate.Owner, drift bool) {
	owners := e.ledger.Owners(k)
	owner, ok := owners.First()
	if !ok {
		return e.leaving[k], false
	}
	for o := range owners.All() {
		if e.units[o].changed {
			return owner, false
		}
	}
	return owner, true
}

// statuses returns the status of every resource, in order.
func (e *Engine) statuses() []Status {
	var out []Status
	for _, u := range e.units {
		if u.in != nil {
			out = append(out, e.status(u))
		}
	}
	slices.SortFunc(out, func(a, b Status) int { return a.Owner.Compare(b.Owner) })
	return out
}

func (e *Engine) status(u *unit) Status {
	notes := u.notes
	ports := e.usedPorts(u)
	if u.crowded = ports >= compile.ManyPorts; u.crowded {
		notes = append(slices.Clone(notes), compile.PortsUsed(u.network.Bridge, ports))
	}
	s := Status{Owner: u.owner, Input: *u.in, Ready: u.readyCondition(notes, e.fights.Contested(u.owner)), Done: u.done}
	generation := u.in.Object().GetGeneration()
	s.Ready.ObservedGeneration = generation
	switch {
	case u.in.Network != nil:
		s.Bridge = &v1alpha1.NodeBridgeStatus{Repairs: u.repairs, ObservedGeneration: generation, Bridge: u.network.Bridge, MTU: int32(u.network.MTU), Addresses: u.addressesOn(u.network.Bridge)}
		if u.crowded {
			s.Bridge.Ports = int32(ports)
		}
	case u.in.Attachment != nil:
		s.Attachment = e.attachmentStatus(u)
		s.Attachment.ObservedGeneration = generation
	case u.in.Publish != nil:
		published := u.published()
		s.Publish = &v1alpha1.PortPublishStatus{ObservedGeneration: generation, Published: published[:min(len(published), maxPublished)], Summary: summary(published)}
	}
	return s
}

// readyCondition says why, in the order in which a person has to mend it; where nothing
// has to be, with notes.
func (u *unit) readyCondition(notes []*compile.Problem, contested string) metav1.Condition {
	c := metav1.Condition{Type: v1alpha1.ConditionReady, Status: metav1.ConditionFalse}
	switch {
	case !u.accepted():
		c.Reason, c.Message = v1alpha1.ReasonPending, "not accepted: "+u.in.Accepted.Message
	case u.problem != nil:
		c.Reason, c.Message = u.problem.Reason, u.problem.Message
	case len(u.partial) > 0:
		all := compile.Joined(u.partial)
		c.Reason, c.Message = all.Reason, all.Message
	case len(u.errs) > 0 || contested != "":
		c.Reason, c.Message = failure.Explain(u.errs, contested)
	case len(notes) > 0:
		all := compile.Joined(notes)
		c.Status, c.Reason, c.Message = metav1.ConditionTrue, all.Reason, all.Message
	default:
		c.Status, c.Reason = metav1.ConditionTrue, v1alpha1.ReasonProgrammed
		c.Message = fmt.Sprintf("the kernel holds all of it: %d objects", len(u.Wanted()))
	}
	return c
}

func (u *unit) addressesOn(link string) []v1alpha1.Subnet {
	var out []v1alpha1.Subnet
	for _, k := range u.Wanted().Keys() {
		if k.Kind == netstate.KindAddress && k.Link == link {
			out = append(out, v1alpha1.Subnet(k.Name))
		}
	}
	return out
}

func (e *Engine) attachmentStatus(u *unit) *v1alpha1.NamespaceAttachmentStatus {
	s := &v1alpha1.NamespaceAttachmentStatus{NodeName: e.node.Name, PodUID: u.in.Attachment.Status.PodUID}
	if u.accepted() {
		s.Addresses = toSubnets(u.given)
		if u.noIPv6 && u.problem == nil {
			s.Addresses = toSubnets(u.view.Addresses)
		}
	}
	if !u.accepted() || u.view.Target == (netstate.End{}) || u.problem != nil {
		return s
	}
	for _, gw := range u.view.Gateways {
		s.Gateways = append(s.Gateways, v1alpha1.IPAddress(gw.String()))
	}
	s.MACAddress = u.view.MAC.String()
	s.Interface = e.interfaceStatus(u, u.view.Target)
	if u.view.Host != (netstate.End{}) {
		s.HostInterface = e.interfaceStatus(u, u.view.Host)
	}
	return s
}

// interfaceStatus names an end and, where it exists, its index.
func (e *Engine) interfaceStatus(u *unit, end netstate.End) *v1alpha1.InterfaceStatus {
	s := &v1alpha1.InterfaceStatus{Netns: end.Netns, Name: end.Name}
	if len(u.errs) == 0 {
		if i, err := e.Kernel.LinkIndex(end); err == nil {
			s.Index = int32(i)
		}
	}
	return s
}

func toSubnets(in []netip.Prefix) []v1alpha1.Subnet {
	var out []v1alpha1.Subnet
	for _, p := range in {
		out = append(out, v1alpha1.Subnet(p.String()))
	}
	return out
}

// recordedReady reports whether the resource's own record says that it was
// built.
func (u *unit) recordedReady() bool {
	return slices.ContainsFunc(u.in.Conditions(), func(c metav1.Condition) bool {
		return c.Type == v1alpha1.ConditionReady && c.Status == metav1.ConditionTrue
	})
}
