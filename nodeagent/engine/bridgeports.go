package engine

import (
	"github.com/patchbay-dev/patchbay/nodeagent/compile"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
)

// usedPorts is how many ports of a network's bridge are used, ports that other programs
// joined among them.
func (e *Engine) usedPorts(u *unit) int {
	limit, used, ok := e.claims.Room(compile.PortOf(u.network.Bridge), u.owner)
	if !ok {
		return 0
	}
	return compile.MaxPorts - limit + used
}

// limitPorts notes how many ports a network has for attachments, if it is built.
func (e *Engine) limitPorts(u *unit) {
	if port := compile.PortOf(u.network.Bridge); u.problem == nil || u.kept {
		e.claims.Limit(port, u.owner, compile.PortRoom(u.network, e.node))
	} else {
		e.claims.Unlimit(port, u.owner)
	}
}

// reportPorts reports the networks again whose bridges are nearly full, or were when
// they were reported last, and have another number of ports.
func (e *Engine) reportPorts(batch map[netstate.Owner]bool) {
	for _, o := range e.claims.Crowds() {
		u := e.units[o]
		if u == nil || u.in == nil || batch[o] {
			continue
		}
		if many := e.usedPorts(u) >= compile.ManyPorts; many || u.crowded {
			e.report(u)
		}
	}
}
