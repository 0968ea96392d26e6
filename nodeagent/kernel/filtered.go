package kernel

import "sync"

// filtered are the links that have a place for filters of traffic control. While a
// monitor runs it knows of each, and no other link is asked for filters.
type filtered struct {
	mu    sync.Mutex
	known bool
	links map[shaperKey]bool
}

func (f *filtered) reset() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.known, f.links = true, map[shaperKey]bool{}
}

func (f *filtered) set(link shaperKey, has bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if has {
		f.links[link] = true
	} else {
		delete(f.links, link)
	}
}

// has reports whether a link has a place for filters; known is false without a
// monitor.
func (f *filtered) has(link shaperKey) (has, known bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.links[link], f.known
}

// mayFilter reports whether a link has a place for filters.
func (p *place) mayFilter(l *link) bool {
	if has, known := p.k.filtered.has(shaperKey{p.netns, l.index}); known {
		return has
	}
	if p.filtered == nil {
		p.filtered = map[int32]bool{}
		list, _ := p.qdiscs()
		for _, q := range list {
			if q.parent == ingressQdisc {
				p.filtered[q.index] = true
			}
		}
	}
	return p.filtered[l.index]
}

// taken names the side on which a filter of others takes all of a link's packets.
func (p *place) taken(l *link) string {
	if !p.mayFilter(l) {
		return ""
	}
	for _, side := range []struct {
		parent uint32
		name   string
	}{{ingressFilters, "ingress"}, {egressFilters, "egress"}} {
		filters, err := p.filtersOn(l, side.parent)
		if err != nil {
			return ""
		}
		for _, f := range filters {
			if f.takesAll() && !f.ours() {
				return side.name
			}
		}
	}
	return ""
}

type filtersKey struct {
	index  int32
	parent uint32
}

// filtersOn lists filters once in a session.
func (p *place) filtersOn(l *link, parent uint32) ([]filter, error) {
	key := filtersKey{l.index, parent}
	if list, known := p.filtersOf[key]; known {
		return list, nil
	}
	list, err := p.filters(l.index, parent)
	if err == nil {
		p.filtersOf[key] = list
	}
	return list, err
}
