package engine

import (
	"maps"
	"reflect"
	"slices"

	"github.com/patchbay-dev/patchbay/api/v1alpha1"
	"github.com/patchbay-dev/patchbay/nodeagent/compile"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
)

// followNode reads the node's own state anew when something of it changed, and
// adds the owners that may depend on it: what is built on it, and what failed.
func (e *Engine) followNode(batch map[netstate.Owner]bool) {
	node, err := e.readNode()
	if err != nil {
		e.Log.Error("read the node's own links and routes", "err", err)
		e.rest(readNode, pauseAfterError)
		e.soon(readNode)
		return
	}
	before := facts(e.node)
	e.node = node
	e.rest(readNode, nodePause)
	if reflect.DeepEqual(before, facts(node)) {
		return
	}
	for o, u := range e.units {
		if u.in != nil && (e.dependsOnNode(u) || u.problem != nil || len(u.errs) > 0) {
			batch[o] = true
		}
	}
}

// readNode reads the node's own state. A forward guard of ours says that forwarding
// was off before us, also where the record of that is lost.
func (e *Engine) readNode() (netstate.Node, error) {
	node, err := e.Kernel.Node()
	guards := []netstate.Key{netstate.ForwardGuard{Family: netstate.IPv4}.Key(), netstate.ForwardGuard{Family: netstate.IPv6}.Key()}
	for k := range e.NAT.Observe(guards) {
		delete(node.Forwarding, netstate.Family(k.Name))
	}
	return node, err
}

// followRoutings reads anew how targets route where others changed that, and adds the
// owners that are there.
func (e *Engine) followRoutings(batch map[netstate.Owner]bool) {
	e.rest(readRouting, nodePause)
	for netns := range e.astray {
		key := netstate.Netns{Name: netns}.Key()
		before, known := e.routings[netns]
		delete(e.routings, netns)
		if e.ledger.Owners(key).Len() > 0 && (!known || !reflect.DeepEqual(before, e.routingOf(netns))) {
			e.mark(key, batch, nil)
		}
	}
	clear(e.astray)
}

// routingOf is what others made of a target's routing. Nothing is known of that in a
// namespace which is not there yet, or cannot be read.
func (e *Engine) routingOf(netns string) netstate.Routing {
	if r, known := e.routings[netns]; known {
		return r
	}
	r, err := e.Kernel.Routing(netns)
	if err == nil {
		e.routings[netns] = r
	}
	return r
}

// noteEarly notes the links of an owner where a program of others sees packets first.
func (e *Engine) noteEarly(u *unit, observed netstate.Set) {
	for _, k := range u.Wanted().Keys() {
		l, ok := observed[k].(netstate.Link)
		if !ok || !l.XDP && !e.early[k] {
			continue
		}
		delete(e.early, k)
		note := compile.FiltersEarly(netstate.End{Netns: k.Netns, Name: k.Link}.String())
		if l.XDP && !slices.ContainsFunc(u.notes, func(p *compile.Problem) bool { return *p == *note }) {
			u.notes = append(u.notes, note)
		}
		if l.XDP {
			e.early[k] = true
		}
	}
}

// facts are what of a node others made.
func facts(n netstate.Node) netstate.Node {
	n.Links = maps.Clone(n.Links)
	maps.DeleteFunc(n.Links, func(_ string, l netstate.NodeLink) bool { return l.Ours })
	return n
}

// dependsOnNode reports whether compile looks at the node for the owner. For an
// attachment behind a gateway of ours it does so only to refuse the node's addresses.
func (e *Engine) dependsOnNode(u *unit) bool {
	if u.in.Attachment == nil {
		return true
	}
	network := e.units[netstate.Owner{Kind: netstate.OwnerNetwork, Name: u.in.Attachment.Spec.Network}]
	return u.in.Attachment.Spec.PointToPoint != nil || network != nil && network.network.Mode == v1alpha1.GatewayExternal
}
