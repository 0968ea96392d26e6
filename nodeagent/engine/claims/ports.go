package claims

import (
	"net/netip"
	"slices"

	"github.com/patchbay-dev/patchbay/nodeagent/compile"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
)

// portBook is who has which host ports. There may be thousands of single
// ports: they are found at once. Ranges are looked through.
type portBook map[portPlace]*portPage

// portPlace is an address of the node, or the unspecified one, and a protocol.
type portPlace struct {
	host  netip.Addr
	proto string
}

type portPage struct {
	ports  map[uint16]netstate.Owner
	ranges []portRange
}

type portRange struct {
	compile.HostPorts
	owner netstate.Owner
}

// holder returns another owner of one of the ports, of the lowest that has one.
func (b portBook) holder(o netstate.Owner, want compile.HostPorts) (netstate.Owner, bool) {
	page := b[portPlace{want.Host, want.Proto}]
	if page == nil {
		return netstate.Owner{}, false
	}
	lowest, holder := 1<<16, netstate.Owner{}
	for _, r := range page.ranges {
		if from := int(max(r.First, want.First)); r.owner != o && r.Overlaps(want) && from < lowest {
			lowest, holder = from, r.owner
		}
	}
	for port := int(want.First); len(page.ports) > 0 && port <= int(want.Last) && port < lowest; port++ {
		if h, ok := page.ports[uint16(port)]; ok && h != o {
			return h, true
		}
	}
	return holder, lowest < 1<<16
}

func (b portBook) add(o netstate.Owner, p compile.HostPorts) {
	if p == (compile.HostPorts{}) {
		return
	}
	place := portPlace{p.Host, p.Proto}
	page := b[place]
	if page == nil {
		page = &portPage{ports: map[uint16]netstate.Owner{}}
		b[place] = page
	}
	if p.First == p.Last {
		page.ports[p.First] = o
		return
	}
	page.ranges = append(page.ranges, portRange{p, o})
}

func (b portBook) remove(o netstate.Owner, p compile.HostPorts) {
	place := portPlace{p.Host, p.Proto}
	page := b[place]
	if page == nil {
		return
	}
	if p.First == p.Last && page.ports[p.First] == o {
		delete(page.ports, p.First)
	}
	page.ranges = slices.DeleteFunc(page.ranges, func(r portRange) bool { return r == portRange{p, o} })
	if len(page.ports)+len(page.ranges) == 0 {
		delete(b, place)
	}
}
