package compile

import (
	"fmt"

	"github.com/patchbay-dev/patchbay/api/v1alpha1"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
)

const (
	// MaxPorts is how many ports a Linux bridge takes (BR_MAX_PORTS is 1,024, and
	// number 0 is none).
	MaxPorts = 1023
	// ManyPorts is the number of used ports from which a network says so.
	ManyPorts = 900
)

// PortRoom returns how many attachments find a port on a network's bridge: all ports
// but the uplink and the foreign interfaces that were joined to it.
func PortRoom(v NetworkView, node netstate.Node) int {
	room := MaxPorts
	if v.Uplink != "" {
		room--
	}
	for name, l := range node.Links {
		if l.Master == v.Bridge && !l.Ours && name != v.Uplink {
			room--
		}
	}
	return max(room, 0)
}

// PortOf is a port of a bridge.
func PortOf(bridge string) Thing { return Thing{Kind: BridgePort, Name: bridge} }

// portClaim is the claim of a port of the network's bridge.
func (b *attachment) portClaim() Claim {
	return Claim{Thing: PortOf(b.net.Bridge), Reason: v1alpha1.ReasonBridgeFull, Field: "spec.network", Proof: linkKey(b.view.Host)}
}

// BridgeFull says what to do where a bridge has no port left.
func BridgeFull(c Claim) *Problem {
	return problem(c.Reason, "%s: there is no free %s: a Linux bridge takes %s, those of others among them: use a second network or another node; this attachment gets a port as soon as one is free", c.Field, c.Thing, portCount(MaxPorts))
}

// PortsUsed is the note on a bridge that is nearly full, or full.
func PortsUsed(bridge string, used int) *Problem {
	return problem(v1alpha1.ReasonProgrammed, "%d of the %s that bridge %s takes are used: plan a second network", used, portCount(MaxPorts), bridge)
}

func portCount(n int) string { return fmt.Sprintf("%d,%03d ports", n/1000, n%1000) }
