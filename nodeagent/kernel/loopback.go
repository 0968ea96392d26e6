package kernel

import (
	"errors"
	"net/netip"
	"os"
	"slices"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
)

const loopbackName = "lo"

// loopbacks are the addresses that a loopback has from the kernel. A kernel without
// IPv6 has no such attribute.
var loopbacks = map[netstate.Attribute]netip.Prefix{
	netstate.Loopback4: netip.MustParsePrefix("127.0.0.1/8"),
	netstate.Loopback6: netip.MustParsePrefix("::1/128"),
}

// loopbackAttributes says which of its addresses a loopback has, with their local
// routes.
func (p *place) loopbackAttributes(l *link) netstate.Attributes {
	var out netstate.Attributes
	for attribute, prefix := range loopbacks {
		if prefix.Addr().Is6() && noIPv6() {
			continue
		}
		if has, err := p.hasLoopback(l, prefix); err == nil {
			out = out.With(attribute, number01(has))
		}
	}
	return out
}

func (p *place) hasLoopback(l *link, prefix netip.Prefix) (has bool, err error) {
	family := familyOf(prefix.Addr())
	addresses, err := p.addressesOn(family, l)
	if err != nil || !slices.ContainsFunc(addresses, func(a address) bool { return a.prefix == prefix }) {
		return false, err
	}
	err = p.patiently(family, func() (bool, error) {
		routes, err := p.routesOn(family, l)
		has = slices.ContainsFunc(routes, func(r route) bool { return r.kind == unix.RTN_LOCAL && r.dst == single(prefix.Addr()) })
		return has, err
	})
	return has, err
}

func noIPv6() bool {
	_, err := os.Stat(procSys + "/net/ipv6")
	return errors.Is(err, os.ErrNotExist)
}

// changeLoopback gives a loopback its addresses back. With IPv6 off it cannot have
// its own.
func (p *place) changeLoopback(l *link, s netstate.Attributes) error {
	for attribute, prefix := range loopbacks {
		if _, wanted := s.Get(attribute); !wanted {
			continue
		}
		if prefix.Addr().Is6() {
			if err := p.run(func() error { return p.k.writeSysctl("net/ipv6/conf/"+l.name+"/disable_ipv6", "0") }); err != nil {
				return err
			}
		}
		if err := p.restoreLoopback(l, prefix); err != nil {
			return err
		}
	}
	return nil
}

// restoreLoopback makes an address as the kernel makes it. An IPv6 one has its
// route only with the address.
func (p *place) restoreLoopback(l *link, prefix netip.Prefix) error {
	c, err := p.conn()
	if err != nil {
		return err
	}
	attrs := []*nl.RtAttr{nl.NewRtAttr(unix.IFA_LOCAL, prefix.Addr().AsSlice()), nl.NewRtAttr(unix.IFA_ADDRESS, prefix.Addr().AsSlice())}
	body := addressBody(l, prefix)
	if prefix.Addr().Is6() {
		if err := c.change(unix.RTM_DELADDR, 0, body, attrs...); err != nil && !gone(err) {
			return err
		}
	}
	body.Scope = unix.RT_SCOPE_HOST
	err = c.change(unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_EXCL, body, attrs...)
	if err != nil && !errors.Is(err, unix.EEXIST) || prefix.Addr().Is6() {
		return err
	}
	return p.addKernelRoutes(l, netstate.Address{Prefix: prefix, NoPrefixRoute: true})
}
