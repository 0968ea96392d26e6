package kernel

import (
	"errors"
	"fmt"
	"net/netip"

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
	return netstate.Address{Netns: netns, Link: link, Prefix: a.prefix, NoPrefixRoute: a.flags&unix.IFA_F_NOPREFIXROUTE != 0}
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
	family := familyOf(prefix.Addr())
	addresses, err := once(p.addressesOf, listed{family, l.index}, func() ([]address, error) { return p.addresses(family, l.index) })
	if err != nil {
		return nil, err
	}
	a, found := pick(addresses, prefix)
	if !found {
		return nil, nil
	}
	o := a.object(key.Netns, key.Link)
	if !o.NoPrefixRoute {
		connected, err := p.connected(l, prefix)
		o.NoPrefixRoute = !connected
		return o, err
	}
	return o, nil
}

// connected reports whether the kernel's own route of an address is there: one
// that somebody deleted comes back only with the address. A link that does not
// run has none.
func (p *place) connected(l *link, prefix netip.Prefix) (bool, error) {
	if !l.up() || l.flags&unix.IFF_RUNNING == 0 || prefix.IsSingleIP() {
		return true, nil
	}
	family := familyOf(prefix.Addr())
	routes, err := once(p.connectedOf, listed{family, l.index}, func() ([]route, error) { return p.routes(family, unix.RTPROT_KERNEL, l.index) })
	for _, r := range routes {
		if r.dst == prefix.Masked() {
			return true, err
		}
	}
	return false, err
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
		// The flags of an IPv4 address cannot be changed.
		if err = s.removeAddress(end, a.Prefix); err == nil {
			err = s.addAddress(end, a)
		}
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

func (s *session) addAddress(end netstate.End, a netstate.Address) error {
	p, l, err := s.link(end)
	if err != nil {
		return err
	}
	c, err := p.conn()
	if err != nil {
		return err
	}
	err = c.change(unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_EXCL, addressBody(l, a.Prefix), addressAttributes(a)...)
	if errors.Is(err, unix.EEXIST) {
		return ErrExists
	}
	return err
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
	return append(attrs, number(unix.IFA_FLAGS, flags))
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

func familyOf(a netip.Addr) int {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}
