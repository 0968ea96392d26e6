package engine

import (
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/patchbay-dev/patchbay/nodeagent/compile"
	"github.com/patchbay-dev/patchbay/nodeagent/engine/resolve"
	"github.com/patchbay-dev/patchbay/nodeagent/hostport"
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
	e.resolver.SetNode(node)
}

// readNode reads the node's own state. One of our forward guards says that forwarding
// was off before us, also where the record of that is lost. While the firewall is unknown,
// that stays as it was.
func (e *Engine) readNode() (netstate.Node, error) {
	node, err := e.Kernel.Node()
	for _, f := range []netstate.Family{netstate.IPv4, netstate.IPv6} {
		k := netstate.ForwardGuard{Family: f}.Key()
		guards, unknown := e.Firewall.Observe([]netstate.Key{k})
		if guards[k] != nil || unknown[k] != nil && e.started && !e.resolver.Node.Forwarding[f] {
			delete(node.Forwarding, f)
		}
	}
	return node, err
}

// followRoutings reads anew how targets route where other programs changed that.
func (e *Engine) followRoutings() {
	e.rest(readRouting, nodePause)
	for netns := range e.astray {
		e.resolver.FollowRouting(netns)
	}
	clear(e.astray)
}

// noteEarly notes the links of an owner where another program sees packets first.
func (e *Engine) noteEarly(u *resolve.Resource, observed netstate.Set) {
	for _, k := range u.Wanted().Keys() {
		l, ok := observed[k].(netstate.Link)
		if !ok || !l.XDP && !e.early[k] {
			continue
		}
		delete(e.early, k)
		note := compile.FiltersEarly(netstate.End{Netns: k.Netns, Name: k.Link}.String())
		if l.XDP && !slices.ContainsFunc(u.Notes, func(p *compile.Problem) bool { return *p == *note }) {
			u.Notes = append(u.Notes, note)
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

// followSilent notes which silent sysctls are wanted.
func (e *Engine) followSilent(came, went []netstate.Key) {
	for _, k := range went {
		delete(e.silent, k)
	}
	for _, k := range came {
		if isSysctl(k) && k.Netns == "" && strings.HasSuffix(k.Name, "/route_localnet") {
			e.silent[k] = true
			e.alarms.By(alarm{what: lookAtSilent}, e.Now().Add(silentPause))
		}
	}
}

// lookAtSilent reads silent sysctls.
func (e *Engine) lookAtSilent() {
	if len(e.silent) == 0 {
		return
	}
	e.alarms.At(alarm{what: lookAtSilent}, e.Now().Add(silentPause))
	e.recheck(slices.Collect(maps.Keys(e.silent))...)
}

// followHostPorts looks again at the ports that are not held, or not even published.
func (e *Engine) followHostPorts() {
	e.resolver.Mark(e.keeper.Again()...)
	e.lookAgain()
}

func (e *Engine) lookAgain() {
	if pause, any := e.keeper.Pause(); any {
		e.alarms.By(alarm{what: lookAtPorts}, e.Now().Add(pause))
	}
}

// keepPorts holds the ports of a batch as far as they are published, and lets all
// other ports of it go.
func (e *Engine) keepPorts(batch map[netstate.Owner]bool) {
	wishes := map[netstate.Owner]hostport.Wish{}
	for o := range batch {
		if o.Kind != netstate.OwnerPublish {
			continue
		}
		u := e.resolver.Resources[o]
		w := hostport.Wish{Publishes: resolve.PublishesIn(u.Wanted()), InKernel: u.Holds}
		if u.In != nil {
			wish := u.In.Publish.Spec.ReservePort
			w.Reserve = wish == nil || *wish
		}
		wishes[o] = w
	}
	e.keeper.Keep(wishes)
	e.lookAgain()
}
