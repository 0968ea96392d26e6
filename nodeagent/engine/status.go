package engine

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/patchbay-dev/patchbay/api/v1alpha1"
	"github.com/patchbay-dev/patchbay/nodeagent/compile"
	"github.com/patchbay-dev/patchbay/nodeagent/engine/failure"
	"github.com/patchbay-dev/patchbay/nodeagent/engine/resolve"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
	"github.com/patchbay-dev/patchbay/nodeagent/plan"
)

// Status is what came of one resource on this node. Conditions carry no
// transition time; who stores them knows whether they changed.
type Status struct {
	Owner netstate.Owner
	Input Input
	Ready metav1.Condition
	// One of these is set, by kind, without conditions.
	Bridge     *v1alpha1.NodeBridgeStatus
	Attachment *v1alpha1.NamespaceAttachmentStatus
	Publish    *v1alpha1.PortPublishStatus
}

// settle ends a pass: it logs and counts what changed, and reports.
func (e *Engine) settle(batch map[netstate.Owner]bool, applied []plan.Step, summed map[netstate.Key]bool) {
	e.keep(batch)
	e.tell(applied, summed)
	e.rejoin(applied)
	e.resolver.ShowFailing(batch)
	for o := range batch {
		u := e.resolver.Resources[o]
		u.Done = len(u.Errs) == 0
		if u.Done {
			u.Complete = u.Wanted()
		}
		e.pause(u)
		switch {
		case u.In != nil:
			u.Changed = u.Changed && !u.Done
			e.report(u)
		case o.Kind != "" && u.Done && u.Empty():
			e.forget(u)
			e.Reporter.Removed(o)
		}
		for k, err := range u.Errs {
			e.Log.Debug("not as wanted", "owner", ownerText(o), "object", k.String(), "err", err)
		}
	}
	e.reportPorts(batch)
	e.resolver.WakeLosers()
}

// report tells what came of an owner.
func (e *Engine) report(u *resolve.Resource) {
	s := e.status(u)
	summed := u.Ready.Reason == v1alpha1.ReasonContested && s.Ready.Reason == v1alpha1.ReasonContested
	if u.Ready != s.Ready && !summed {
		e.Log.Info("status", "owner", u.Owner.String(), "ready", s.Ready.Status, "reason", s.Ready.Reason, "message", s.Ready.Message)
	}
	u.Ready, u.Crowded = s.Ready, s.Bridge != nil && s.Bridge.Ports > 0
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
		u := e.resolver.Resources[o]
		if repaired[o] || mended && rulesPutBack(u) {
			u.Repairs++
		}
	}
}

// mends reports whether steps put back the ruleset of the firewall.
func mends(steps []plan.Step) bool {
	return slices.ContainsFunc(steps, func(s plan.Step) bool { return s.Key.Kind == netstate.KindRuleset })
}

// rulesPutBack reports whether rules of the firewall that were put back are drift of the owner.
func rulesPutBack(u *resolve.Resource) bool { return !u.Changed && usesFirewall(u) }

// rejoin has the attachments of a bridge that was made anew looked at: they
// lost their place in it.
func (e *Engine) rejoin(applied []plan.Step) {
	for _, s := range applied {
		l, ok := s.New.(netstate.Link)
		if !ok || s.Op != plan.Create || l.Type != netstate.Bridge {
			continue
		}
		if owner, drift := e.blame(s.Key); drift {
			e.resolver.Rebuilt(owner)
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
		if e.resolver.Resources[o].Changed {
			return owner, false
		}
	}
	return owner, true
}

// statuses returns the status of every resource, in order.
func (e *Engine) statuses() []Status {
	var out []Status
	for _, u := range e.resolver.Resources {
		if u.In != nil {
			out = append(out, e.status(u))
		}
	}
	slices.SortFunc(out, func(a, b Status) int { return a.Owner.Compare(b.Owner) })
	return out
}

func (e *Engine) status(u *resolve.Resource) Status {
	notes := u.Notes
	ports := e.resolver.UsedBridgePorts(u)
	crowded := ports >= compile.ManyPorts
	if crowded {
		notes = append(slices.Clone(notes), compile.PortsUsed(u.Network.Bridge, ports))
	}
	s := Status{Owner: u.Owner, Input: *u.In, Ready: readyCondition(u, notes, e.fights.Contested(u.Owner))}
	generation := u.In.Object().GetGeneration()
	s.Ready.ObservedGeneration = generation
	switch {
	case u.In.Network != nil:
		s.Bridge = &v1alpha1.NodeBridgeStatus{Repairs: u.Repairs, ObservedGeneration: generation, Bridge: u.Network.Bridge, MTU: int32(u.Network.MTU), Addresses: addressesOn(u, u.Network.Bridge)}
		if crowded {
			s.Bridge.Ports = int32(ports)
		}
	case u.In.Attachment != nil:
		s.Attachment = e.attachmentStatus(u)
		s.Attachment.ObservedGeneration = generation
	case u.In.Publish != nil:
		open := published(u)
		s.Publish = &v1alpha1.PortPublishStatus{ObservedGeneration: generation, Published: open[:min(len(open), maxPublished)], Summary: summary(open)}
	}
	return s
}

// readyCondition says why, in the order in which a person has to mend it; where nothing
// has to be, with notes.
func readyCondition(u *resolve.Resource, notes []*compile.Problem, contested string) metav1.Condition {
	c := metav1.Condition{Type: v1alpha1.ConditionReady, Status: metav1.ConditionFalse}
	switch {
	case !u.Accepted():
		c.Reason, c.Message = v1alpha1.ReasonPending, "not accepted: "+u.In.Accepted.Message
	case u.Problem != nil:
		c.Reason, c.Message = u.Problem.Reason, u.Problem.Message
	case len(u.Partial) > 0:
		all := compile.Joined(u.Partial)
		c.Reason, c.Message = all.Reason, all.Message
	case len(u.Errs) > 0 || contested != "":
		c.Reason, c.Message = failure.Explain(u.Errs, contested)
	case len(notes) > 0:
		all := compile.Joined(notes)
		c.Status, c.Reason, c.Message = metav1.ConditionTrue, all.Reason, all.Message
	default:
		c.Status, c.Reason = metav1.ConditionTrue, v1alpha1.ReasonProgrammed
		c.Message = fmt.Sprintf("the kernel holds all of it: %d objects", len(u.Wanted()))
	}
	return c
}

func addressesOn(u *resolve.Resource, link string) []v1alpha1.Subnet {
	var out []v1alpha1.Subnet
	for _, k := range u.Wanted().Keys() {
		if k.Kind == netstate.KindAddress && k.Link == link && u.Holds(k) && u.Errs[k] == nil {
			out = append(out, v1alpha1.Subnet(k.Name))
		}
	}
	return out
}

func (e *Engine) attachmentStatus(u *resolve.Resource) *v1alpha1.NamespaceAttachmentStatus {
	s := &v1alpha1.NamespaceAttachmentStatus{NodeName: e.resolver.Node.Name, PodUID: u.In.Attachment.Status.PodUID}
	if u.Accepted() {
		s.Addresses = toSubnets(u.Given)
		if u.NoIPv6 && u.Problem == nil {
			s.Addresses = toSubnets(u.View.Addresses)
		}
	}
	if !u.Accepted() || u.View.Target == (netstate.End{}) || u.Problem != nil {
		return s
	}
	for _, gw := range u.View.Gateways {
		s.Gateways = append(s.Gateways, v1alpha1.IPAddress(gw.String()))
	}
	s.MACAddress = u.View.MAC.String()
	s.Interface = interfaceStatus(u.View.Target)
	if u.View.Host == (netstate.End{}) {
		s.Interface.Index, _ = e.indexes(u, u.View.Target)
		return s
	}
	s.HostInterface = interfaceStatus(u.View.Host)
	s.HostInterface.Index, s.Interface.Index = e.indexes(u, u.View.Host)
	return s
}

func interfaceStatus(end netstate.End) *v1alpha1.InterfaceStatus {
	return &v1alpha1.InterfaceStatus{Netns: end.Netns, Name: end.Name}
}

// indexes returns the index of a link and of the other end of its pair, as far as they exist.
func (e *Engine) indexes(u *resolve.Resource, end netstate.End) (index, peer int32) {
	if len(u.Errs) > 0 {
		return 0, 0
	}
	index, peer, _ = e.Kernel.LinkIndex(end)
	return index, peer
}

func toSubnets(in []netip.Prefix) []v1alpha1.Subnet {
	var out []v1alpha1.Subnet
	for _, p := range in {
		out = append(out, v1alpha1.Subnet(p.String()))
	}
	return out
}

// reportPorts reports the networks again whose bridges are nearly full, or were when
// they were reported last, and have another number of ports.
func (e *Engine) reportPorts(batch map[netstate.Owner]bool) {
	for _, o := range e.resolver.Crowds() {
		u := e.resolver.Resources[o]
		if u == nil || u.In == nil || batch[o] {
			continue
		}
		if many := e.resolver.UsedBridgePorts(u) >= compile.ManyPorts; many || u.Crowded {
			e.report(u)
		}
	}
}

// published are the open ports of a publish.
func published(u *resolve.Resource) []v1alpha1.PublishedStatus {
	var out []v1alpha1.PublishedStatus
	for _, k := range u.Wanted().Keys() {
		p, ok := u.Wanted()[k].(netstate.Publish)
		if !ok || !u.Holds(k) || u.Errs[k] != nil || p.Sources == netstate.Nobody {
			continue
		}
		s := v1alpha1.PublishedStatus{Protocol: v1alpha1.Protocol(strings.ToUpper(p.Proto)), HostPort: int32(p.HostPort), HostPortEnd: int32(p.HostPortEnd)}
		if !p.Host.IsUnspecified() {
			s.Address = v1alpha1.IPAddress(p.Host.String())
		}
		for _, t := range p.Targets.All() {
			s.Target = t.String()
			out = append(out, s)
		}
	}
	return out
}

const (
	// maxPublished is what the CRD allows in a status.
	maxPublished = 2048
	// maxSummary is what a column of a table can bear; the CRD allows twice that.
	maxSummary = 128
)

// summary is the published ports in one line: "*:8001/TCP->10.68.0.101:80, +3".
func summary(published []v1alpha1.PublishedStatus) string {
	var out strings.Builder
	texts := summaries(published)
	for i, text := range texts {
		if i > 0 && out.Len()+len(text) > maxSummary {
			fmt.Fprintf(&out, ", +%d", len(texts)-i)
			break
		}
		if i > 0 {
			out.WriteString(", ")
		}
		out.WriteString(text)
	}
	return out.String()
}

// summaries are the texts of ports: with their target, or with the number of
// them where there are several.
func summaries(published []v1alpha1.PublishedStatus) []string {
	var out []string
	for len(published) > 0 {
		s, n := published[0], 1
		for n < len(published) && samePort(s, published[n]) {
			n++
		}
		host, target := "*", s.Target
		if a, err := netip.ParseAddr(string(s.Address)); err == nil {
			host = strings.TrimSuffix(netip.AddrPortFrom(a, 0).String(), ":0")
		}
		if n > 1 {
			target = fmt.Sprintf("%d targets", n)
		}
		text := fmt.Sprintf("%s:%s/%s->%s", host, v1alpha1.PortText(s.HostPort, s.HostPortEnd), s.Protocol, target)
		// Both families of as many targets are one thing to a reader.
		if !slices.Contains(out, text) {
			out = append(out, text)
		}
		published = published[n:]
	}
	return out
}

// samePort says whether two entries are of one port; that of each family is one
// of its own.
func samePort(a, b v1alpha1.PublishedStatus) bool {
	six := func(s v1alpha1.PublishedStatus) bool { return strings.HasPrefix(s.Target, "[") }
	return a.Address == b.Address && a.Protocol == b.Protocol && a.HostPort == b.HostPort && a.HostPortEnd == b.HostPortEnd && six(a) == six(b)
}
