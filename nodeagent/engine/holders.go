package engine

import (
	"net/netip"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/patchbay-dev/patchbay/api/v1alpha1"
	"github.com/patchbay-dev/patchbay/nodeagent/compile"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
)

// A process begins without memory: an agent after a kill, apply, plan. What the
// kernel and the records show of holders decides before any other owner may claim,
// so that the next process decides as the last one did.

// fresh reports whether this process has not reported the owner yet.
func (u *unit) fresh() bool { return u.ready == metav1.Condition{} }

// grantHeld gives compiled owners that this process takes over what they claim and
// have. Where two show the same, the kernel and the record together come before the
// kernel alone: a firewall does not name its objects' owners. The record alone, of a
// node that was booted, comes last.
func (e *Engine) grantHeld(units []*unit, results []compile.Result) {
	there := func(i int, c compile.Claim) bool { return e.proves(units[i], results[i], c) }
	recorded := func(i int, c compile.Claim) bool { return units[i].recordedHolder(c) }
	both := func(i int, c compile.Claim) bool { return there(i, c) && recorded(i, c) }
	for _, shown := range []func(int, compile.Claim) bool{both, there, recorded} {
		for i, u := range units {
			if !u.fresh() || u.problem != nil && u.Empty() && len(u.recalled) == 0 {
				continue
			}
			for _, c := range results[i].Claims {
				if c.Proof != (netstate.Key{}) && shown(i, c) {
					e.claims.Grant(u.owner, c)
				}
			}
		}
	}
}

// proves reports whether the kernel holds the proof of a claim as this owner's: links
// and the objects on them bear its mark; a published port leads to its targets.
func (e *Engine) proves(u *unit, r compile.Result, c compile.Claim) bool {
	if !c.Proof.Kind.Firewall() {
		return u.Holds(c.Proof)
	}
	found, _ := e.Firewall.Observe([]netstate.Key{c.Proof})
	switch p := found[c.Proof].(type) {
	case nil, netstate.Partial:
		return false
	case netstate.Publish:
		want, _ := r.Objects[c.Proof].(netstate.Publish)
		return p.Targets == want.Targets
	}
	return true
}

// recordedHolder reports whether the status in the owner's record shows that it had
// what it claims.
func (u *unit) recordedHolder(c compile.Claim) bool {
	switch {
	case u.in.Publish != nil:
		return slices.ContainsFunc(recordedPorts(u.in.Publish), func(p netstate.Publish) bool { return p.Key() == c.Proof })
	case u.in.Attachment != nil:
		s := u.in.Attachment.Status
		is := func(i *v1alpha1.InterfaceStatus) bool {
			return i != nil && i.Netns == c.Proof.Netns && i.Name == c.Proof.Link
		}
		return (is(s.Interface) || is(s.HostInterface)) && (c.Reason != v1alpha1.ReasonMACConflict || s.MACAddress == u.view.MAC.String())
	}
	return u.recordedReady()
}

// recordedPorts are the ports that a publish's record says are open, without their
// targets; none of nil.
func recordedPorts(p *v1alpha1.PortPublish) (list []netstate.Publish) {
	if p == nil {
		return nil
	}
	for _, s := range p.Status.Published {
		target, err := netip.ParseAddrPort(s.Target)
		if err != nil {
			continue
		}
		o := netstate.Publish{Host: netip.IPv6Unspecified(), Proto: strings.ToLower(string(s.Protocol)), HostPort: uint16(s.HostPort), HostPortEnd: uint16(s.HostPortEnd)}
		if target.Addr().Is4() {
			o.Host = netip.IPv4Unspecified()
		}
		if a, err := netip.ParseAddr(string(s.Address)); err == nil {
			o.Host = a
		}
		list = append(list, o)
	}
	return list
}

// remember claims the addresses or the host ports of the record of an owner that is
// not compiled yet, so that no other owner gets them meanwhile.
func (e *Engine) remember(in Input) {
	u := e.unit(in.Owner())
	var list []compile.Claim
	for _, p := range recordedPorts(in.Publish) {
		list = append(list, compile.PortClaim(p))
	}
	if a := in.Attachment; a != nil {
		u.given = nil
		for _, p := range slices.Concat(compile.Prefixes(a.Status.Addresses), u.marked()) {
			if slices.Contains(u.given, p) {
				continue
			}
			u.given = append(u.given, p)
			if a.Spec.Network != "" {
				list = append(list, compile.AddressClaim(a.Spec.Network, p.Addr()))
			}
		}
	}
	list = slices.DeleteFunc(list, func(c compile.Claim) bool { return !e.claims.Reserve(u.owner, c) })
	e.claims.Settle(u.owner, list, false)
	e.wakeLosers()
}
