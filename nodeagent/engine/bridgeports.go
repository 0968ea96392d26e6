package engine

import (
	"github.com/patchbay-dev/patchbay/nodeagent/compile"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
)

// room is how many owners may have a counted resource: the ports of a bridge.
type room struct {
	network netstate.Owner
	// limit is for how many owners there is room; used by all is the rest of
	// compile.MaxPorts and the owners that have one.
	limit int
	// changed says that owners came or went since the network was reported.
	changed bool
}

// full reports whether a counted resource has no room for an owner. One that has it
// keeps it, also where others have taken room since.
func (c *claims) full(o netstate.Owner, resource string) bool {
	_, has := c.held[resource][o]
	r := c.rooms[resource]
	return !has && r != nil && len(c.held[resource]) >= r.limit
}

func (c *claims) count(cl compile.Claim) {
	if r := c.rooms[cl.Resource]; r != nil && cl.Counted {
		r.changed = true
	}
}

// usedPorts is how many ports of a network's bridge are used, those of others among
// them.
func (e *Engine) usedPorts(u *unit) int {
	resource := compile.BridgePort(u.network.Bridge)
	r := e.claims.rooms[resource]
	if r == nil || r.network != u.owner {
		return 0
	}
	return compile.MaxPorts - r.limit + len(e.claims.held[resource])
}

// limitPorts notes how many ports a network has for attachments, if it is built. Where
// there are more now, those who wait for one look again.
func (e *Engine) limitPorts(u *unit) {
	if u.problem != nil && !u.kept {
		e.forgetPorts(u)
		return
	}
	resource, limit := compile.BridgePort(u.network.Bridge), compile.PortRoom(u.network, e.node)
	old := e.claims.rooms[resource]
	e.claims.rooms[resource] = &room{network: u.owner, limit: limit}
	if old != nil && limit > old.limit {
		e.wakeWaiting(resource)
	}
}

// forgetPorts ends the limit of a network that is not built.
func (e *Engine) forgetPorts(u *unit) {
	if resource := compile.BridgePort(u.network.Bridge); e.claims.rooms[resource] != nil && e.claims.rooms[resource].network == u.owner {
		delete(e.claims.rooms, resource)
	}
}

// reportPorts reports the networks again whose bridges are nearly full, or were when
// they were reported last, and have another number of ports.
func (e *Engine) reportPorts(batch map[netstate.Owner]bool) {
	for _, r := range e.claims.rooms {
		u := e.units[r.network]
		if !r.changed || u == nil || u.in == nil {
			continue
		}
		r.changed = false
		if many := e.usedPorts(u) >= compile.ManyPorts; !batch[r.network] && (many || u.crowded) {
			e.report(u)
		}
	}
}
