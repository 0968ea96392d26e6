package kernel

import (
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
)

// Inventory lists every object of the node that bears our mark: what a
// restarted agent finds of its own. It is whole or an error, since what is
// missing from it is taken for gone. It does not say the peer and master of a link.
func (k *Kernel) Inventory() ([]Held, error) {
	s := k.session()
	defer s.close()
	held := k.recordedSysctls()
	names, err := k.netnsNames()
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
			return nil, fmt.Errorf("list objects of %s: %w", placeName(name), err)
		}
		held = append(held, more...)
	}
	return held, nil
}

// inventory lists one namespace and closes it again: a node may have more
// namespaces than a process may have descriptors.
func (s *session) inventory(netns string) ([]Held, error) {
	defer s.leave(netns)
	l, err := s.list(netns)
	if err != nil {
		return nil, err
	}
	return s.held(l)
}

// heldRules are the host's rules of ours; they bear no owner's name.
func (s *session) heldRules() ([]Held, error) {
	p, err := s.place("")
	if err != nil {
		return nil, err
	}
	rules, err := p.rules()
	var held []Held
	for _, r := range rules {
		if o, ok := r.ours(); ok {
			held = append(held, Held{Object: o})
		}
	}
	return held, err
}

// listing is what one namespace holds.
type listing struct {
	name      string
	place     *place // nil for a file that is no namespace
	links     []*link
	addresses []address
	routes    []route
	qdiscs    []qdisc
}

// list reads one namespace.
func (s *session) list(netns string) (listing, error) {
	l := listing{name: netns}
	p, err := s.place(netns)
	// A second name of the host counts as no namespace, too.
	if errors.Is(err, ErrNetnsNotFound) || errors.Is(err, ErrForeign) {
		return l, nil
	}
	if err != nil {
		return l, err
	}
	l.place = p
	if l.links, err = p.allLinks(); err != nil || !slices.ContainsFunc(l.links, s.k.ours) {
		return l, err
	}
	if l.addresses, err = p.addresses(unix.AF_UNSPEC, 0); err != nil {
		return l, err
	}
	if l.qdiscs, err = p.qdiscs(); err != nil {
		return l, err
	}
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		routes, err := p.routes(family, netstate.RouteProtocol, 0)
		if err != nil {
			return l, err
		}
		l.routes = append(l.routes, routes...)
	}
	return l, nil
}

// held picks what bears our mark.
func (s *session) held(l listing) ([]Held, error) {
	if l.place == nil {
		if !s.k.halfMade(l.name) {
			return nil, nil
		}
		return []Held{{Object: netstate.Netns{Name: l.name, Managed: true, HalfMade: true}}}, nil
	}
	var held []Held
	ours := map[int32]*link{}
	for _, one := range l.links {
		more, err := s.heldLink(l.place, one)
		if err != nil {
			return nil, err
		}
		if s.k.ours(one) {
			ours[one.index] = one
		}
		held = append(held, more...)
	}
	limits, err := l.heldLimits(ours)
	return slices.Concat(held, l.heldOn(ours), limits), err
}

// heldLink is a link of ours with its namespace or hairpin mode, or a foreign
// one as port of a bridge of ours.
func (s *session) heldLink(p *place, l *link) ([]Held, error) {
	if !s.k.ours(l) {
		return s.heldPort(p, l)
	}
	var held []Held
	if l.loopback() {
		if p.netns == "" || l.alias != s.k.netnsMark(p.netns) {
			return nil, nil
		}
		held = append(held, Held{Object: netstate.Netns{Name: p.netns, Managed: true}})
	}
	held = append(held, Held{Owner: l.owner(), Object: l.object(p.netns)})
	if l.hairpin && p.netns == "" {
		held = append(held, Held{Object: netstate.Hairpin{Link: l.name}})
	}
	return held, nil
}

func (s *session) heldPort(p *place, l *link) ([]Held, error) {
	if l.master == 0 || p.netns != "" || l.marked() {
		return nil, nil
	}
	master, err := p.linkAt(l.master)
	if missing(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if !s.k.ours(master) {
		return nil, nil
	}
	return []Held{{Owner: master.owner(), Object: l.port(master)}}, nil
}

// heldOn picks the addresses and routes of ours on links of ours.
func (l listing) heldOn(ours map[int32]*link) []Held {
	var held []Held
	for _, a := range l.addresses {
		if on := ours[a.index]; on != nil && a.protocol == netstate.RouteProtocol {
			held = append(held, Held{Owner: on.owner(), Object: a.object(l.name, on.name)})
		}
	}
	for _, r := range l.routes {
		if on := ours[r.index]; on != nil {
			held = append(held, Held{Owner: on.owner(), Object: r.object(l.name, on.name)})
		}
	}
	return held
}

// heldLimits picks the qdiscs and redirects of ours on links of ours.
func (l listing) heldLimits(ours map[int32]*link) ([]Held, error) {
	var held []Held
	for _, q := range l.qdiscs {
		on := ours[q.index]
		if on == nil {
			continue
		}
		if s, ok := q.shaper(l.name, on.name); ok {
			held = append(held, Held{Owner: on.owner(), Object: s})
		}
		if q.parent != ingressQdisc || l.name != "" {
			continue
		}
		r, err := l.place.redirectOf(on)
		if err != nil && !missing(err) {
			return nil, err
		}
		if r != nil {
			held = append(held, Held{Owner: on.owner(), Object: r})
		}
	}
	return held, nil
}
