package kernel

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/patchbay-dev/patchbay/nodeagent/kernel/rtnl"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
	"github.com/patchbay-dev/patchbay/nodeagent/plan"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

func (s *session) observeRoute(key netstate.Key) (netstate.Object, error) {
	dst, err := netip.ParsePrefix(key.Name)
	if err != nil {
		return nil, err
	}
	ns, l, err := s.link(netstate.End{Netns: key.Netns, Name: key.Link})
	if err != nil {
		return nil, err
	}
	routes, err := ns.routesOn(rtnl.FamilyOf(dst.Addr()), l)
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(routes, func(r rtnl.Route) bool { return r.Main() && r.Ours() && r.Dst == dst })
	if i < 0 {
		return nil, nil
	}
	o := routes[i].Object(key.Netns, key.Link)
	if dst.Bits() == 0 && key.Netns != "" {
		o.Behind, err = ns.behind(routes[i])
	}
	return o, err
}

// behind reports whether another route of the same destination goes before one of
// ours: the kernel lists them in the order in which it asks them.
func (ns *namespace) behind(ours rtnl.Route) (bool, error) {
	family := rtnl.FamilyOf(ours.Dst.Addr())
	all, err := ns.everyRoute(listed{family: family})
	if err != nil {
		return false, err
	}
	i := slices.IndexFunc(all, func(r rtnl.Route) bool { return r.Main() && r.Dst == ours.Dst })
	return i >= 0 && (!all[i].Ours() || all[i].Index != ours.Index), nil
}

// ourRoutes lists our routes through a link.
func (ns *namespace) ourRoutes(family int, l *rtnl.Link) ([]rtnl.Route, error) {
	return ns.routes(family, netstate.RouteProtocol, l.Index)
}

// routesOn lists the routes through a link, of every table and kind. In a namespace
// one listing, once in a session, serves all links.
func (ns *namespace) routesOn(family int, l *rtnl.Link) ([]rtnl.Route, error) {
	key := listed{family, l.Index}
	if ns.netns != "" {
		key.index = 0
	}
	all, err := ns.everyRoute(key)
	var out []rtnl.Route
	for _, r := range all {
		if r.Index == l.Index {
			out = append(out, r)
		}
	}
	return out, err
}

// everyRoute lists the routes of every table and kind through a link, or all.
func (ns *namespace) everyRoute(of listed) ([]rtnl.Route, error) {
	return once(ns.routesOf, of, func() ([]rtnl.Route, error) {
		var attrs []*nl.RtAttr
		if of.index != 0 {
			attrs = append(attrs, rtnl.U32(unix.RTA_OIF, uint32(of.index)))
		}
		return ns.listRoutes(unix.RtMsg{Family: uint8(of.family)}, attrs...)
	})
}

// routes lists unicast routes of the main table. A protocol or a link's index other than 0
// selects among them; the kernel does the selecting.
func (ns *namespace) routes(family int, protocol uint8, index int32) ([]rtnl.Route, error) {
	attrs := []*nl.RtAttr{rtnl.U32(unix.RTA_TABLE, unix.RT_TABLE_MAIN)}
	if index != 0 {
		attrs = append(attrs, rtnl.U32(unix.RTA_OIF, uint32(index)))
	}
	routes, err := ns.listRoutes(unix.RtMsg{Family: uint8(family), Table: unix.RT_TABLE_MAIN, Protocol: protocol, Type: unix.RTN_UNICAST}, attrs...)
	return slices.DeleteFunc(routes, func(r rtnl.Route) bool { return !r.Main() || protocol != 0 && r.Protocol != protocol }), err
}

func (ns *namespace) listRoutes(selected unix.RtMsg, attrs ...*nl.RtAttr) ([]rtnl.Route, error) {
	routes, err := dump(ns, unix.RTM_GETROUTE, &nl.RtMsg{RtMsg: selected}, rtnl.ParseRoute, attrs...)
	if errors.Is(err, unix.ENODEV) {
		return nil, ErrLinkNotFound
	}
	// ENOENT: the table does not exist yet, for want of any route.
	if errors.Is(err, unix.ENOENT) {
		return nil, nil
	}
	return routes, err
}

func (s *session) applyRoute(op plan.Op, r netstate.Route) error {
	end := netstate.End{Netns: r.Netns, Name: r.Link}
	var err error
	switch op {
	case plan.Create:
		err = s.addRoute(end, r)
	case plan.Update:
		err = s.replaceRoute(end, r)
	case plan.Delete:
		err = s.removeRoute(end, r.Dst)
	default:
		err = errors.ErrUnsupported
	}
	if err != nil {
		return fmt.Errorf("%s route %s through %s: %w", op, r.Dst, end, err)
	}
	return nil
}

func (s *session) addRoute(end netstate.End, r netstate.Route) error {
	ns, l, err := s.link(end)
	if err != nil {
		return err
	}
	flags := unix.NLM_F_CREATE | unix.NLM_F_EXCL
	if r.First {
		// Without EXCL an IPv4 route goes before other routes of its metric; an IPv6
		// one has the lowest metric.
		flags = unix.NLM_F_CREATE
	}
	err = ns.setRoute(l, r, flags)
	if errors.Is(err, unix.EEXIST) {
		return ns.inTheWay(r.Dst)
	}
	return err
}

// replaceRoute changes our route; NLM_F_REPLACE alone would also hit a foreign one.
func (s *session) replaceRoute(end netstate.End, r netstate.Route) error {
	ns, l, err := s.link(end)
	if err != nil {
		return err
	}
	routes, err := ns.ourRoutes(rtnl.FamilyOf(r.Dst.Addr()), l)
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(routes, func(have rtnl.Route) bool { return have.Dst == r.Dst }) {
		return ns.inTheWay(r.Dst)
	}
	if !r.First {
		return ns.setRoute(l, r, unix.NLM_F_REPLACE)
	}
	// NLM_F_REPLACE takes the first of its destination, whosever that is.
	if err := s.removeRoute(end, r.Dst); err != nil {
		return err
	}
	return s.addRoute(end, r)
}

// setRoute sends the route, and once more where the kernel says that the
// gateway is on no connected network of the link.
func (ns *namespace) setRoute(l *rtnl.Link, r netstate.Route, flags int) error {
	body, attrs := rtnl.RouteMessage(l, r)
	err := ns.change(unix.RTM_NEWROUTE, flags, body, attrs...)
	if r.Via.IsValid() && (errors.Is(err, unix.ENETUNREACH) || errors.Is(err, unix.EHOSTUNREACH)) {
		body.Flags |= unix.RTNH_F_ONLINK
		err = ns.change(unix.RTM_NEWROUTE, flags, body, attrs...)
	}
	return err
}

// addKernelRoutes makes the routes of an IPv4 address as the kernel makes them, and
// as it removes them with the address.
func (ns *namespace) addKernelRoutes(l *rtnl.Link, a netstate.Address) error {
	local := rtnl.KernelRoute(l, rtnl.Single(a.Prefix.Addr()), a.Prefix.Addr())
	local.Body.Table, local.Body.Type, local.Body.Scope = unix.RT_TABLE_LOCAL, unix.RTN_LOCAL, unix.RT_SCOPE_HOST
	routes := []rtnl.RouteRequest{local}
	if !a.NoPrefixRoute && !a.Prefix.IsSingleIP() {
		routes = append(routes, rtnl.KernelRoute(l, a.Prefix.Masked(), a.Prefix.Addr()))
	}
	for _, r := range routes {
		err := ns.change(unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_APPEND, r.Body, r.Attrs...)
		if err != nil && !errors.Is(err, unix.EEXIST) {
			return err
		}
	}
	return nil
}

// inTheWay says which route it is that a new one would have replaced.
func (ns *namespace) inTheWay(dst netip.Prefix) error {
	routes, err := ns.routes(rtnl.FamilyOf(dst.Addr()), 0, 0)
	if err != nil {
		return err
	}
	for _, r := range routes {
		if r.Dst != dst {
			continue
		}
		if r.Ours() {
			return ErrExists
		}
		return fmt.Errorf("there is %s: %w", ns.describe(r), ErrForeign)
	}
	return ErrExists
}

func (ns *namespace) describe(r rtnl.Route) string {
	s := "route " + r.Dst.String()
	if r.Via.IsValid() {
		s += " via " + r.Via.String()
	}
	if l, err := ns.linkAt(r.Index); err == nil {
		s += " dev " + l.Name
	}
	return s + fmt.Sprintf(" proto %d", r.Protocol)
}

func (s *session) removeRoute(end netstate.End, dst netip.Prefix) error {
	ns, l, err := s.link(end)
	if missing(err) {
		return nil
	}
	if err != nil {
		return err
	}
	if l.Marked() && !s.k.ours(l) {
		return ErrForeign
	}
	body := nl.NewRtDelMsg()
	body.Family = uint8(rtnl.FamilyOf(dst.Addr()))
	body.Dst_len = uint8(dst.Bits())
	body.Protocol = netstate.RouteProtocol
	attrs := []*nl.RtAttr{rtnl.U32(unix.RTA_OIF, uint32(l.Index))}
	if dst.Bits() > 0 {
		attrs = append(attrs, nl.NewRtAttr(unix.RTA_DST, dst.Addr().AsSlice()))
	}
	if err := ns.change(unix.RTM_DELROUTE, 0, body, attrs...); !gone(err) {
		return err
	}
	return nil
}
