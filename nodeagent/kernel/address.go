package kernel

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/patchbay-dev/patchbay/nodeagent/kernel/announce"
	"github.com/patchbay-dev/patchbay/nodeagent/kernel/rtnl"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
	"github.com/patchbay-dev/patchbay/nodeagent/plan"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

func (s *session) observeAddress(key netstate.Key) (netstate.Object, error) {
	prefix, err := netip.ParsePrefix(key.Name)
	if err != nil {
		return nil, err
	}
	ns, l, err := s.link(netstate.End{Netns: key.Netns, Name: key.Link})
	if err != nil {
		return nil, err
	}
	addresses, err := ns.addressesOn(rtnl.FamilyOf(prefix.Addr()), l)
	if err != nil {
		return nil, err
	}
	a, found := pick(addresses, prefix)
	if !found {
		return nil, nil
	}
	o := a.Object(key.Netns, key.Link)
	if o.Astray == "" {
		o.Astray, err = ns.lacks(l, a)
	}
	return o, err
}

// lacks names the kernel's own route of an address that is missing: one that was
// deleted comes back only with the address.
func (ns *namespace) lacks(l *rtnl.Link, a rtnl.Address) (string, error) {
	if !l.Up() {
		return "", nil
	}
	family, missing := rtnl.FamilyOf(a.Prefix.Addr()), ""
	err := ns.patiently(family, func() (bool, error) {
		routes, err := ns.routesOn(family, l)
		missing = rtnl.MissingRoute(l, a, routes)
		return missing == "", err
	})
	return missing, err
}

// patiently looks until something is found or fails, and with IPv6 a few times: the
// kernel adds the routes of an IPv6 address by a worker, some time after the address.
func (ns *namespace) patiently(family int, look func() (bool, error)) error {
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
		clear(ns.routesOf)
	}
}

// addressesOn lists the addresses of a link. In a namespace one listing, once in a
// session, serves all links.
func (ns *namespace) addressesOn(family int, l *rtnl.Link) ([]rtnl.Address, error) {
	key := listed{family, l.Index}
	if ns.netns != "" {
		key = listed{}
	}
	all, err := once(ns.addressesOf, key, func() ([]rtnl.Address, error) { return ns.addresses(key.family, key.index) })
	var out []rtnl.Address
	for _, a := range all {
		if a.Index == l.Index && rtnl.FamilyOf(a.Prefix.Addr()) == family {
			out = append(out, a)
		}
	}
	return out, err
}

func pick(addresses []rtnl.Address, prefix netip.Prefix) (rtnl.Address, bool) {
	for _, a := range addresses {
		if a.Prefix == prefix {
			return a, true
		}
	}
	return rtnl.Address{}, false
}

// addresses lists a family's addresses of one link, or of all for index 0.
func (ns *namespace) addresses(family int, index int32) ([]rtnl.Address, error) {
	body := nl.NewIfAddrmsg(family)
	body.Index = uint32(index)
	addresses, err := dump(ns, unix.RTM_GETADDR, body, rtnl.ParseAddress)
	if errors.Is(err, unix.ENODEV) {
		return nil, ErrLinkNotFound
	}
	return addresses, err
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

// updateAddress repairs an address. It removes and adds the address only where nothing
// else helps, since foreign addresses on the link may go with it: an IPv4 address with
// other flags, and any IPv6 address, which gets its routes only when it is added.
func (s *session) updateAddress(end netstate.End, want netstate.Address) error {
	ns, l, err := s.link(end)
	if err != nil {
		return err
	}
	addresses, err := ns.addresses(rtnl.FamilyOf(want.Prefix.Addr()), l.Index)
	if err != nil {
		return err
	}
	have, found := pick(addresses, want.Prefix)
	asMade := found && (have.Flags&unix.IFA_F_NOPREFIXROUTE != 0) == want.NoPrefixRoute
	switch {
	case asMade && have.Mortal():
		return ns.setAddress(l, want, unix.NLM_F_REPLACE)
	case asMade && want.Prefix.Addr().Is4():
		return ns.addKernelRoutes(l, want)
	}
	if err := s.removeAddress(end, want.Prefix); err != nil {
		return err
	}
	return s.addAddress(end, want)
}

func (s *session) addAddress(end netstate.End, a netstate.Address) error {
	ns, l, err := s.link(end)
	if err != nil {
		return err
	}
	err = ns.setAddress(l, a, unix.NLM_F_CREATE|unix.NLM_F_EXCL)
	if errors.Is(err, unix.EEXIST) {
		return ErrExists
	}
	return err
}

func (ns *namespace) setAddress(l *rtnl.Link, a netstate.Address, flags int) error {
	return ns.change(unix.RTM_NEWADDR, flags, rtnl.AddressBody(l, a.Prefix), rtnl.AddressAttributes(a)...)
}

// removeAddress removes an address from our link, or our address from another link.
func (s *session) removeAddress(end netstate.End, prefix netip.Prefix) error {
	ns, l, err := s.link(end)
	if missing(err) {
		return nil
	}
	if err != nil {
		return err
	}
	if !s.k.ours(l) {
		if there, err := ns.addressOfOurs(l, prefix); err != nil || !there {
			return err
		}
	}
	local := nl.NewRtAttr(unix.IFA_LOCAL, prefix.Addr().AsSlice())
	if err := ns.change(unix.RTM_DELADDR, 0, rtnl.AddressBody(l, prefix), local); !gone(err) {
		return err
	}
	return nil
}

// addressOfOurs refuses a foreign address on a foreign link.
func (ns *namespace) addressOfOurs(l *rtnl.Link, prefix netip.Prefix) (bool, error) {
	if l.Marked() {
		return false, ErrForeign
	}
	addresses, err := ns.addresses(rtnl.FamilyOf(prefix.Addr()), l.Index)
	if missing(err) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	a, found := pick(addresses, prefix)
	if found && a.Protocol != netstate.RouteProtocol {
		return false, ErrForeign
	}
	return found, nil
}

func (ns *namespace) hasLinkLocal(l *rtnl.Link) (bool, error) {
	addresses, err := ns.addressesOn(unix.AF_INET6, l)
	return slices.ContainsFunc(addresses, func(a rtnl.Address) bool { return a.Prefix.Addr().IsLinkLocalUnicast() }), err
}

// addLinkLocal gives a link the address that it has from the kernel.
func (ns *namespace) addLinkLocal(l *rtnl.Link) error {
	ip := l.MAC.LinkLocal()
	err := ns.change(unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_EXCL, rtnl.AddressBody(l, netip.PrefixFrom(ip, 64)),
		nl.NewRtAttr(unix.IFA_LOCAL, ip.AsSlice()), nl.NewRtAttr(unix.IFA_ADDRESS, ip.AsSlice()), rtnl.U32(unix.IFA_FLAGS, unix.IFA_F_NODAD))
	if errors.Is(err, unix.EEXIST) {
		return nil
	}
	return err
}

// Announce tells the neighbours of targets to which these steps gave another MAC address,
// or an address that a neighbour may know by another MAC: the old entry would lead astray
// for up to a minute. The filters must let the announcement pass by now. Announce returns
// at once, since to close a packet socket takes the kernel a grace period; Close waits for
// the announcements under way. After a failed one the neighbours' own probes find the
// address.
func (k *Kernel) Announce(steps []plan.Step) {
	for end, target := range k.announced.Add(steps) {
		k.announcing.Go(func() {
			k.announcers <- struct{}{}
			defer func() { <-k.announcers }()
			k.announce(end, target)
		})
	}
}

// maxAnnouncers bounds the threads that wait for grace periods, which they share.
const maxAnnouncers = 16

func (k *Kernel) announce(end netstate.End, target announce.Target) {
	s := k.session()
	defer s.close()
	addresses := target.Addresses
	if target.All {
		addresses = s.addressesOf(end)
	}
	if ns, l, err := s.link(end); err == nil && l.Up() && !l.Loopback() {
		port := s.peer(ns, l)
		announce.Await(func() bool { return k.blocked(port) })
		_ = ns.run(func() error { return announce.Send(l.Index, l.MAC, addresses) })
	}
}

func (k *Kernel) blocked(port netstate.End) bool {
	s := k.session()
	defer s.close()
	_, l, err := s.link(port)
	return err == nil && l.Blocked()
}

func (s *session) addressesOf(end netstate.End) []netip.Addr {
	var out []netip.Addr
	ns, l, err := s.link(end)
	if err != nil {
		return nil
	}
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		list, _ := ns.addresses(family, l.Index)
		for _, a := range list {
			out = append(out, a.Prefix.Addr())
		}
	}
	return out
}
