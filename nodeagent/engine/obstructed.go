package engine

import (
	"errors"
	"fmt"
	"strings"

	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
)

var (
	// errForwardsSoon marks ports that a spanning tree lets forward in a while.
	errForwardsSoon = errors.New("lets it forward after its forward delay")
	// errObstructed marks obstacles that another program put in the way of packets.
	errObstructed = errors.New("is in the way")
)

// failObstructed notes with the owners of a batch what keeps a link from carrying
// packets although the link is as wanted.
func (e *Engine) failObstructed(batch map[netstate.Owner]bool, observed netstate.Set) {
	for o := range batch {
		u := e.units[o]
		for k := range u.Wanted() {
			l, ok := observed[k].(netstate.Link)
			switch {
			case !ok:
			case l.Waits != "":
				u.errs[k] = portError(l)
			case l.Taken != "":
				u.errs[k] = takenError(l)
			case l.Planted != "":
				if err := e.plantedError(u, l); err != nil {
					u.errs[k] = err
				}
			}
		}
	}
}

// portError says why a port of another's bridge does not forward. Listening and
// learning end by themselves.
func portError(l netstate.Link) error {
	text := fmt.Sprintf("port %s of bridge %s is %s: ", l.Name, l.Master, l.Waits)
	switch l.Waits {
	case netstate.BridgeDown:
		return fmt.Errorf("%w bridge %s, which Patchbay did not make and which is down (ip link set %s up)", errWaits, l.Master, l.Master)
	case "listening", "learning":
		return fmt.Errorf("%sthe bridge's spanning tree %w", text, errForwardsSoon)
	}
	return fmt.Errorf("%sit %w the bridge's spanning tree, which has another way or was told so (bridge -d link show dev %s)", text, errWaits, l.Name)
}

// takenError says of a link that another program's filter takes all of its packets.
func takenError(l netstate.Link) error {
	tc := "tc"
	if l.Netns != "" {
		tc += " -n " + l.Netns
	}
	return fmt.Errorf("a filter of traffic control on interface %s %w: it takes all packets at %s (see: %s filter show dev %s %s; remove: %s filter del dev %s %s)",
		netstate.End{Netns: l.Netns, Name: l.Name}, errObstructed, l.Taken, tc, l.Name, l.Taken, tc, l.Name, l.Taken)
}

// plantedError returns an error where a permanent neighbour entry has a gateway at
// another MAC address than the gateway's. Other neighbours are not judged: their MAC
// addresses are not known here.
func (e *Engine) plantedError(u *unit, l netstate.Link) error {
	way, ok := e.ledger.Wanted(netstate.Link{Name: u.view.Way}.Key()).(netstate.Link)
	if !ok || u.view.Target != (netstate.End{Netns: l.Netns, Name: l.Name}) {
		return nil
	}
	for _, entry := range strings.Fields(l.Planted) {
		address, mac, _ := strings.Cut(entry, "=")
		for _, gateway := range u.view.Gateways {
			if gateway.String() == address && mac != way.MAC.String() {
				return fmt.Errorf("a permanent neighbour entry of %s in network namespace %s %w: it has %s at %s instead of %s (ip -n %s neigh del %s dev %s)",
					l.Name, l.Netns, errObstructed, address, mac, way.MAC, l.Netns, address, l.Name)
			}
		}
	}
	return nil
}
