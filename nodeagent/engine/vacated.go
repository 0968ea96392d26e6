package engine

import (
	"net/netip"

	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
)

// endConnections ends the tracked connections of attachments that have gone, or have
// other addresses now: the next attachment with their addresses would inherit them.
func (e *Engine) endConnections(batch map[netstate.Owner]bool) {
	var gone []netip.Addr
	for o := range batch {
		gone = append(gone, e.vacated(e.units[o])...)
	}
	if len(gone) == 0 {
		return
	}
	if err := e.Firewall.Forget(gone); err != nil {
		e.Log.Error("forget connections of attachments that have gone", "err", err)
	}
}

// vacated are the addresses in a namespace that a pass took from an attachment.
// Addresses that the node does not reach belong to other hosts there, if to any; but on a
// LAN it may have reached them by an address that has gone too. Of an attachment that is
// known by its marks alone, that is not known.
func (e *Engine) vacated(u *unit) []netip.Addr {
	known := u.view.Target != (netstate.End{})
	if u.owner.Kind != netstate.OwnerAttachment || known && !u.view.Reachable && !u.view.External {
		return nil
	}
	stays := map[netip.Addr]bool{}
	for _, o := range u.Wanted() {
		if a, ok := o.(netstate.Address); ok {
			stays[a.Prefix.Addr()] = true
		}
	}
	var gone []netip.Addr
	for k := range u.Held() {
		if k.Kind != netstate.KindAddress || k.Netns == "" || e.ledger.Owners(k).Len() > 0 || u.errs[k] != nil {
			continue
		}
		if p, err := netip.ParsePrefix(k.Name); err == nil && !stays[p.Addr()] {
			gone = append(gone, p.Addr())
		}
	}
	return gone
}
