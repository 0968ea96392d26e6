package kernel

import (
	"maps"

	"golang.org/x/sys/unix"

	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
)

func (m *monitor) link(netns string, gone bool, l *link) {
	if l.family == unix.AF_BRIDGE {
		m.bridgePort(netns, gone, l)
		return
	}
	key := netstate.Link{Netns: netns, Name: l.name}.Key()
	if gone {
		m.linkGone(netns, l)
		m.fn(Event{Key: key, Gone: true})
		return
	}
	old, known := m.links[netns][l.index]
	if known && old.name != l.name {
		m.linkGone(netns, l)
		m.fn(Event{Key: netstate.Link{Netns: netns, Name: old.name}.Key(), Gone: true})
	}
	m.learn(netns, l, (!known || old.fresh) && !l.running())
	m.fn(Event{Key: key, Object: m.object(netns, l), Runs: known && !old.running && !old.fresh && l.running()})
}

// linkGone forgets a link that is gone or has another name now.
func (m *monitor) linkGone(netns string, l *link) {
	if old := m.links[netns][l.index]; old.name != "" {
		end := netstate.End{Netns: netns, Name: old.name}
		maps.DeleteFunc(m.peers, func(k peerKey, e netstate.End) bool {
			return e == end || k.netns == netns && k.index == l.index
		})
	}
	delete(m.links[netns], l.index)
	delete(m.shapers, shaperKey{netns, l.index})
	m.k.filtered.set(shaperKey{netns, l.index}, false)
}

// bridgePort handles what the bridge says of a port. A quiet bridge says a lot
// without anything having changed.
func (m *monitor) bridgePort(netns string, gone bool, l *link) {
	name, ok := m.linkName(netns, l.index)
	if !ok {
		return
	}
	old := m.links[netns][l.index]
	if !gone && old.isolated == l.isolated && old.hairpin == l.hairpin && old.attributes == l.attributes && old.stuck == l.stuck() {
		return
	}
	old.isolated, old.hairpin, old.attributes, old.stuck = l.isolated, l.hairpin, l.attributes, !gone && l.stuck()
	m.links[netns][l.index] = old
	m.fn(Event{Key: netstate.Link{Netns: netns, Name: name}.Key()})
}

// object is the link as the message describes it, nil for one that is not ours
// or whose peer cannot be named.
func (m *monitor) object(netns string, l *link) netstate.Object {
	if !m.k.ours(l) {
		return nil
	}
	o := l.object(netns)
	if l.master != 0 {
		name, ok := m.linkName(netns, l.master)
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

// peer names the other end of a veth, from memory where it can: a pair stays a
// pair as long as both ends live.
func (m *monitor) peer(netns string, l *link) (netstate.End, bool) {
	key := peerKey{netns: netns, index: l.index, peerNetns: l.peerNetns, peer: l.peer}
	if end, known := m.peers[key]; known {
		return end, true
	}
	s := m.k.session()
	defer s.close()
	p, err := s.place(netns)
	if err != nil {
		return netstate.End{}, false
	}
	end := s.peer(p, l)
	if end.Name == unknown {
		return netstate.End{}, false
	}
	m.peers[key] = end
	return end, true
}
