package kernel

import (
	"errors"
	"fmt"
	"slices"

	"github.com/patchbay-dev/patchbay/nodeagent/kernel/rtnl"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
	"golang.org/x/sys/unix"
)

// Inventory lists every object of the node that bears our mark, so that a restarted agent
// finds its own. The list is whole, or an error: an object that it lacks counts as gone.
// It does not say the peer and master of a link.
func (k *Kernel) Inventory() ([]netstate.Held, error) {
	s := k.session()
	defer s.close()
	var held []netstate.Held
	for _, o := range k.sysctls.Recorded() {
		held = append(held, netstate.Held{Object: o})
	}
	names, err := k.dir.Names()
	if err != nil {
		return nil, fmt.Errorf("list network namespaces: %w", err)
	}
	rules, err := s.heldRules()
	if err != nil {
		return nil, fmt.Errorf("list rules of the host: %w", err)
	}
	held = append(held, rules...)
	for _, name := range append([]string{""}, names...) {
		more, err := s.inventory(name)
		if err != nil {
			return nil, fmt.Errorf("list objects of %s: %w", netnsName(name), err)
		}
		held = append(held, more...)
	}
	return held, nil
}

// inventory lists one namespace and closes it again: a node may have more
// namespaces than a process may have descriptors.
func (s *session) inventory(netns string) ([]netstate.Held, error) {
	defer s.leave(netns)
	l, err := s.list(netns)
	if err != nil {
		return nil, err
	}
	return s.held(l)
}

// heldRules are our rules on the host; they bear no owner's name.
func (s *session) heldRules() ([]netstate.Held, error) {
	ns, err := s.namespace("")
	if err != nil {
		return nil, err
	}
	rules, err := ns.rules()
	var held []netstate.Held
	for _, r := range rules {
		if o, ok := r.Ours(); ok {
			held = append(held, netstate.Held{Object: o})
		}
	}
	return held, err
}

// listing has the links of one namespace and the objects on them.
type listing struct {
	name      string
	ns        *namespace // nil for a file that is no namespace
	links     []*rtnl.Link
	addresses []rtnl.Address
	routes    []rtnl.Route
	qdiscs    []rtnl.Qdisc
}

// list reads one namespace.
func (s *session) list(netns string) (listing, error) {
	l := listing{name: netns}
	ns, err := s.namespace(netns)
	// A second name of the host counts as no namespace, too.
	if errors.Is(err, ErrNetnsNotFound) || errors.Is(err, ErrForeign) {
		return l, nil
	}
	if err != nil {
		return l, err
	}
	l.ns = ns
	if l.links, err = ns.allLinks(); err != nil || !slices.ContainsFunc(l.links, s.k.ours) {
		return l, err
	}
	if l.addresses, err = ns.addresses(unix.AF_UNSPEC, 0); err != nil {
		return l, err
	}
	if l.qdiscs, err = ns.qdiscs(); err != nil {
		return l, err
	}
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		routes, err := ns.routes(family, netstate.RouteProtocol, 0)
		if err != nil {
			return l, err
		}
		l.routes = append(l.routes, routes...)
	}
	return l, nil
}

// held picks the objects that bear our mark.
func (s *session) held(l listing) ([]netstate.Held, error) {
	if l.ns == nil {
		if !s.k.halfMade(l.name) {
			return nil, nil
		}
		return []netstate.Held{{Object: netstate.Netns{Name: l.name, Managed: true, HalfMade: true}}}, nil
	}
	var held []netstate.Held
	ours := map[int32]*rtnl.Link{}
	for _, one := range l.links {
		more, err := s.heldLink(l.ns, one)
		if err != nil {
			return nil, err
		}
		if s.k.ours(one) {
			ours[one.Index] = one
		}
		held = append(held, more...)
	}
	limits, err := l.heldLimits(ours)
	return slices.Concat(held, l.heldOn(ours), limits), err
}

// heldLink is our link with its namespace or hairpin mode, or a foreign link as a port of
// our bridge.
func (s *session) heldLink(ns *namespace, l *rtnl.Link) ([]netstate.Held, error) {
	if !s.k.ours(l) {
		return s.heldPort(ns, l)
	}
	var held []netstate.Held
	if l.Loopback() {
		if ns.netns == "" || l.Alias != s.k.netnsMark(ns.netns) {
			return nil, nil
		}
		held = append(held, netstate.Held{Object: netstate.Netns{Name: ns.netns, Managed: true}})
	}
	held = append(held, netstate.Held{Owner: l.Owner(), Object: l.Object(ns.netns)})
	if l.Hairpin && ns.netns == "" {
		held = append(held, netstate.Held{Object: netstate.Hairpin{Link: l.Name}})
	}
	return held, nil
}

func (s *session) heldPort(ns *namespace, l *rtnl.Link) ([]netstate.Held, error) {
	if l.Master == 0 || ns.netns != "" || l.Marked() {
		return nil, nil
	}
	master, err := ns.linkAt(l.Master)
	if missing(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if !s.k.ours(master) {
		return nil, nil
	}
	return []netstate.Held{{Owner: master.Owner(), Object: l.Port(master)}}, nil
}

// heldOn picks our addresses and routes on our links.
func (l listing) heldOn(ours map[int32]*rtnl.Link) []netstate.Held {
	var held []netstate.Held
	for _, a := range l.addresses {
		if on := ours[a.Index]; on != nil && a.Protocol == netstate.RouteProtocol {
			held = append(held, netstate.Held{Owner: on.Owner(), Object: a.Object(l.name, on.Name)})
		}
	}
	for _, r := range l.routes {
		if on := ours[r.Index]; on != nil {
			held = append(held, netstate.Held{Owner: on.Owner(), Object: r.Object(l.name, on.Name)})
		}
	}
	return held
}

// heldLimits picks our qdiscs and redirects on our links.
func (l listing) heldLimits(ours map[int32]*rtnl.Link) ([]netstate.Held, error) {
	var held []netstate.Held
	for _, q := range l.qdiscs {
		on := ours[q.Index]
		if on == nil {
			continue
		}
		if s, ok := q.Shaper(l.name, on.Name); ok {
			held = append(held, netstate.Held{Owner: on.Owner(), Object: s})
		}
		if q.Parent != rtnl.IngressQdisc || l.name != "" {
			continue
		}
		r, err := l.ns.redirectOf(on)
		if err != nil && !missing(err) {
			return nil, err
		}
		if r != nil {
			held = append(held, netstate.Held{Owner: on.Owner(), Object: r})
		}
	}
	return held, nil
}
