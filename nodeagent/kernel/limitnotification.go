package kernel

import "github.com/patchbay-dev/patchbay/nodeagent/netstate"

type shaperKey struct {
	netns string
	index int32
}

// qdisc reports the shaper at the root of a link, or that there is none now.
func (m *monitor) qdisc(netns string, gone bool, q qdisc) {
	if q.parent == ingressQdisc {
		m.k.filtered.set(shaperKey{netns, q.index}, !gone)
		m.redirect(netns, q.index)
		if gone {
			m.filter(netns, q.index)
		}
		return
	}
	name, ok := m.linkName(netns, q.index)
	if !ok || q.parent != rootQdisc {
		return
	}
	key := shaperKey{netns, q.index}
	s, ours := q.shaper(netns, name)
	old, known := m.shapers[key]
	switch {
	case gone && !ours:
		// What takes the place of another's is announced as well.
	case gone || !ours:
		delete(m.shapers, key)
		m.fn(Event{Key: s.Key(), Gone: true})
	case known && old == s:
		// Some kernels announce the answer to a question, such as ours.
	default:
		m.shapers[key] = s
		m.fn(Event{Key: s.Key(), Object: s})
	}
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

// filter says to look at a link whose filters are others than before.
func (m *monitor) filter(netns string, index int32) {
	if l, known := m.links[netns][index]; known {
		m.fn(Event{Key: netstate.Link{Netns: netns, Name: l.name}.Key()})
	}
}
