package kernel

import (
	"encoding/binary"
	"errors"
	"net/netip"

	"github.com/patchbay-dev/patchbay/nodeagent/kernel/netnsdir"
	"github.com/patchbay-dev/patchbay/nodeagent/kernel/rtnl"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
	"golang.org/x/sys/unix"
)

// monitor turns notifications into events. Its caches belong to one goroutine.
type monitor struct {
	k  *Kernel
	fn func(Event)
	// spaces are the named namespaces by the host's nsids of them, and unnamed are the
	// nsids of namespaces without a name.
	spaces  map[int32]space
	unnamed map[int32]bool
	// renewals counts for each name how often it was forgotten.
	renewals map[string]int
	// links are the interfaces of each namespace by index.
	links map[string]map[int32]seen
	// peers are the other ends of each namespace's veths, by the index of the end there.
	peers map[string]map[int32]peer
	// routes are the links of our routes in each namespace: a replaced route is not
	// announced.
	routes map[string]map[netip.Prefix]string
	// shapers has the last notified shaper of each namespace's links.
	shapers map[string]map[int32]netstate.Shaper
}

type space struct {
	name string
	id   netnsdir.ID
}

// seen is a link's state that notifications leave out, or repeat without a change.
type seen struct {
	name              string
	isolated, hairpin bool
	bridge            bool
	// attributes are a port's, and stuck is one that could forward and does not.
	attributes netstate.Attributes
	stuck      bool
	// running links have a carrier; fresh ones were made a moment ago and have not
	// run yet.
	running, fresh bool
}

// peer is the other end of a veth: an index in the namespace of an nsid. It counts as long
// as the name of its namespace is not renewed, and the link there has its name.
type peer struct {
	nsid, index int32
	end         netstate.End
	renewals    int
}

// put sets a value in a map of maps.
func put[K, L comparable, V any](m map[K]map[L]V, k K, l L, v V) {
	if m[k] == nil {
		m[k] = map[L]V{}
	}
	m[k][l] = v
}

func newMonitor(k *Kernel, fn func(Event)) *monitor {
	m := &monitor{k: k, fn: fn}
	m.reset()
	return m
}

func (m *monitor) reset() {
	m.forgetNames()
	m.renewals = map[string]int{}
	m.links = map[string]map[int32]seen{}
	m.routes = map[string]map[netip.Prefix]string{}
	m.shapers = map[string]map[int32]netstate.Shaper{}
	m.k.filtered.reset()
}

// prime learns the names of all links, so that a renamed link is reported under its old
// name too. A name that cannot be read now is asked for when needed. prime returns the
// files that are no namespaces yet: a namespace may be mounted on them later.
func (m *monitor) prime() (unmounted []string) {
	s := m.k.session()
	defer s.close()
	names, _ := m.k.dir.Names()
	for _, name := range append([]string{""}, names...) {
		ns, err := s.namespace(name)
		if err != nil {
			if errors.Is(err, ErrNetnsNotFound) {
				unmounted = append(unmounted, name)
			}
			continue
		}
		links, _ := ns.allLinks()
		for _, l := range links {
			m.learn(name, l, false)
		}
		qdiscs, _ := ns.qdiscs()
		for _, q := range qdiscs {
			if q.Parent == rtnl.IngressQdisc {
				m.k.filtered.set(shaperKey{name, q.Index}, true)
			}
		}
		for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
			routes, _ := ns.routes(family, netstate.RouteProtocol, 0)
			for _, r := range routes {
				put(m.routes, name, r.Dst, m.links[name][r.Index].name)
			}
		}
		s.leave(name)
	}
	return unmounted
}

func (m *monitor) learn(netns string, l *rtnl.Link, fresh bool) {
	// Before the kernel lets a port forward it says that the link is up.
	stuck := m.links[netns][l.Index].stuck
	put(m.links, netns, l.Index, seen{name: l.Name, bridge: l.Typ() == netstate.Bridge, isolated: l.Isolated, hairpin: l.Hairpin, attributes: l.Attributes, stuck: stuck, running: l.Running(), fresh: fresh})
}

// forgetNetns drops the caches of a name that may mean another namespace now. It costs as
// much as that namespace, however many namespaces there are.
func (m *monitor) forgetNetns(name string) {
	delete(m.links, name)
	delete(m.peers, name)
	delete(m.routes, name)
	delete(m.shapers, name)
	m.renewals[name]++
	// Unnamed namespaces may have got this name.
	clear(m.unnamed)
}

func (m *monitor) forgetNames() {
	m.spaces, m.unnamed = map[int32]space{}, map[int32]bool{}
	m.peers = map[string]map[int32]peer{}
}

// handle turns one datagram into events.
func (m *monitor) handle(d rtnl.Datagram) {
	netns, ok := "", true
	if d.NSID != rtnl.OwnNetns {
		netns, ok = m.nameOf(d.NSID)
	}
	rtnl.Messages(d.Data, func(kind, flags uint16, body []byte) {
		switch {
		case kind == unix.RTM_NEWNSID || kind == unix.RTM_DELNSID:
			if netns == "" && ok {
				m.nsidChanged(body)
			}
		case ok:
			m.message(netns, kind, flags, body)
		}
	})
}

func (m *monitor) message(netns string, kind, flags uint16, body []byte) {
	switch kind {
	case unix.RTM_NEWLINK, unix.RTM_DELLINK:
		if l, ok := rtnl.ParseLink(body); ok {
			m.link(netns, kind == unix.RTM_DELLINK, &l)
		}
	case unix.RTM_NEWADDR, unix.RTM_DELADDR:
		if a, ok := rtnl.ParseAddress(body); ok {
			m.address(netns, kind == unix.RTM_DELADDR, a)
		}
	case unix.RTM_NEWROUTE, unix.RTM_DELROUTE:
		m.anyRoute(netns, kind == unix.RTM_DELROUTE, flags&unix.NLM_F_REPLACE != 0, body)
	case unix.RTM_NEWRULE, unix.RTM_DELRULE:
		m.rule(netns, kind == unix.RTM_DELRULE, body)
	case unix.RTM_NEWQDISC, unix.RTM_DELQDISC:
		if q, ok := rtnl.ParseQdisc(body); ok {
			m.qdisc(netns, kind == unix.RTM_DELQDISC, q)
		}
	case unix.RTM_NEWTFILTER, unix.RTM_DELTFILTER:
		f, ok := rtnl.ParseFilter(body)
		if ok && f.Parent == rtnl.IngressFilters {
			m.redirect(netns, f.Index)
		}
		if ok && !f.Ours() {
			m.filter(netns, f.Index)
		}
	case unix.RTM_NEWNEIGH, unix.RTM_DELNEIGH:
		if n, ok := rtnl.ParseNeighbour(body); ok {
			m.neighbour(netns, kind == unix.RTM_DELNEIGH, n)
		}
	case unix.RTM_NEWNETCONF:
		m.netconf(netns, body)
	}
}

// nameOf names the namespace of one of the host's nsids. It returns false for one
// without a name.
func (m *monitor) nameOf(nsid int32) (string, bool) {
	if m.unnamed[nsid] {
		return "", false
	}
	if s, known := m.spaces[nsid]; known && m.k.dir.Has(s.name, s.id) {
		return s.name, true
	}
	delete(m.spaces, nsid)
	s := m.k.session()
	defer s.close()
	host, err := s.namespace("")
	if err != nil {
		return "", false
	}
	ns := s.byNSID(host, nsid)
	if ns == nil || ns == host {
		m.unnamed[nsid] = true
		return "", ns == host
	}
	m.spaces[nsid] = space{name: ns.netns, id: ns.id}
	return ns.netns, true
}

// nsidChanged handles a namespace that got or lost its nsid, as it does when it ends.
func (m *monitor) nsidChanged(body []byte) {
	nsid, _ := rtnl.ParseNSID(body)
	s := m.spaces[nsid]
	delete(m.spaces, nsid)
	delete(m.unnamed, nsid)
	if s.name != "" {
		m.forgetNetns(s.name)
		m.fn(Event{Key: netstate.Netns{Name: s.name}.Key()})
	}
}

func (m *monitor) address(netns string, gone bool, a rtnl.Address) {
	name, ok := m.linkName(netns, a.Index)
	if !ok {
		return
	}
	o := a.Object(netns, name)
	if gone && (name == loopbackName && netns != "" || a.Prefix.Addr().Is6() && a.Prefix.Addr().IsLinkLocalUnicast()) {
		m.fn(Event{Key: netstate.Link{Netns: netns, Name: name}.Key()})
	}
	if gone {
		m.fn(Event{Key: o.Key(), Gone: true})
		return
	}
	m.fn(Event{Key: o.Key(), Object: o})
}

// anyRoute reports a route of the main table that leads somewhere as route does. Any
// other that decides is foreign, and reported without a link: which tables
// count depends on rules.
func (m *monitor) anyRoute(netns string, gone, replaced bool, body []byte) {
	r, ok := rtnl.ParseRoute(body)
	switch {
	case !ok || !r.Decides() && !(gone && r.Kernels()):
	case r.Main() || gone && r.Kernels():
		m.route(netns, gone, replaced, r)
	default:
		m.fn(Event{Key: netstate.Key{Kind: netstate.KindRoute, Netns: netns, Name: r.Dst.String()}})
	}
}

// route reports foreign routes by key alone, and ours as well where one has
// replaced it (the kernel announces the new route alone), or is a default
// route too and may go before it. A foreign route through several interfaces is
// reported without a link as well.
func (m *monitor) route(netns string, gone, replaced bool, r rtnl.Route) {
	name, ok := m.linkName(netns, r.Index)
	if len(r.Links) > 1 && !r.Ours() {
		m.fn(Event{Key: netstate.Route{Netns: netns, Dst: r.Dst}.Key(), Gone: gone})
	}
	if !ok {
		return
	}
	o := r.Object(netns, name)
	switch {
	case name == loopbackName && netns != "" && gone && r.Kernels():
		m.fn(Event{Key: netstate.Link{Netns: netns, Name: name}.Key()})
	case !r.Ours():
		before := !gone && r.Dst.Bits() == 0
		if link, known := m.routes[netns][r.Dst]; known && link != name && (replaced || before) {
			m.fn(Event{Key: netstate.Route{Netns: netns, Link: link, Dst: r.Dst}.Key()})
		}
		m.fn(Event{Key: o.Key(), Gone: gone})
	case gone:
		delete(m.routes[netns], r.Dst)
		m.fn(Event{Key: o.Key(), Gone: true})
	default:
		put(m.routes, netns, r.Dst, name)
		m.fn(Event{Key: o.Key(), Object: o})
	}
}

func (m *monitor) netconf(netns string, body []byte) {
	const header = 4 // struct netconfmsg, padded
	if len(body) < header {
		return
	}
	for kind, value := range rtnl.Attributes(body[header:]) {
		if kind != rtnl.NetconfaIfindex || len(value) < 4 {
			continue
		}
		index := int32(binary.NativeEndian.Uint32(value))
		if index < 0 { // NETCONFA_IFINDEX_ALL, NETCONFA_IFINDEX_DEFAULT
			m.fn(Event{Key: netstate.Key{Kind: netstate.KindSysctl, Netns: netns}})
		} else if name, ok := m.linkName(netns, index); ok {
			m.fn(Event{Key: netstate.Key{Kind: netstate.KindSysctl, Netns: netns, Link: name}})
		}
	}
}

// linkName names an interface; on a miss it asks once.
func (m *monitor) linkName(netns string, index int32) (string, bool) {
	if s, known := m.links[netns][index]; known {
		return s.name, s.name != ""
	}
	s := m.k.session()
	defer s.close()
	ns, err := s.namespace(netns)
	if err != nil {
		return "", false
	}
	l, err := ns.linkAt(index)
	if err != nil {
		return "", false
	}
	// The monitor knows every link that was there before, so that this one is fresh. On the
	// host its first notifications may yet come, from before it ran.
	m.learn(netns, l, netns == "" || !l.Running())
	return l.Name, true
}

// rule reports our rule as a rule, and a foreign rule as a route without a link.
func (m *monitor) rule(netns string, gone bool, body []byte) {
	r, ok := rtnl.ParseRule(body)
	if !ok {
		return
	}
	o, ours := r.Ours()
	switch {
	case r.Protocol != netstate.RouteProtocol:
		m.fn(Event{Key: netstate.Key{Kind: netstate.KindRoute, Netns: netns, Name: "rule " + r.String()}})
	case ours && netns == "" && !gone && r.Sound():
		m.fn(Event{Key: o.Key(), Object: o})
	case ours && netns == "":
		m.fn(Event{Key: o.Key(), Gone: gone})
	}
}
