package resolve

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
func (u *Resource) fresh() bool { return u.Ready == metav1.Condition{} }

// grantHeld gives compiled owners that this process takes over what they claim and
// have. Where two show the same, the kernel and the record together come before the
// kernel alone: a firewall does not name its objects' owners. The record alone, of a
// node that was booted, comes last.
func (rv *Resolver) grantHeld(units []*Resource, results []compile.Result) {
	there := func(i int, c compile.Claim) bool { return rv.proves(units[i], results[i], c) }
	recorded := func(i int, c compile.Claim) bool { return units[i].recordedHolder(c) }
	both := func(i int, c compile.Claim) bool { return there(i, c) && recorded(i, c) }
	for _, shown := range []func(int, compile.Claim) bool{both, there, recorded} {
		for i, u := range units {
			if !u.fresh() || u.Problem != nil && u.Empty() && len(u.Inherited) == 0 {
				continue
			}
			for _, c := range results[i].Claims {
				if c.Proof != (netstate.Key{}) && shown(i, c) {
					rv.claims.Grant(u.Owner, c)
				}
			}
		}
	}
}

// proves reports whether the kernel holds the proof of a claim as this owner's: links
// and the objects on them bear its mark; a published port leads to its targets.
func (rv *Resolver) proves(u *Resource, r compile.Result, c compile.Claim) bool {
	if !c.Proof.Kind.Firewall() {
		return u.Holds(c.Proof)
	}
	there := rv.inFirewall(c.Proof)
	if p, ok := there.(netstate.Publish); ok {
		want, _ := r.Objects[c.Proof].(netstate.Publish)
		return p.Targets == want.Targets
	}
	return there != nil
}

// inFirewall returns an object that the firewall holds whole, else nil.
func (rv *Resolver) inFirewall(k netstate.Key) netstate.Object {
	found, _ := rv.Firewall.Observe([]netstate.Key{k})
	if _, partial := found[k].(netstate.Partial); partial {
		return nil
	}
	return found[k]
}

// recordedHolder reports whether the status in the owner's record shows that it had
// what it claims.
func (u *Resource) recordedHolder(c compile.Claim) bool {
	switch {
	case u.In.Publish != nil:
		return slices.ContainsFunc(recordedPorts(u.In.Publish), func(p netstate.Publish) bool { return p.Key() == c.Proof })
	case u.In.Attachment != nil:
		s := u.In.Attachment.Status
		is := func(i *v1alpha1.InterfaceStatus) bool {
			return i != nil && i.Netns == c.Proof.Netns && i.Name == c.Proof.Link
		}
		return (is(s.Interface) || is(s.HostInterface)) && (c.Reason != v1alpha1.ReasonMACConflict || s.MACAddress == u.View.MAC.String())
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

// Remember claims the addresses or the host ports of the record of an owner that is
// not compiled yet, so that no other owner gets them meanwhile.
func (rv *Resolver) Remember(in Input) {
	u := rv.Resource(in.Owner())
	var list []compile.Claim
	for _, p := range recordedPorts(in.Publish) {
		list = append(list, compile.PortClaim(p))
	}
	if a := in.Attachment; a != nil {
		u.Given = nil
		for _, p := range slices.Concat(compile.Prefixes(a.Status.Addresses), u.marked()) {
			if slices.Contains(u.Given, p) {
				continue
			}
			u.Given = append(u.Given, p)
			if a.Spec.Network != "" {
				list = append(list, compile.AddressClaim(a.Spec.Network, p.Addr()))
			}
		}
	}
	list = slices.DeleteFunc(list, func(c compile.Claim) bool { return !rv.claims.Reserve(u.Owner, c) })
	rv.claims.Settle(u.Owner, list, false)
	rv.WakeLosers()
}

// recordedReady reports whether the resource's own record says that it was
// built.
func (u *Resource) recordedReady() bool {
	return slices.ContainsFunc(u.In.Conditions(), func(c metav1.Condition) bool {
		return c.Type == v1alpha1.ConditionReady && c.Status == metav1.ConditionTrue
	})
}

// HoldMarked has an attachment that is not to be built keep the addresses that the kernel
// holds of it.
func (rv *Resolver) HoldMarked(o netstate.Owner) {
	if u := rv.Resources[o]; o.Kind == netstate.OwnerAttachment && !u.Accepted() && len(rv.claims.Of(o)) == 0 {
		rv.lease(u)
	}
}
