package resolve

import (
	"maps"

	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
)

// SetNode tells of the node as it is now.
func (rv *Resolver) SetNode(node netstate.Node) {
	rv.Node = node
	rv.facts.Set(fact{kind: nodeFact}, foreign(node))
	rv.showRouter()
}

// showRouter lets publishes see the node, after a change of it or of a network's subnets.
func (rv *Resolver) showRouter() {
	rv.facts.Set(fact{kind: routerFact}, rv.Node.Router(rv.claims.Pooled))
}

// foreign is the part of a node that other programs made.
func foreign(n netstate.Node) netstate.Node {
	n.Links = maps.Clone(n.Links)
	maps.DeleteFunc(n.Links, func(_ string, l netstate.NodeLink) bool { return l.Ours })
	return n
}

// routingOf reads the routes and rules that other programs made in a target. A namespace
// that is not there yet, or cannot be read, has none.
func (rv *Resolver) routingOf(reader *Resource, netns string) netstate.Routing {
	f := named(routingFact, netns)
	r, known := rv.facts.Get(reader.Owner, f).(netstate.Routing)
	if known {
		return r
	}
	r, err := rv.Kernel.Routing(netns)
	if err == nil {
		rv.facts.Learn(f, r)
	}
	return r
}

// ipv6Off reads whether IPv6 is off in a namespace.
func (rv *Resolver) ipv6Off(reader *Resource, netns string) bool {
	off := rv.Kernel.IPv6Off(netns)
	if f := named(ipv6OffFact, netns); off {
		rv.facts.Learn(f, true)
		rv.facts.Get(reader.Owner, f)
	}
	return off
}

// FollowRouting reads anew how a target routes, where another program changed that.
func (rv *Resolver) FollowRouting(netns string) {
	f := named(routingFact, netns)
	if rv.Ledger.Owners(netstate.Netns{Name: netns}.Key()).Len() == 0 {
		rv.facts.Learn(f, nil)
		return
	}
	if r, err := rv.Kernel.Routing(netns); err == nil {
		rv.facts.Set(f, r)
	} else {
		rv.facts.Set(f, nil)
	}
}

// ForgetRoutings has the routing of each target read anew when it is compiled next.
func (rv *Resolver) ForgetRoutings() {
	rv.facts.Forget(func(f fact) bool { return f.kind == routingFact })
}

// NetnsNamed tells that a name of a namespace came or went.
func (rv *Resolver) NetnsNamed(netns string) {
	rv.facts.Learn(named(routingFact, netns), nil)
	rv.facts.Touch(named(netnsFact, netns))
}

// IPv6Appeared tells of an IPv6 address in a namespace: the first that is heard of IPv6 that
// is switched on.
func (rv *Resolver) IPv6Appeared(netns string) { rv.facts.Set(named(ipv6OffFact, netns), nil) }
