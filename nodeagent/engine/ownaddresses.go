package engine

import (
	"net/netip"
	"slices"

	"github.com/patchbay-dev/patchbay/api/v1alpha1"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
)

// ownAddresses are those that resources give the node: gateways of networks, and ends
// of links. What the node has beside them netstate.Node says.
type ownAddresses struct {
	keys map[netip.Addr]map[netstate.Key]bool
	// changed came or went since publishes that name them last looked.
	changed map[netip.Addr]bool
}

func newOwnAddresses() ownAddresses {
	return ownAddresses{keys: map[netip.Addr]map[netstate.Key]bool{}, changed: map[netip.Addr]bool{}}
}

func (o *ownAddresses) add(k netstate.Key) {
	a, ok := ownAddress(k)
	if !ok {
		return
	}
	if o.keys[a] == nil {
		o.keys[a] = map[netstate.Key]bool{}
	}
	o.keys[a][k], o.changed[a] = true, true
}

func (o *ownAddresses) remove(k netstate.Key) {
	a, ok := ownAddress(k)
	if !ok {
		return
	}
	delete(o.keys[a], k)
	o.changed[a] = true
	if len(o.keys[a]) == 0 {
		delete(o.keys, a)
	}
}

// ownAddress is the address of the node that a key means.
func ownAddress(k netstate.Key) (netip.Addr, bool) {
	if k.Kind != netstate.KindAddress || k.Netns != "" {
		return netip.Addr{}, false
	}
	p, err := netip.ParsePrefix(k.Name)
	return p.Addr(), err == nil
}

// among returns those of the addresses that there are.
func (o *ownAddresses) among(list []netip.Addr) []netip.Addr {
	return slices.DeleteFunc(list, func(a netip.Addr) bool { return len(o.keys[a]) == 0 })
}

// named are the addresses that a publish names.
func named(p *v1alpha1.PortPublish) []netip.Addr {
	var list []netip.Addr
	for _, h := range p.Spec.HostAddresses {
		if a, err := netip.ParseAddr(string(h)); err == nil {
			list = append(list, a)
		}
	}
	return list
}

// addNaming adds the publishes that name an address which came or went.
func (e *Engine) addNaming(batch map[netstate.Owner]bool) {
	for a := range e.own.changed {
		for _, o := range e.referrers(refAddress(a)) {
			if u := e.units[o]; u.accepted() && !e.unknown(u) {
				batch[o] = true
			}
		}
	}
	clear(e.own.changed)
}
