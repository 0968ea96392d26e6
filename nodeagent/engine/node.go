package engine

import (
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/patchbay-dev/patchbay/nodeagent/compile"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
)

// followNode reads the node's own state anew.
func (e *Engine) followNode() {
	node, err := e.readNode()
	if err != nil {
		e.Log.Error("read the node's own links and routes", "err", err)
		e.rest(readNode, pauseAfterError)
		e.soon(readNode)
		return
	}
	e.rest(readNode, nodePause)
	e.setNode(node)
}

func (e *Engine) setNode(node netstate.Node) {
	e.node = node
	e.facts.Set(fact{kind: nodeFact}, foreign(node))
	e.showRouter()
}

// showRouter lets publishes see the node, after a change of it or of a network's subnets.
func (e *Engine) showRouter() { e.facts.Set(fact{kind: routerFact}, e.node.Router(e.claims.Pooled)) }

// readNode reads the node's own state. One of our forward guards says that forwarding
// was off before us, also where the record of that is lost. While the firewall is unknown,
// that stays as it was.
func (e *Engine) readNode() (netstate.Node, error) {
	node, err := e.Kernel.Node()
	for _, f := range []netstate.Family{netstate.IPv4, netstate.IPv6} {
		k := netstate.ForwardGuard{Family: f}.Key()
		guards, unknown := e.Firewall.Observe([]netstate.Key{k})
		if guards[k] != nil || unknown[k] != nil && e.started && !e.node.Forwarding[f] {
			delete(node.Forwarding, f)
		}
	}
	return node, err
}

// foreign is the part of a node that other programs made.
func foreign(n netstate.Node) netstate.Node {
	n.Links = maps.Clone(n.Links)
	maps.DeleteFunc(n.Links, func(_ string, l netstate.NodeLink) bool { return l.Ours })
	return n
}

// followRoutings reads anew how targets route where other programs changed that.
func (e *Engine) followRoutings() {
	e.rest(readRouting, nodePause)
	for netns := range e.astray {
		if e.ledger.Owners(netstate.Netns{Name: netns}.Key()).Len() == 0 {
			e.facts.Learn(named(routingFact, netns), nil)
			continue
		}
		if r, err := e.Kernel.Routing(netns); err == nil {
			e.facts.Set(named(routingFact, netns), r)
		} else {
			e.facts.Set(named(routingFact, netns), nil)
		}
	}
	clear(e.astray)
}

// routingOf reads the routes and rules that other programs made in a target. A namespace
// that is not there yet, or cannot be read, has none.
func (e *Engine) routingOf(reader *unit, netns string) netstate.Routing {
	f := named(routingFact, netns)
	r, known := e.facts.Get(reader.owner, f).(netstate.Routing)
	if known {
		return r
	}
	r, err := e.Kernel.Routing(netns)
	if err == nil {
		e.facts.Learn(f, r)
	}
	return r
}

// ipv6Off reads whether IPv6 is off in a namespace.
func (e *Engine) ipv6Off(reader *unit, netns string) bool {
	off := e.Kernel.IPv6Off(netns)
	if f := named(ipv6OffFact, netns); off {
		e.facts.Learn(f, true)
		e.facts.Get(reader.owner, f)
	}
	return off
}

// noteEarly notes the links of an owner where another program sees packets first.
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

// silentPause is the time between two looks at silent sysctls.
const silentPause = 700 * time.Millisecond

// silent are wanted sysctls of the node that traffic depends on and that the kernel sends
// no notification about.
type silent map[netstate.Key]bool

func (e *Engine) addSilent(k netstate.Key) {
	sysctl := k.Kind == netstate.KindSysctl || k.Kind == netstate.KindSysctlNode
	if sysctl && k.Netns == "" && strings.HasSuffix(k.Name, "/route_localnet") {
		e.silent[k] = true
		e.alarms.By(alarm{what: lookAtSilent}, e.Now().Add(silentPause))
	}
}

// lookAtSilent reads silent sysctls.
func (e *Engine) lookAtSilent() {
	if len(e.silent) == 0 {
		return
	}
	e.alarms.At(alarm{what: lookAtSilent}, e.Now().Add(silentPause))
	e.recheck(slices.Collect(maps.Keys(e.silent)))
}
