package resolve

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/patchbay-dev/patchbay/api/v1alpha1"
	"github.com/patchbay-dev/patchbay/nodeagent/compile"
	"github.com/patchbay-dev/patchbay/nodeagent/engine/failure"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
)

// place decides where an attachment goes and which addresses it gets: what the
// spec says, else what it has by the record or the kernel, else one of each
// subnet. With a problem it sets aside what the attachment keeps all the same.
func (rv *Resolver) place(u *Resource) (at compile.Place, network *compile.NetworkView, p *compile.Problem) {
	a := u.In.Attachment
	if a.Spec.Network != "" {
		n, _ := rv.viewOf(u, networkOf(a.Spec.Network))
		if !n.built {
			rv.wish(u)
			return at, nil, rv.waitsFor(u, "network "+a.Spec.Network, networkOf(a.Spec.Network))
		}
		network = &n.network
	}
	at.Target.Netns, p = rv.netnsOf(u)
	switch {
	case network == nil || len(a.Spec.Addresses) > 0:
		at.Addresses = rv.static(u)
	case p != nil && ephemeral(a) && a.Status.PodUID == "":
		u.Given = nil
	default:
		u.Given = rv.claims.Keep(u.Owner, network.Name, u.had())
		at.Addresses = u.Given
		if p == nil {
			at.Addresses, p = rv.claims.Allocate(u.Owner, network.Name, u.Given)
		}
		if p != nil && at.Target.Netns != "" && len(u.Given) > 0 {
			// An attachment that has some stays up with them when a subnet that came
			// later is too small for all.
			at.Addresses, u.short, p = u.Given, p, nil
		}
	}
	if p == nil {
		at.Target.Name = rv.interfaceOf(u, at.Target.Netns)
	}
	return at, network, p
}

// noIPv6 returns the External namespaces of an attachment that would get an IPv6 address and
// have IPv6 off.
func (rv *Resolver) noIPv6(u *Resource, at compile.Place) []string {
	wants := map[string]bool{}
	note := func(netns string, addresses []netip.Prefix) {
		wants[netns] = wants[netns] || slices.ContainsFunc(addresses, func(p netip.Prefix) bool { return p.Addr().Is6() })
	}
	a := u.In.Attachment
	if a.Spec.Target.Netns == nil || a.Spec.Target.Netns.Lifecycle == v1alpha1.External {
		note(at.Target.Netns, at.Addresses)
	}
	if p := a.Spec.PointToPoint; p != nil && p.Netns != nil && p.Netns.Lifecycle == v1alpha1.External {
		note(string(p.Netns.Name), compile.Prefixes(p.Netns.Addresses))
	}
	var off []string
	for netns, six := range wants {
		if six && rv.ipv6Off(u, netns) {
			off = append(off, netns)
		}
	}
	return off
}

func ephemeral(a *v1alpha1.NamespaceAttachment) bool {
	return a.Spec.IPAM != nil && a.Spec.IPAM.Lifecycle == v1alpha1.IPAMEphemeral
}

// netnsOf reads the name of the network namespace of an attachment's target.
func (rv *Resolver) netnsOf(u *Resource) (string, *compile.Problem) {
	a := u.In.Attachment
	t := a.Spec.Target
	if t.Netns != nil {
		return string(t.Netns.Name), nil
	}
	problem := func(reason, format string, args ...any) (string, *compile.Problem) {
		return "", &compile.Problem{Reason: reason, Message: fmt.Sprintf(format, args...)}
	}
	if t.Pod == nil {
		return problem(v1alpha1.ReasonUnsupported, "spec.target names neither a network namespace nor a pod")
	}
	pod, runs := rv.facts.Get(u.Owner, named(podFact, a.Status.PodUID)).(Pod)
	// The UID of a static pod comes from an annotation, in which the maker of a pod can
	// write the UID of another tenant's pod.
	runs = runs && pod.Namespace == a.Namespace && pod.Name == t.Pod.Name
	switch {
	case a.Status.PodUID == "":
		return problem(v1alpha1.ReasonPodNotRunning, "pod %s/%s does not exist; it is wired as soon as it runs", a.Namespace, t.Pod.Name)
	case !runs:
		return problem(v1alpha1.ReasonPodNotRunning, "pod %s/%s does not run on node %s; it is wired as soon as it does", a.Namespace, t.Pod.Name, rv.Node.Name)
	case pod.HostNetwork:
		return problem(v1alpha1.ReasonUnsupported, "pod %s/%s uses the network of its node (hostNetwork), which cannot be wired", a.Namespace, t.Pod.Name)
	case pod.Problem != "":
		return problem(v1alpha1.ReasonUnsupported, "pod %s/%s: %s", a.Namespace, t.Pod.Name, pod.Problem)
	}
	return pod.Netns, nil
}

// maxInterfaces bounds the search for a name.
const maxInterfaces = 64

// interfaceOf names the interface inside the target: for a pod net1, net2, ... as
// far as no other program has it, and the same again each time.
func (rv *Resolver) interfaceOf(u *Resource, netns string) string {
	a := u.In.Attachment
	switch {
	case a.Spec.Interface != "":
		return string(a.Spec.Interface)
	case a.Spec.Target.Netns != nil:
		return "eth0"
	}
	names := u.interfacesIn(netns)
	if had := u.View.Target.Name; had != "" {
		// Another namespace of the same pod.
		names = append(names, had)
	}
	if a.Status.Interface != nil {
		names = append(names, a.Status.Interface.Name)
	}
	for i := range maxInterfaces {
		names = append(names, fmt.Sprintf("net%d", i+1))
	}
	for _, name := range names {
		end := netstate.End{Netns: netns, Name: name}
		foreign := errors.Is(u.Errs[netstate.Link{Netns: netns, Name: name}.Key()], failure.ErrTaken)
		if !foreign && rv.claims.Reserve(u.Owner, compile.InterfaceClaim(end, "spec.interface")) {
			return name
		}
	}
	return names[0]
}

// interfacesIn are the interfaces of a namespace that bear the owner's mark.
func (u *Resource) interfacesIn(netns string) []string {
	var names []string
	for k := range u.Held() {
		if k.Kind == netstate.KindLink && k.Netns == netns {
			names = append(names, k.Link)
		}
	}
	slices.Sort(names)
	return names
}

// wish sets aside what an attachment had on a network that is not there, for when
// it comes back.
func (rv *Resolver) wish(u *Resource) {
	a := u.In.Attachment
	had := u.had()
	if u.static() {
		had = compile.Prefixes(a.Spec.Addresses)
	}
	u.Given = nil
	for _, p := range had {
		again := slices.ContainsFunc(u.Given, func(q netip.Prefix) bool { return q.Masked() == p.Masked() })
		if (!again || u.static()) && rv.claims.Reserve(u.Owner, compile.AddressClaim(a.Spec.Network, p.Addr())) {
			u.Given = append(u.Given, p)
		}
	}
}
