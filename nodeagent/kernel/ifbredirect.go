package kernel

import (
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/patchbay-dev/patchbay/nodeagent/kernel/rtnl"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
	"github.com/patchbay-dev/patchbay/nodeagent/plan"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

func (s *session) observeRedirect(key netstate.Key) (netstate.Object, error) {
	ns, l, err := s.link(netstate.End{Name: key.Link})
	if err != nil {
		return nil, err
	}
	return ns.redirectOf(l)
}

// redirectOf is nil for a link that has no redirect of Patchbay. A process that dies between
// the two messages leaves a qdisc without any filter.
func (ns *namespace) redirectOf(l *rtnl.Link) (netstate.Object, error) {
	filters, err := ns.filtersOn(l, rtnl.IngressFilters)
	if err != nil {
		return nil, err
	}
	for _, f := range filters {
		if !f.Ours() {
			continue
		}
		r := netstate.Redirect{Link: l.Name, To: unknown}
		if to, err := ns.linkAt(f.Action.To); f.Works() && err == nil {
			r.To = to.Name
		}
		return r, nil
	}
	if empty, err := ns.emptyIngress(l); err != nil || !empty {
		return nil, err
	}
	return netstate.Redirect{Link: l.Name, To: unknown}, nil
}

func (ns *namespace) emptyIngress(l *rtnl.Link) (bool, error) {
	q, err := ns.qdiscAt(l.Index, rtnl.IngressQdisc)
	if err != nil || q == nil || q.Kind != "clsact" {
		return false, err
	}
	for _, parent := range []uint32{rtnl.IngressFilters, rtnl.EgressFilters} {
		if filters, err := ns.filters(l.Index, parent); err != nil || len(filters) > 0 {
			return false, err
		}
	}
	return true, nil
}

// filters lists the filters of one link in one direction.
func (ns *namespace) filters(index int32, parent uint32) ([]rtnl.Filter, error) {
	list, err := dump(ns, unix.RTM_GETTFILTER, &nl.TcMsg{Ifindex: index, Parent: parent}, rtnl.ParseFilter)
	switch {
	case errors.Is(err, unix.ENODEV):
		return nil, ErrLinkNotFound
	case gone(err), errors.Is(err, unix.EINVAL):
		// Some kernels refuse to list the filters of a qdisc that does not exist.
		return nil, nil
	case err != nil:
		return nil, err
	}
	return slices.DeleteFunc(list, func(f rtnl.Filter) bool { return f.Index != index || f.Parent != parent }), nil
}

func (s *session) applyRedirect(op plan.Op, r netstate.Redirect) error {
	err := putOrRemove(op, func() error { return s.redirect(r) }, func() error { return s.straighten(r) })
	if err != nil {
		return fmt.Errorf("%s redirect of %s through %s: %w", op, r.Link, r.To, err)
	}
	return nil
}

// redirect makes the filter that comes first, and replaces the filter that was first.
func (s *session) redirect(r netstate.Redirect) error {
	ns, l, err := s.ourLink(netstate.End{Name: r.Link})
	if err != nil {
		return err
	}
	_, to, err := s.ourLink(netstate.End{Name: r.To})
	if err != nil {
		return fmt.Errorf("find %s: %w", r.To, err)
	}
	err = ns.change(unix.RTM_NEWQDISC, unix.NLM_F_CREATE|unix.NLM_F_EXCL,
		&nl.TcMsg{Ifindex: l.Index, Handle: rtnl.IngressQdisc & 0xffff0000, Parent: rtnl.IngressQdisc}, rtnl.Text(nl.TCA_KIND, "clsact"))
	if errors.Is(err, unix.EEXIST) {
		// It is foreign, or left by a process that died here, or drift.
		err = ns.removeFilter(l)
	}
	if err != nil {
		return err
	}
	body := &nl.TcMsg{Ifindex: l.Index, Parent: rtnl.IngressFilters, Info: uint32(rtnl.RedirectPriority)<<16 | uint32(rtnl.EveryProtocol)}
	return ns.change(unix.RTM_NEWTFILTER, unix.NLM_F_CREATE|unix.NLM_F_EXCL, body, rtnl.Text(nl.TCA_KIND, "u32"), rtnl.RedirectOptions(to.Index))
}

// straighten removes our filter, and the qdisc unless it has foreign filters.
func (s *session) straighten(r netstate.Redirect) error {
	ns, l, err := s.ourLink(netstate.End{Name: r.Link})
	if missing(err) {
		return nil
	}
	if err != nil {
		return err
	}
	shared, err := ns.sharedFilters(l)
	if err != nil || shared {
		return errors.Join(err, ns.removeFilter(l))
	}
	err = ns.change(unix.RTM_DELQDISC, 0, &nl.TcMsg{Ifindex: l.Index, Parent: rtnl.IngressQdisc})
	if gone(err) || errors.Is(err, unix.EINVAL) {
		return nil
	}
	return err
}

// sharedFilters reports whether the link has foreign filters.
func (ns *namespace) sharedFilters(l *rtnl.Link) (bool, error) {
	for _, parent := range []uint32{rtnl.IngressFilters, rtnl.EgressFilters} {
		filters, err := ns.filters(l.Index, parent)
		if err != nil {
			return false, err
		}
		for _, f := range filters {
			if parent == rtnl.EgressFilters || f.Priority != rtnl.RedirectPriority {
				return true, nil
			}
		}
	}
	return false, nil
}

// removeFilter removes the filter with our filter's priority.
func (ns *namespace) removeFilter(l *rtnl.Link) error {
	err := ns.change(unix.RTM_DELTFILTER, 0, &nl.TcMsg{Ifindex: l.Index, Parent: rtnl.IngressFilters, Info: uint32(rtnl.RedirectPriority) << 16})
	// EINVAL: there is no such qdisc, or no filter of that priority.
	if gone(err) || errors.Is(err, unix.EINVAL) {
		return nil
	}
	return err
}

// filtered are the links that have a qdisc for filters of traffic control. While a
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

// has reports whether a link has a qdisc for filters; known is false without a monitor.
func (f *filtered) has(link shaperKey) (has, known bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.links[link], f.known
}

// mayFilter reports whether a link has a qdisc for filters.
func (ns *namespace) mayFilter(l *rtnl.Link) bool {
	if has, known := ns.k.filtered.has(shaperKey{ns.netns, l.Index}); known {
		return has
	}
	if ns.filtered == nil {
		ns.filtered = map[int32]bool{}
		list, _ := ns.qdiscs()
		for _, q := range list {
			if q.Parent == rtnl.IngressQdisc {
				ns.filtered[q.Index] = true
			}
		}
	}
	return ns.filtered[l.Index]
}

// taken names the side on which a foreign filter takes all of a link's packets.
func (ns *namespace) taken(l *rtnl.Link) string {
	if !ns.mayFilter(l) {
		return ""
	}
	for _, side := range []struct {
		parent uint32
		name   string
	}{{rtnl.IngressFilters, "ingress"}, {rtnl.EgressFilters, "egress"}} {
		filters, err := ns.filtersOn(l, side.parent)
		if err != nil {
			return ""
		}
		for _, f := range filters {
			if f.TakesAll() && !f.Ours() {
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
func (ns *namespace) filtersOn(l *rtnl.Link, parent uint32) ([]rtnl.Filter, error) {
	key := filtersKey{l.Index, parent}
	if list, known := ns.filtersOf[key]; known {
		return list, nil
	}
	list, err := ns.filters(l.Index, parent)
	if err == nil {
		ns.filtersOf[key] = list
	}
	return list, err
}
