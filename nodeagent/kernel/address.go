package kernel

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
	"github.com/patchbay-dev/patchbay/nodeagent/plan"
)

// address is an interface's address as a netlink message describes it.
type address struct {
	index    int32
	prefix   netip.Prefix
	flags    uint32
	protocol uint8
}

// parseAddress reads RTM_NEWADDR and RTM_DELADDR; it returns false for what is
// none.
func parseAddress(b []byte) (address, bool) {
	if len(b) < unix.SizeofIfAddrmsg {
		return address{}, false
	}
	a := address{flags: uint32(b[2]), index: int32(uint32At(b[4:]))}
	var local, other netip.Addr
	for kind, value := range attributes(b[unix.SizeofIfAddrmsg:]) {
		switch kind {
		case unix.IFA_LOCAL:
			local, _ = netip.AddrFromSlice(value)
		case unix.IFA_ADDRESS:
			other, _ = netip.AddrFromSlice(value)
		case unix.IFA_FLAGS:
			a.flags = uint32At(value)
		case ifaProto:
			if len(value) > 0 {
				a.protocol = value[0]
			}
		}
	}
	if !local.IsValid() {
		local = other
	}
	a.prefix = netip.PrefixFrom(local, int(b[1]))
	return a, a.prefix.IsValid()
}

func (a address) object(netns, link string) netstate.Address {
	o := netstate.Address{Netns: netns, Link: link, Prefix: a.prefix, NoPrefixRoute: a.flags&unix.IFA_F_NOPREFIXROUTE != 0}
	switch {
	case a.flags&unix.IFA_F_DADFAILED != 0:
		o.Astray = "dadfailed"
	case a.mortal():
		o.Astray = "with a lifetime"
	}
	return o
}

// mortal reports whether the address ends by itself, or is no longer used for new
// connections (deprecated).
func (a address) mortal() bool {
	return a.flags&unix.IFA_F_PERMANENT == 0 || a.flags&unix.IFA_F_DEPRECATED != 0
}

func (s *session) observeAddress(key netstate.Key) (netstate.Object, error) {
	prefix, err := netip.ParsePrefix(key.Name)
	if err != nil {
		return nil, err
	}
	p, l, err := s.link(netstate.End{Netns: key.Netns, Name: key.Link})
	if err != nil {
		return nil, err
	}
	addresses, err := p.addressesOn(familyOf(prefix.Addr()), l)
	if err != nil {
		return nil, err
	}
	a, found := pick(addresses, prefix)
	if !found {
		return nil, nil
	}
	o := a.object(key.Netns, key.Link)
	if o.Astray == "" {
		o.Astray, err = p.lacks(l, a)
	}
	return o, err
}

// lacks names the kernel's own route of an address that is missing: one that was
// deleted comes back only with the address.
func (p *place) lacks(l *link, a address) (string, error) {
	if !l.up() {
		return "", nil
	}
	family, missing := familyOf(a.prefix.Addr()), ""
	err := p.patiently(family, func() (bool, error) {
		routes, err := p.routesOn(family, l)
		missing = missingRoute(l, a, routes)
		return missing == "", err
	})
	return missing, err
}

// patiently looks until something is found or fails, and with IPv6 a few times: the
// kernel adds the routes of an IPv6 address by a worker, some time after the address.
func (p *place) patiently(family int, look func() (bool, error)) error {
	const (
		attempts = 10
		pause    = 5 * time.Millisecond
	)
	for attempt := 0; ; attempt++ {
		found, err := look()
		if found || err != nil || family == unix.AF_INET || attempt == attempts {
			return err
		}
		time.Sleep(pause)
		clear(p.routesOf)
	}
}

// missingRoute looks for the routes that an address has: the local one, the
// connected one, also on a link without carrier (linkdown), and with IPv6 that of
// groups, without which no neighbour is found; the kernel makes it when the link
// begins to run.
func missingRoute(l *link, a address, routes []route) string {
	ip := a.prefix.Addr()
	has := func(kind uint8, dst netip.Prefix) bool {
		return slices.ContainsFunc(routes, func(r route) bool { return r.kind == kind && r.dst == dst })
	}
	switch {
	case !has(unix.RTN_LOCAL, single(ip)):
		return "without its local route"
	case a.flags&unix.IFA_F_NOPREFIXROUTE == 0 && !a.prefix.IsSingleIP() && !has(unix.RTN_UNICAST, a.prefix.Masked()):
		return "without its connected route"
	case ip.Is6() && l.running() && !has(unix.RTN_MULTICAST, groups6):
		return "without the route of groups"
	}
	return ""
}

// groups6 are the IPv6 multicast addresses.
var groups6 = netip.MustParsePrefix("ff00::/8")

// addressesOn lists the addresses of a link. In a namespace one listing, once in a
// session, serves all links.
func (p *place) addressesOn(family int, l *link) ([]address, error) {
	key := listed{family, l.index}
	if p.netns != "" {
		key = listed{}
	}
	all, err := once(p.addressesOf, key, func() ([]address, error) { return p.addresses(key.family, key.index) })
	var out []address
	for _, a := range all {
		if a.index == l.index && familyOf(a.prefix.Addr()) == family {
			out = append(out, a)
		}
	}
	return out, err
}

func pick(addresses []address, prefix netip.Prefix) (address, bool) {
	for _, a := range addresses {
		if a.prefix == prefix {
			return a, true
		}
	}
	return address{}, false
}

// addresses lists a family's addresses of one link, or of all for index 0.
func (p *place) addresses(family int, index int32) ([]address, error) {
	c, err := p.conn()
	if err != nil {
		return nil, err
	}
	body := nl.NewIfAddrmsg(family)
	body.Index = uint32(index)
	answers, err := c.dump(unix.RTM_GETADDR, body)
	if errors.Is(err, unix.ENODEV) {
		return nil, ErrLinkNotFound
	}
	if err != nil {
		return nil, err
	}
	var addresses []address
	for _, b := range answers {
		if a, ok := parseAddress(b); ok {
			addresses = append(addresses, a)
		}
	}
	return addresses, nil
}

func (s *session) applyAddress(op plan.Op, a netstate.Address) error {
	end := netstate.End{Netns: a.Netns, Name: a.Link}
	var err error
	switch op {
	case plan.Create:
		err = s.addAddress(end, a)
	case plan.Update:
		err = s.updateAddress(end, a)
	case plan.Delete:
		err = s.removeAddress(end, a.Prefix)
	default:
		err = errors.ErrUnsupported
	}
	if err != nil {
		return fmt.Errorf("%s address %s on %s: %w", op, a.Prefix, end, err)
	}
	return nil
}

// updateAddress gives an address back what it lacks. It goes only where nothing else
// helps, since addresses of others on the link may go with it: an IPv4 address whose
// flags differ, and an IPv6 one, which has its routes only with itself.
func (s *session) updateAddress(end netstate.End, want netstate.Address) error {
	p, l, err := s.link(end)
	if err != nil {
		return err
	}
	addresses, err := p.addresses(familyOf(want.Prefix.Addr()), l.index)
	if err != nil {
		return err
	}
	have, found := pick(addresses, want.Prefix)
	asMade := found && (have.flags&unix.IFA_F_NOPREFIXROUTE != 0) == want.NoPrefixRoute
	switch {
	case asMade && have.mortal():
		return p.setAddress(l, want, unix.NLM_F_REPLACE)
	case asMade && want.Prefix.Addr().Is4():
		return p.addKernelRoutes(l, want)
	}
	if err := s.removeAddress(end, want.Prefix); err != nil {
		return err
	}
	return s.addAddress(end, want)
}

func (s *session) addAddress(end netstate.End, a netstate.Address) error {
	p, l, err := s.link(end)
	if err != nil {
		return err
	}
	err = p.setAddress(l, a, unix.NLM_F_CREATE|unix.NLM_F_EXCL)
	if errors.Is(err, unix.EEXIST) {
		return ErrExists
	}
	return err
}

func (p *place) setAddress(l *link, a netstate.Address, flags int) error {
	c, err := p.conn()
	if err != nil {
		return err
	}
	return c.change(unix.RTM_NEWADDR, flags, addressBody(l, a.Prefix), addressAttributes(a)...)
}

func addressBody(l *link, prefix netip.Prefix) *nl.IfAddrmsg {
	body := nl.NewIfAddrmsg(familyOf(prefix.Addr()))
	body.Prefixlen = uint8(prefix.Bits())
	body.Index = uint32(l.index)
	return body
}

func addressAttributes(a netstate.Address) []*nl.RtAttr {
	ip := a.Prefix.Addr()
	attrs := []*nl.RtAttr{
		nl.NewRtAttr(unix.IFA_LOCAL, ip.AsSlice()),
		nl.NewRtAttr(unix.IFA_ADDRESS, ip.AsSlice()),
		nl.NewRtAttr(ifaProto, nl.Uint8Attr(netstate.RouteProtocol)),
	}
	var flags uint32
	if a.NoPrefixRoute {
		flags |= unix.IFA_F_NOPREFIXROUTE
	}
	if ip.Is6() {
		// Detecting duplicates takes seconds, for an address nobody else has.
		flags |= unix.IFA_F_NODAD
	} else if a.Prefix.Bits() < 31 {
		attrs = append(attrs, nl.NewRtAttr(unix.IFA_BROADCAST, broadcast(a.Prefix).AsSlice()))
	}
	return append(attrs, u32Attr(unix.IFA_FLAGS, flags))
}

// broadcast is the last address of an IPv4 network.
func broadcast(p netip.Prefix) netip.Addr {
	b := p.Addr().As4()
	for i := p.Bits(); i < 32; i++ {
		b[i/8] |= 1 << (7 - i%8)
	}
	return netip.AddrFrom4(b)
}

// removeAddress removes an address from a link of ours, or one of ours from
// another link.
func (s *session) removeAddress(end netstate.End, prefix netip.Prefix) error {
	p, l, err := s.link(end)
	if missing(err) {
		return nil
	}
	if err != nil {
		return err
	}
	if !s.k.ours(l) {
		if there, err := p.addressOfOurs(l, prefix); err != nil || !there {
			return err
		}
	}
	c, err := p.conn()
	if err != nil {
		return err
	}
	local := nl.NewRtAttr(unix.IFA_LOCAL, prefix.Addr().AsSlice())
	if err := c.change(unix.RTM_DELADDR, 0, addressBody(l, prefix), local); !gone(err) {
		return err
	}
	return nil
}

// addressOfOurs refuses a foreign address on a foreign link.
func (p *place) addressOfOurs(l *link, prefix netip.Prefix) (bool, error) {
	if l.marked() {
		return false, ErrForeign
	}
	addresses, err := p.addresses(familyOf(prefix.Addr()), l.index)
	if missing(err) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	a, found := pick(addresses, prefix)
	if found && a.protocol != netstate.RouteProtocol {
		return false, ErrForeign
	}
	return found, nil
}

func (p *place) hasLinkLocal(l *link) (bool, error) {
	addresses, err := p.addressesOn(unix.AF_INET6, l)
	return slices.ContainsFunc(addresses, func(a address) bool { return a.prefix.Addr().IsLinkLocalUnicast() }), err
}

// addLinkLocal gives a link the address that it has from the kernel.
func (p *place) addLinkLocal(l *link) error {
	c, err := p.conn()
	if err != nil {
		return err
	}
	ip := l.mac.LinkLocal()
	err = c.change(unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_EXCL, addressBody(l, netip.PrefixFrom(ip, 64)),
		nl.NewRtAttr(unix.IFA_LOCAL, ip.AsSlice()), nl.NewRtAttr(unix.IFA_ADDRESS, ip.AsSlice()), u32Attr(unix.IFA_FLAGS, unix.IFA_F_NODAD))
	if errors.Is(err, unix.EEXIST) {
		return nil
	}
	return err
}

// single is the prefix of one address alone.
func single(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }

func familyOf(a netip.Addr) int {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}
