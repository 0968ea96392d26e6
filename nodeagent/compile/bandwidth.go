package compile

import (
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/patchbay-dev/patchbay/api/v1alpha1"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
)

// Defaults of a burst, as the API documents them: what the rate carries in a
// fiftieth of a second, and at least so many bits.
const (
	burstsPerSecond = 50
	leastBits       = 512_000
)

// limit holds the link to spec.bandwidth. What the target receives leaves the
// far end; what it sends arrives there and is led through an ifb, which it
// leaves. So nothing that limits is inside the target, which might remove it.
// Between two namespaces both ends are inside one, and each limits what it
// sends.
func (b *attachment) limit() {
	w := b.a.Spec.Bandwidth
	if w == nil {
		return
	}
	target := b.r.Objects[netstate.Link{Netns: b.view.Target.Netns, Name: b.view.Target.Name}.Key()].(netstate.Link)
	if w.IngressRate != nil {
		b.r.add(shaper(target.Peer, target.MTU, w.IngressRate, w.Burst))
	}
	if w.EgressRate == nil {
		return
	}
	if b.view.Host == (netstate.End{}) {
		b.r.add(shaper(b.view.Target, target.MTU, w.EgressRate, w.Burst))
		return
	}
	ifb := netstate.Link{Name: ifbName(b.a), Type: netstate.IFB, MAC: deriveMAC("ifb", b.c.Node.Name, b.a.Namespace, b.a.Name), MTU: target.MTU, Mark: b.mark, Up: true}
	b.claimInterface(netstate.End{Name: ifb.Name}, "spec.bandwidth.egressRate")
	b.r.add(ifb, shaper(netstate.End{Name: ifb.Name}, target.MTU, w.EgressRate, w.Burst),
		netstate.Redirect{Link: b.view.Host.Name, To: ifb.Name}, linkSysctl("", ifb.Name, "ipv6", "disable_ipv6", "1"))
}

// ifbName has the digits of the veth's derived name.
func ifbName(a *v1alpha1.NamespaceAttachment) string {
	return "ifb" + hash("nsa", a.Namespace, a.Name)[:8]
}

func shaper(on netstate.End, mtu int, rate, burst *resource.Quantity) netstate.Shaper {
	bits := uint64(rate.Value())
	wanted := max(bits/burstsPerSecond, leastBits)
	if burst != nil {
		wanted = uint64(burst.Value())
	}
	return netstate.NewShaper(on, mtu, bits, wanted/8)
}
