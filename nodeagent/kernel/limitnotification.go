package kernel

import "github.com/patchbay-dev/patchbay/nodeagent/netstate"

type shaperKey struct {
	netns string
	index int32
}

// qdisc reports the shaper at the root of a link, or that there is none now.
// One that is replaced is announced as gone first.
func (m *monitor) qdisc(netns string, gone bool, q qdisc) {
	if q.parent == ingressQdisc {
		m.redirect(netns, q.index)
		return
	}
	name, ok := m.linkName(netns, q.index)
	if !ok || q.parent != rootQdisc {
		return
	}
	key := shaperKey{netns, q.index}
	s, ours := q.shaper(netns, name)
	if gone || !ours {
		delete(m.shapers, key)
		m.fn(Event{Key: s.Key(), Gone: true})
		return
	}
	// Before Linux 6.8 a question is announced as well, ours included.
	if old, known := m.shapers[key]; known && old == s {
		return
	}
	m.shapers[key] = s
	m.fn(Event{Key: s.Key(), Object: s})
}

// redirect says to look at what an interface of the host is led through: one
// message tells of a part of it alone.
func (m *monitor) redirect(netns string, index int32) {
	if netns != "" {
		return
	}
	if name, ok := m.linkName(netns, index); ok {
		m.fn(Event{Key: netstate.Redirect{Link: name}.Key()})
	}
}
