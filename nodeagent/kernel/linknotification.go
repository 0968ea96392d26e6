package kernel

import (
	"github.com/patchbay-dev/patchbay/nodeagent/kernel/rtnl"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
	"golang.org/x/sys/unix"
)

func (m *monitor) link(netns string, gone bool, l *rtnl.Link) {
	if l.Family == unix.AF_BRIDGE {
		m.bridgePort(netns, gone, l)
		return
	}
	key := netstate.Link{Netns: netns, Name: l.Name}.Key()
	if gone {
		m.linkGone(netns, l)
		m.fn(Event{Key: key, Gone: true})
		return
	}
	old, known := m.links[netns][l.Index]
	if known && old.name != l.Name {
		m.linkGone(netns, l)
		m.fn(Event{Key: netstate.Link{Netns: netns, Name: old.name}.Key(), Gone: true})
	}
	m.learn(netns, l, (!known || old.fresh) && !l.Running())
	m.fn(Event{Key: key, Object: m.object(netns, l), Runs: known && !old.running && !old.fresh && l.Running()})
}

// linkGone forgets a link that is gone or has another name now.
func (m *monitor) linkGone(netns string, l *rtnl.Link) {
	delete(m.peers[netns], l.Index)
	delete(m.links[netns], l.Index)
	delete(m.shapers[netns], l.Index)
	m.k.filtered.set(shaperKey{netns, l.Index}, false)
}

// bridgePort handles a bridge's notification of a port. A bridge sends many of them
// without any change.
func (m *monitor) bridgePort(netns string, gone bool, l *rtnl.Link) {
	name, ok := m.linkName(netns, l.Index)
	if !ok {
		return
	}
	old := m.links[netns][l.Index]
	if !gone && old.isolated == l.Isolated && old.hairpin == l.Hairpin && old.attributes == l.Attributes && old.stuck == l.Stuck() {
		return
	}
	old.isolated, old.hairpin, old.attributes, old.stuck = l.Isolated, l.Hairpin, l.Attributes, !gone && l.Stuck()
	m.links[netns][l.Index] = old
	m.fn(Event{Key: netstate.Link{Netns: netns, Name: name}.Key()})
}

// object is the link as the message describes it, nil for a foreign link,
// or whose peer cannot be named.
func (m *monitor) object(netns string, l *rtnl.Link) netstate.Object {
	if !m.k.ours(l) {
		return nil
	}
	o := l.Object(netns)
	if l.Master != 0 {
		name, ok := m.linkName(netns, l.Master)
		if !ok {
			return nil
		}
		o.Master = name
	}
	if o.Type != netstate.Veth {
		return o
	}
	end, ok := m.peer(netns, l)
	if !ok {
		return nil
	}
	o.Peer = end
	return o
}

// peer names the other end of a veth, from the cache if it can: a pair stays a pair as long
// as both ends live.
func (m *monitor) peer(netns string, l *rtnl.Link) (netstate.End, bool) {
	if p, known := m.peers[netns][l.Index]; known && p.nsid == l.PeerNetns && p.index == l.Peer && m.counts(p) {
		return p.end, true
	}
	s := m.k.session()
	defer s.close()
	ns, err := s.namespace(netns)
	if err != nil {
		return netstate.End{}, false
	}
	end := s.peer(ns, l)
	if end.Name == unknown {
		return netstate.End{}, false
	}
	// The session has the peer at hand. It is learnt, so that another name of it is noticed.
	if _, known := m.links[end.Netns][l.Peer]; !known {
		if there, other, err := s.link(end); err == nil && other.Index == l.Peer {
			m.learn(there.netns, other, there.netns == "" || !other.Running())
		}
	}
	put(m.peers, netns, l.Index, peer{nsid: l.PeerNetns, index: l.Peer, end: end, renewals: m.renewals[end.Netns]})
	return end, true
}

// counts reports whether a peer still has its name.
func (m *monitor) counts(p peer) bool {
	return p.renewals == m.renewals[p.end.Netns] && m.links[p.end.Netns][p.index].name == p.end.Name
}

// neighbour says to look at the link of an entry: at a bridge that has lost one, maybe
// its own, and at an interface in a namespace.
func (m *monitor) neighbour(netns string, gone bool, n rtnl.Neighbour) {
	l, known := m.links[netns][n.Index]
	if !known || !(n.Family == unix.AF_BRIDGE && gone && l.bridge) && (n.Family == unix.AF_BRIDGE || netns == "") {
		return
	}
	m.fn(Event{Key: netstate.Link{Netns: netns, Name: l.name}.Key()})
}

type shaperKey struct {
	netns string
	index int32
}

// qdisc reports the shaper at the root of a link, or that there is none now.
func (m *monitor) qdisc(netns string, gone bool, q rtnl.Qdisc) {
	if q.Parent == rtnl.IngressQdisc {
		m.k.filtered.set(shaperKey{netns, q.Index}, !gone)
		m.redirect(netns, q.Index)
		if gone {
			m.filter(netns, q.Index)
		}
		return
	}
	name, ok := m.linkName(netns, q.Index)
	if !ok || q.Parent != rtnl.RootQdisc {
		return
	}
	s, ours := q.Shaper(netns, name)
	old, known := m.shapers[netns][q.Index]
	switch {
	case gone && !ours:
		// What takes the place of another's is announced as well.
	case gone || !ours:
		delete(m.shapers[netns], q.Index)
		m.fn(Event{Key: s.Key(), Gone: true})
	case known && old == s:
		// Some kernels announce the answer to a request, such as our own.
	default:
		put(m.shapers, netns, q.Index, s)
		m.fn(Event{Key: s.Key(), Object: s})
	}
}

// redirect reports the redirect of an interface of the host without its object: one
// message tells a part of it alone.
func (m *monitor) redirect(netns string, index int32) {
	if netns != "" {
		return
	}
	if name, ok := m.linkName(netns, index); ok {
		m.fn(Event{Key: netstate.Redirect{Link: name}.Key()})
	}
}

// filter reports a link whose filters have changed.
func (m *monitor) filter(netns string, index int32) {
	if l, known := m.links[netns][index]; known {
		m.fn(Event{Key: netstate.Link{Netns: netns, Name: l.name}.Key()})
	}
}
