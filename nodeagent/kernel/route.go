package kernel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
	"github.com/patchbay-dev/patchbay/nodeagent/plan"
)

// route is a route as a netlink message describes it.
type route struct {
	table    uint32
	protocol uint8
	kind     uint8
	cloned   bool
	dst      netip.Prefix
	via      netip.Addr
	src      netip.Addr
	index    int32
	// links are the interfaces of all next hops.
	links  []int32
	metric uint32
	// gated says that a next hop is a gateway.
	gated bool
}

// routeDrops are the kinds of routes that lead nowhere.
var routeDrops = map[uint8]string{
	unix.RTN_BLACKHOLE: "blackhole", unix.RTN_UNREACHABLE: "unreachable", unix.RTN_PROHIBIT: "prohibit", unix.RTN_THROW: "throw",
}

// parseRoute reads RTM_NEWROUTE and RTM_DELROUTE of IPv4 and IPv6; it returns
// false for everything else.
func parseRoute(b []byte) (route, bool) {
	if len(b) < unix.SizeofRtMsg || b[0] != unix.AF_INET && b[0] != unix.AF_INET6 {
		return route{}, false
	}
	r := route{table: uint32(b[4]), protocol: b[5], kind: b[7], cloned: uint32At(b[8:])&unix.RTM_F_CLONED != 0}
	dst := netip.IPv4Unspecified()
	if b[0] == unix.AF_INET6 {
		dst = netip.IPv6Unspecified()
	}
	for kind, value := range attributes(b[unix.SizeofRtMsg:]) {
		switch kind {
		case unix.RTA_DST:
			dst, _ = netip.AddrFromSlice(value)
		case unix.RTA_GATEWAY:
			r.via, _ = netip.AddrFromSlice(value)
			r.gated = true
		case unix.RTA_VIA:
			r.gated = true
		case unix.RTA_PREFSRC:
			r.src, _ = netip.AddrFromSlice(value)
		case unix.RTA_TABLE:
			r.table = uint32At(value)
		case unix.RTA_PRIORITY:
			r.metric = uint32At(value)
		case unix.RTA_OIF:
			r.index = int32(uint32At(value))
			r.links = append(r.links, r.index)
		case unix.RTA_MULTIPATH:
			links, gated := nexthops(value)
			r.links, r.gated = append(r.links, links...), r.gated || gated
		}
	}
	if r.index == 0 && len(r.links) > 0 {
		r.index = r.links[0]
	}
	r.dst = netip.PrefixFrom(dst, int(b[1]))
	return r, r.dst.IsValid()
}

// nexthops reads the interfaces of a multipath route, and whether a gateway is among
// its next hops.
func nexthops(b []byte) (links []int32, gated bool) {
	for len(b) >= unix.SizeofRtNexthop {
		length := int(binary.NativeEndian.Uint16(b))
		if length < unix.SizeofRtNexthop || length > len(b) {
			break
		}
		links = append(links, int32(uint32At(b[4:])))
		for kind := range attributes(b[unix.SizeofRtNexthop:length]) {
			gated = gated || kind == unix.RTA_GATEWAY || kind == unix.RTA_VIA
		}
		b = b[min(align(length), len(b)):]
	}
	return links, gated
}

// leadsOut reports whether it is a unicast route to what is beyond a link: through a
// gateway, or to everything or half of it, as routes into tunnels are.
func (r route) leadsOut() bool {
	return r.kind == unix.RTN_UNICAST && !r.cloned && (r.gated || r.dst.Bits() <= 1)
}

// decides reports whether it is a route that leads somewhere, or nowhere.
func (r route) decides() bool {
	return (r.kind == unix.RTN_UNICAST || routeDrops[r.kind] != "") && !r.cloned
}

// main reports whether it is a unicast route of the main table.
func (r route) main() bool {
	return r.table == unix.RT_TABLE_MAIN && r.kind == unix.RTN_UNICAST && !r.cloned
}

// kernels reports whether it is a route that the kernel has with an address beside
// the connected one.
func (r route) kernels() bool {
	return r.table == unix.RT_TABLE_LOCAL && r.protocol == unix.RTPROT_KERNEL && (r.kind == unix.RTN_LOCAL || r.dst == groups6)
}

func (r route) ours() bool { return r.protocol == netstate.RouteProtocol }

func (r route) object(netns, link string) netstate.Route {
	return netstate.Route{Netns: netns, Link: link, Dst: r.dst, Via: r.via, Src: r.src}
}

func (s *session) observeRoute(key netstate.Key) (netstate.Object, error) {
	dst, err := netip.ParsePrefix(key.Name)
	if err != nil {
		return nil, err
	}
	p, l, err := s.link(netstate.End{Netns: key.Netns, Name: key.Link})
	if err != nil {
		return nil, err
	}
	routes, err := p.routesOn(familyOf(dst.Addr()), l)
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(routes, func(r route) bool { return r.main() && r.ours() && r.dst == dst })
	if i < 0 {
		return nil, nil
	}
	o := routes[i].object(key.Netns, key.Link)
	if dst.Bits() == 0 && key.Netns != "" {
		o.Behind, err = p.behind(routes[i])
	}
	return o, err
}

// behind reports whether another route of the same destination goes before one of
// ours: the kernel lists them in the order in which it asks them.
func (p *place) behind(ours route) (bool, error) {
	family := familyOf(ours.dst.Addr())
	all, err := p.everyRoute(listed{family: family})
	if err != nil {
		return false, err
	}
	i := slices.IndexFunc(all, func(r route) bool { return r.main() && r.dst == ours.dst })
	return i >= 0 && (!all[i].ours() || all[i].index != ours.index), nil
}

// ourRoutes lists the routes of ours through a link.
func (p *place) ourRoutes(family int, l *link) ([]route, error) {
	return p.routes(family, netstate.RouteProtocol, l.index)
}

// routesOn lists the routes through a link, of every table and kind. In a namespace
// one listing, once in a session, serves all links.
func (p *place) routesOn(family int, l *link) ([]route, error) {
	key := listed{family, l.index}
	if p.netns != "" {
		key.index = 0
	}
	all, err := p.everyRoute(key)
	var out []route
	for _, r := range all {
		if r.index == l.index {
			out = append(out, r)
		}
	}
	return out, err
}

// everyRoute lists the routes of every table and kind through a link, or all.
func (p *place) everyRoute(of listed) ([]route, error) {
	return once(p.routesOf, of, func() ([]route, error) {
		var attrs []*nl.RtAttr
		if of.index != 0 {
			attrs = append(attrs, u32Attr(unix.RTA_OIF, uint32(of.index)))
		}
		return p.listRoutes(unix.RtMsg{Family: uint8(of.family)}, attrs...)
	})
}

// routes lists unicast routes of the main table, those of one protocol unless
// it is 0 and of one link unless it is 0. The kernel does the selecting.
func (p *place) routes(family int, protocol uint8, index int32) ([]route, error) {
	attrs := []*nl.RtAttr{u32Attr(unix.RTA_TABLE, unix.RT_TABLE_MAIN)}
	if index != 0 {
		attrs = append(attrs, u32Attr(unix.RTA_OIF, uint32(index)))
	}
	routes, err := p.listRoutes(unix.RtMsg{Family: uint8(family), Table: unix.RT_TABLE_MAIN, Protocol: protocol, Type: unix.RTN_UNICAST}, attrs...)
	return slices.DeleteFunc(routes, func(r route) bool { return !r.main() || protocol != 0 && r.protocol != protocol }), err
}

func (p *place) listRoutes(selected unix.RtMsg, attrs ...*nl.RtAttr) ([]route, error) {
	c, err := p.conn()
	if err != nil {
		return nil, err
	}
	answers, err := c.dump(unix.RTM_GETROUTE, &nl.RtMsg{RtMsg: selected}, attrs...)
	if errors.Is(err, unix.ENODEV) {
		return nil, ErrLinkNotFound
	}
	// ENOENT: the table does not exist yet, for want of any route.
	if errors.Is(err, unix.ENOENT) {
		return nil, nil
	}
	var routes []route
	for _, b := range answers {
		if r, ok := parseRoute(b); ok {
			routes = append(routes, r)
		}
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
	p, l, err := s.link(end)
	if err != nil {
		return err
	}
	flags := unix.NLM_F_CREATE | unix.NLM_F_EXCL
	if r.First {
		// Without EXCL an IPv4 route goes before others of its metric; an IPv6
		// one has the lowest metric.
		flags = unix.NLM_F_CREATE
	}
	err = p.setRoute(l, r, flags)
	if errors.Is(err, unix.EEXIST) {
		return p.inTheWay(r.Dst)
	}
	return err
}

// replaceRoute changes a route of ours; NLM_F_REPLACE alone would hit anybody's.
func (s *session) replaceRoute(end netstate.End, r netstate.Route) error {
	p, l, err := s.link(end)
	if err != nil {
		return err
	}
	routes, err := p.ourRoutes(familyOf(r.Dst.Addr()), l)
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(routes, func(have route) bool { return have.dst == r.Dst }) {
		return p.inTheWay(r.Dst)
	}
	if !r.First {
		return p.setRoute(l, r, unix.NLM_F_REPLACE)
	}
	// NLM_F_REPLACE takes the first of its destination, whosever that is.
	if err := s.removeRoute(end, r.Dst); err != nil {
		return err
	}
	return s.addRoute(end, r)
}

// setRoute sends the route, and once more where the kernel says that the
// gateway is on no connected network of the link.
func (p *place) setRoute(l *link, r netstate.Route, flags int) error {
	c, err := p.conn()
	if err != nil {
		return err
	}
	body, attrs := routeMessage(l, r)
	err = c.change(unix.RTM_NEWROUTE, flags, body, attrs...)
	if r.Via.IsValid() && (errors.Is(err, unix.ENETUNREACH) || errors.Is(err, unix.EHOSTUNREACH)) {
		body.Flags |= unix.RTNH_F_ONLINK
		err = c.change(unix.RTM_NEWROUTE, flags, body, attrs...)
	}
	return err
}

func routeMessage(l *link, r netstate.Route) (*nl.RtMsg, []*nl.RtAttr) {
	body := nl.NewRtMsg()
	body.Family = uint8(familyOf(r.Dst.Addr()))
	body.Dst_len = uint8(r.Dst.Bits())
	body.Protocol = netstate.RouteProtocol
	body.Scope = unix.RT_SCOPE_LINK
	attrs := []*nl.RtAttr{u32Attr(unix.RTA_OIF, uint32(l.index))}
	if r.Dst.Bits() > 0 {
		attrs = append(attrs, nl.NewRtAttr(unix.RTA_DST, r.Dst.Addr().AsSlice()))
	}
	if r.Via.IsValid() {
		body.Scope = unix.RT_SCOPE_UNIVERSE
		attrs = append(attrs, nl.NewRtAttr(unix.RTA_GATEWAY, r.Via.AsSlice()))
	}
	if r.Src.IsValid() {
		attrs = append(attrs, nl.NewRtAttr(unix.RTA_PREFSRC, r.Src.AsSlice()))
	}
	if r.First && r.Dst.Addr().Is6() {
		attrs = append(attrs, u32Attr(unix.RTA_PRIORITY, 1))
	}
	return body, attrs
}

// addKernelRoutes makes the routes of an IPv4 address as the kernel makes them, and
// as it removes them with the address.
func (p *place) addKernelRoutes(l *link, a netstate.Address) error {
	local := kernelRoute(l, single(a.Prefix.Addr()), a.Prefix.Addr())
	local.body.Table, local.body.Type, local.body.Scope = unix.RT_TABLE_LOCAL, unix.RTN_LOCAL, unix.RT_SCOPE_HOST
	routes := []routeRequest{local}
	if !a.NoPrefixRoute && !a.Prefix.IsSingleIP() {
		routes = append(routes, kernelRoute(l, a.Prefix.Masked(), a.Prefix.Addr()))
	}
	c, err := p.conn()
	if err != nil {
		return err
	}
	for _, r := range routes {
		err := c.change(unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_APPEND, r.body, r.attrs...)
		if err != nil && !errors.Is(err, unix.EEXIST) {
			return err
		}
	}
	return nil
}

type routeRequest struct {
	body  *nl.RtMsg
	attrs []*nl.RtAttr
}

func kernelRoute(l *link, dst netip.Prefix, src netip.Addr) routeRequest {
	body, attrs := routeMessage(l, netstate.Route{Dst: dst, Src: src})
	body.Protocol = unix.RTPROT_KERNEL
	return routeRequest{body, attrs}
}

// inTheWay says which route it is that a new one would have replaced.
func (p *place) inTheWay(dst netip.Prefix) error {
	routes, err := p.routes(familyOf(dst.Addr()), 0, 0)
	if err != nil {
		return err
	}
	for _, r := range routes {
		if r.dst != dst {
			continue
		}
		if r.ours() {
			return ErrExists
		}
		return fmt.Errorf("there is %s: %w", p.describe(r), ErrForeign)
	}
	return ErrExists
}

func (p *place) describe(r route) string {
	s := "route " + r.dst.String()
	if r.via.IsValid() {
		s += " via " + r.via.String()
	}
	if l, err := p.linkAt(r.index); err == nil {
		s += " dev " + l.name
	}
	return s + fmt.Sprintf(" proto %d", r.protocol)
}

func (s *session) removeRoute(end netstate.End, dst netip.Prefix) error {
	p, l, err := s.link(end)
	if missing(err) {
		return nil
	}
	if err != nil {
		return err
	}
	if l.marked() && !s.k.ours(l) {
		return ErrForeign
	}
	c, err := p.conn()
	if err != nil {
		return err
	}
	body := nl.NewRtDelMsg()
	body.Family = uint8(familyOf(dst.Addr()))
	body.Dst_len = uint8(dst.Bits())
	body.Protocol = netstate.RouteProtocol
	attrs := []*nl.RtAttr{u32Attr(unix.RTA_OIF, uint32(l.index))}
	if dst.Bits() > 0 {
		attrs = append(attrs, nl.NewRtAttr(unix.RTA_DST, dst.Addr().AsSlice()))
	}
	if err := c.change(unix.RTM_DELROUTE, 0, body, attrs...); !gone(err) {
		return err
	}
	return nil
}
