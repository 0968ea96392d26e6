package announce

import (
	"net/netip"
	"sync"

	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
	"github.com/patchbay-dev/patchbay/nodeagent/plan"
)

// maxUsed bounds the addresses of a History. Beyond it, every address is announced.
const maxUsed = 1 << 16

// History tells addresses to announce from new ones, for which no neighbour can have an
// entry. An announcement is copied to every port of a bridge: to announce each of a
// thousand new attachments would take a million copies. It is safe for concurrent use.
type History struct {
	mu sync.Mutex
	// bridges are bridges that were created here and have no foreign port.
	bridges map[string]bool
	// used are all addresses that a target was given.
	used map[netip.Addr]bool
}

// Target has the addresses of one interface to announce. All adds the addresses that it
// had before.
type Target struct {
	Addresses []netip.Addr
	All       bool
}

// Add takes in steps that were carried out, and returns the targets to announce: the
// interfaces in namespaces that got another MAC address, or an address that a neighbour
// may know by another one.
func (h *History) Add(steps []plan.Step) map[netstate.End]Target {
	h.mu.Lock()
	defer h.mu.Unlock()
	joined := h.links(steps)
	targets := map[netstate.End]Target{}
	for _, step := range steps {
		end := netstate.End{Netns: step.Key.Netns, Name: step.Key.Link}
		if step.Op == plan.Delete || end.Netns == "" {
			continue
		}
		t := targets[end]
		switch o := step.New.(type) {
		case netstate.Address:
			if first := h.use(o.Prefix.Addr()); first && h.bridges[joined[end]] {
				continue
			}
			t.Addresses = append(t.Addresses, o.Prefix.Addr())
		case netstate.Link:
			old, ok := step.Old.(netstate.Link)
			if !ok || old.MAC == o.MAC {
				continue
			}
			t.All = true
		default:
			continue
		}
		targets[end] = t
	}
	return targets
}

// links takes in bridges and their foreign ports, and returns the bridges of new veths by
// the other end.
func (h *History) links(steps []plan.Step) map[netstate.End]string {
	if h.bridges == nil {
		h.bridges, h.used = map[string]bool{}, map[netip.Addr]bool{}
	}
	joined := map[netstate.End]string{}
	for _, step := range steps {
		l, ok := step.New.(netstate.Link)
		if !ok || step.Op != plan.Create || l.Netns != "" {
			continue
		}
		if l.Type == netstate.Bridge {
			h.bridges[l.Name] = true
		} else if l.Master != "" {
			joined[l.Peer] = l.Master
		}
	}
	for _, step := range steps {
		if p, ok := step.New.(netstate.Port); ok {
			delete(h.bridges, p.Master)
		}
		if step.Op == plan.Delete && step.Key.Kind == netstate.KindLink && step.Key.Netns == "" {
			delete(h.bridges, step.Key.Link)
		}
	}
	return joined
}

// use notes an address, and returns true for the first use.
func (h *History) use(a netip.Addr) (first bool) {
	if h.used[a] {
		return false
	}
	if len(h.used) >= maxUsed {
		clear(h.bridges)
		return false
	}
	h.used[a] = true
	return true
}
