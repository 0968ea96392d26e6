package resolve

import (
	"github.com/patchbay-dev/patchbay/nodeagent/compile"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
)

// UsedBridgePorts is how many ports of a network's bridge are used, ports that other programs
// joined among them.
func (rv *Resolver) UsedBridgePorts(u *Resource) int {
	limit, used, ok := rv.claims.Room(compile.PortOf(u.Network.Bridge), u.Owner)
	if !ok {
		return 0
	}
	return compile.MaxPorts - limit + used
}

// limitPorts notes how many ports a network has for attachments, if it is built.
func (rv *Resolver) limitPorts(u *Resource) {
	if port := compile.PortOf(u.Network.Bridge); u.Problem == nil || u.kept {
		rv.claims.Limit(port, u.Owner, compile.PortRoom(u.Network, rv.Node))
	} else {
		rv.claims.Unlimit(port, u.Owner)
	}
}

// Crowds returns the networks whose number of used ports changed since the last call.
func (rv *Resolver) Crowds() []netstate.Owner { return rv.claims.Crowds() }
