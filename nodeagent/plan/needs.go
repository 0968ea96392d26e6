package plan

import (
	"slices"
	"strings"

	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
)

// A step that lets packets through needs the objects that hold them back, and a step that
// removes such an object needs the removal of what lets packets through. So whatever
// fails, or cannot be observed, nothing is open that should be closed.

// addNeeds adds the objects that hold packets back to the needs of each step that lets
// them through.
func (d *differ) addNeeds() {
	goes := map[netstate.Key]netstate.Key{}
	for _, s := range d.steps {
		if s.Op != Delete {
			continue
		}
		goes[s.Key] = s.Key
		if l, ok := s.Old.(netstate.Link); ok {
			goes[linkKey(l.Peer)] = s.Key
		}
	}
	var loopback []netstate.Key
	for k := range d.desired {
		if k.Kind == netstate.KindLoopbackGuard {
			loopback = append(loopback, k)
		}
	}
	slices.SortFunc(loopback, netstate.Key.Compare)
	for i := range d.steps {
		s := &d.steps[i]
		if s.Op != Delete {
			s.Needs = append(s.Needs, closing(*s, loopback)...)
			continue
		}
		for _, k := range openedBehind(s.Key) {
			if by, ok := goes[k]; ok {
				s.Needs = append(s.Needs, by)
			}
		}
	}
}

// closing returns the objects that hold back the packets which a step lets through, wanted
// or not: an object that could not be observed is in no plan, and nothing is opened beside
// it. A publish on loopback needs all wanted guards of loopback.
func closing(s Step, loopback []netstate.Key) []netstate.Key {
	switch o := s.New.(type) {
	case netstate.Link:
		if s.Op == Activate && o.Netns == "" {
			return []netstate.Key{filterKey(o.Name), policyKey(o.Name), policyKey(o.Master)}
		}
	case netstate.Port:
		return []netstate.Key{filterKey(o.Link), policyKey(o.Master)}
	case netstate.Address:
		if o.Netns == "" {
			return []netstate.Key{policyKey(o.Link)}
		}
	case netstate.Sysctl:
		return guardsOf(o)
	case netstate.Publish:
		guard := netstate.ForwardGuard{Family: netstate.FamilyOf(o.Host)}.Key()
		if o.Host.IsLoopback() {
			return append([]netstate.Key{guard}, loopback...)
		}
		return []netstate.Key{guard}
	}
	return nil
}

func filterKey(link string) netstate.Key { return netstate.PortFilter{Link: link}.Key() }

func policyKey(link string) netstate.Key { return netstate.LinkPolicy{Link: link}.Key() }

var forwardingPaths = map[string]netstate.Family{"net/ipv4/ip_forward": netstate.IPv4, "net/ipv6/conf/all/forwarding": netstate.IPv6}

// guardsOf returns the guards of a sysctl of the node that forwards packets or routes
// loopback addresses.
func guardsOf(s netstate.Sysctl) []netstate.Key {
	if f, ok := forwardingPaths[s.Path]; ok && s.Netns == "" {
		return []netstate.Key{netstate.ForwardGuard{Family: f}.Key()}
	}
	if s.Netns == "" && strings.HasSuffix(s.Path, "/route_localnet") {
		return []netstate.Key{netstate.LoopbackGuard{Link: s.Link}.Key()}
	}
	return nil
}

// openedBehind returns the objects that let packets through which an object of the
// firewall holds back.
func openedBehind(k netstate.Key) []netstate.Key {
	switch k.Kind {
	case netstate.KindPortFilter, netstate.KindLinkPolicy:
		return []netstate.Key{linkKey(netstate.End{Name: k.Link}), {Kind: netstate.KindPort, Link: k.Link}}
	case netstate.KindLoopbackGuard:
		return []netstate.Key{netstate.Sysctl{Link: k.Link, Path: "net/ipv4/conf/" + k.Link + "/route_localnet", Restore: true}.Key()}
	case netstate.KindForwardGuard:
		for path, f := range forwardingPaths {
			if f == netstate.Family(k.Name) {
				return []netstate.Key{netstate.Sysctl{Path: path, Restore: true}.Key()}
			}
		}
	}
	return nil
}

// Dependencies are the objects without which a step cannot succeed, or must not be taken:
// its own, the namespaces and links below it, and its Needs.
func Dependencies(s Step) []netstate.Key {
	if s.Op == Delete {
		return append([]netstate.Key{s.Key}, s.Needs...)
	}
	return slices.Concat([]netstate.Key{s.Key}, Below(s), s.Needs)
}
