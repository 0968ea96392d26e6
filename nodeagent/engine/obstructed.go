package engine

import (
	"fmt"
	"strings"

	"github.com/patchbay-dev/patchbay/nodeagent/engine/failure"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
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
				u.errs[k] = failure.Port(l)
			case l.Taken != "":
				u.errs[k] = failure.Filtered(l)
			case l.Planted != "":
				if err := e.plantedError(u, l); err != nil {
					u.errs[k] = err
				}
			}
		}
	}
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
					l.Name, l.Netns, failure.ErrObstructed, address, mac, way.MAC, l.Netns, address, l.Name)
			}
		}
	}
	return nil
}
