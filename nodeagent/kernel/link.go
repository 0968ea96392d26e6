package kernel

import (
	"errors"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/patchbay-dev/patchbay/nodeagent/kernel/rtnl"
	"github.com/patchbay-dev/patchbay/nodeagent/kernel/sysctl"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// link asks for an interface by name, once in a session.
func (ns *namespace) link(name string) (*rtnl.Link, error) {
	if l, known := ns.byName[name]; known {
		return found(l)
	}
	if name == "" || len(name) > rtnl.MaxName {
		return nil, ErrLinkNotFound
	}
	l, err := ns.queryLink(0, rtnl.Text(unix.IFLA_IFNAME, name))
	if err != nil {
		return nil, err
	}
	// The kernel answers to alternative names too.
	if l != nil && l.Name != name {
		ns.holders[name], l = l, nil
	}
	ns.byName[name] = l
	return found(l)
}

// linkAt asks for an interface by index, once in a session.
func (ns *namespace) linkAt(index int32) (*rtnl.Link, error) {
	if l := ns.byIndex[index]; l != nil {
		return l, nil
	}
	l, err := ns.queryLink(index)
	if err != nil {
		return nil, err
	}
	return found(l)
}

func found(l *rtnl.Link) (*rtnl.Link, error) {
	if l == nil {
		return nil, ErrLinkNotFound
	}
	return l, nil
}

// queryLink returns nil for a link that does not exist.
func (ns *namespace) queryLink(index int32, attrs ...*nl.RtAttr) (*rtnl.Link, error) {
	body := nl.NewIfInfomsg(unix.AF_UNSPEC)
	body.Index = index
	b, err := ns.get(unix.RTM_GETLINK, body, append(attrs, rtnl.U32(unix.IFLA_EXT_MASK, rtnl.SkipStats))...)
	if errors.Is(err, unix.ENODEV) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	l, ok := rtnl.ParseLink(b)
	if !ok {
		return nil, unix.EBADMSG
	}
	ns.remember(&l)
	return &l, nil
}

func (ns *namespace) remember(l *rtnl.Link) {
	ns.byName[l.Name] = l
	ns.byIndex[l.Index] = l
}

// forget drops a link that the session has changed: it is read anew when needed.
func (ns *namespace) forget(name string) {
	if l := ns.byName[name]; l != nil {
		delete(ns.byIndex, l.Index)
		delete(ns.peers, l.Index)
	}
	delete(ns.byName, name)
}

// allLinks lists the namespace's interfaces.
func (ns *namespace) allLinks() ([]*rtnl.Link, error) {
	list, err := dump(ns, unix.RTM_GETLINK, nl.NewIfInfomsg(unix.AF_UNSPEC), rtnl.ParseLink, rtnl.U32(unix.IFLA_EXT_MASK, rtnl.SkipStats))
	links := make([]*rtnl.Link, len(list))
	for i := range list {
		links[i] = &list[i]
		ns.remember(links[i])
	}
	return links, err
}

func (s *session) observeLink(key netstate.Key) (netstate.Object, error) {
	ns, l, err := s.link(netstate.End{Netns: key.Netns, Name: key.Link})
	if errors.Is(err, ErrLinkNotFound) {
		return s.observeHolder(key), nil
	}
	if err != nil {
		return nil, err
	}
	return s.object(ns, l), nil
}

// observeHolder describes the interface that has a name as an alternative one, which
// is taken then as much as a first name; nil where none does.
func (s *session) observeHolder(key netstate.Key) netstate.Object {
	ns := s.open[key.Netns]
	if ns == nil || ns.holders[key.Link] == nil {
		return nil
	}
	l := ns.holders[key.Link]
	return netstate.Link{Netns: key.Netns, Name: key.Link, Type: l.Typ(), Holder: l.Name}
}

// ours reports whether the link is Patchbay's and not another source's. The group alone
// says nothing of the source: a half-made link belongs to each source.
func (k *Kernel) ours(l *rtnl.Link) bool {
	source, _, ok := netstate.ParseMark(l.Alias)
	if ok {
		return source == k.opts.Source
	}
	return l.Grouped()
}

// object is the link as netstate describes it.
func (s *session) object(ns *namespace, l *rtnl.Link) netstate.Link {
	o := l.Object(ns.netns)
	o.Attributes, o.Waits = s.attributes(ns, l)
	if l.Master != 0 {
		o.Master = unknown
		if master, err := ns.linkAt(l.Master); err == nil {
			o.Master = master.Name
		}
	}
	if o.Type == netstate.Veth {
		o.Peer = s.peer(ns, l)
	}
	if !s.k.ours(l) || o.Type == netstate.Loopback {
		return o
	}
	if o.Type != netstate.Bridge && ns.netns != "" {
		o.Planted = ns.planted(l)
	}
	o.Taken = ns.taken(l)
	return o
}

// attributes are the attributes of a link. Of our link, they include the attributes that
// other requests tell. waits is the reason why a port of a foreign bridge does not forward.
func (s *session) attributes(ns *namespace, l *rtnl.Link) (a netstate.Attributes, waits string) {
	a = l.Object(ns.netns).Attributes
	if l.Master != 0 {
		if master, err := ns.linkAt(l.Master); err == nil {
			a, waits = l.Forwards(master, a)
		}
	}
	switch {
	case !s.k.ours(l):
	case l.Loopback():
		if ns.netns != "" && l.Up() {
			a = ns.loopbackAttributes(l)
		}
	case l.Typ() == netstate.Bridge:
		if knows, err := ns.knowsItself(l); err == nil {
			a = a.With(netstate.OwnMAC, rtnl.Bit(knows))
		}
		if has, err := ns.hasLinkLocal(l); err == nil && l.Running() && !noIPv6() {
			a = a.With(netstate.LinkLocal, rtnl.Bit(has))
		}
	}
	return a, waits
}

// unknown stands for a name that cannot be found out; no interface and no
// our namespace has it, so it differs from every desired one.
const unknown = "?"

// planted lists the permanent neighbours of a link in a namespace, as "address=mac"
// by spaces.
func (ns *namespace) planted(l *rtnl.Link) string {
	if !ns.neighboursRead {
		list, err := dump(ns, unix.RTM_GETNEIGH, &rtnl.Ndmsg{}, rtnl.ParseNeighbour)
		if err != nil {
			return ""
		}
		made := func(n rtnl.Neighbour) bool { return n.Permanent() && n.Family != unix.AF_BRIDGE }
		ns.neighbours = slices.DeleteFunc(list, func(n rtnl.Neighbour) bool { return !made(n) })
		ns.neighboursRead = true
	}
	var texts []string
	for _, n := range ns.neighbours {
		if n.Index == l.Index {
			texts = append(texts, n.Addr.String()+"="+n.Mac.String())
		}
	}
	return strings.Join(texts, " ")
}

const loopbackName = "lo"

// loopbacks are the addresses that a loopback has from the kernel. A kernel without
// IPv6 has no such attribute.
var loopbacks = map[netstate.Attribute]netip.Prefix{
	netstate.Loopback4: netip.MustParsePrefix("127.0.0.1/8"),
	netstate.Loopback6: netip.MustParsePrefix("::1/128"),
}

// loopbackAttributes says which of its addresses a loopback has, with their local
// routes.
func (ns *namespace) loopbackAttributes(l *rtnl.Link) netstate.Attributes {
	var out netstate.Attributes
	for attribute, prefix := range loopbacks {
		if prefix.Addr().Is6() && noIPv6() {
			continue
		}
		if has, err := ns.hasLoopback(l, prefix); err == nil {
			out = out.With(attribute, rtnl.Bit(has))
		}
	}
	return out
}

func (ns *namespace) hasLoopback(l *rtnl.Link, prefix netip.Prefix) (has bool, err error) {
	family := rtnl.FamilyOf(prefix.Addr())
	addresses, err := ns.addressesOn(family, l)
	if err != nil || !slices.ContainsFunc(addresses, func(a rtnl.Address) bool { return a.Prefix == prefix }) {
		return false, err
	}
	err = ns.patiently(family, func() (bool, error) {
		routes, err := ns.routesOn(family, l)
		has = slices.ContainsFunc(routes, func(r rtnl.Route) bool { return r.Kind == unix.RTN_LOCAL && r.Dst == rtnl.Single(prefix.Addr()) })
		return has, err
	})
	return has, err
}

// noIPv6 says that the kernel has no IPv6 (ipv6.disable=1). It is read once: a look into
// /proc/sys takes a hundred microseconds.
var noIPv6 = sync.OnceValue(func() bool {
	_, err := os.Stat(sysctl.Root + "/net/ipv6")
	return errors.Is(err, os.ErrNotExist)
})

// changeLoopback gives a loopback its addresses back. With IPv6 off it cannot have
// its own.
func (ns *namespace) changeLoopback(l *rtnl.Link, s netstate.Attributes) error {
	for attribute, prefix := range loopbacks {
		if _, wanted := s.Get(attribute); !wanted {
			continue
		}
		if prefix.Addr().Is6() {
			if err := ns.run(func() error { return ns.k.sysctls.Write("net/ipv6/conf/"+l.Name+"/disable_ipv6", "0") }); err != nil {
				return err
			}
		}
		if err := ns.restoreLoopback(l, prefix); err != nil {
			return err
		}
	}
	return nil
}

// restoreLoopback makes an address as the kernel makes it. An IPv6 one has its
// route only with the address.
func (ns *namespace) restoreLoopback(l *rtnl.Link, prefix netip.Prefix) error {
	attrs := []*nl.RtAttr{nl.NewRtAttr(unix.IFA_LOCAL, prefix.Addr().AsSlice()), nl.NewRtAttr(unix.IFA_ADDRESS, prefix.Addr().AsSlice())}
	body := rtnl.AddressBody(l, prefix)
	if prefix.Addr().Is6() {
		if err := ns.change(unix.RTM_DELADDR, 0, body, attrs...); err != nil && !gone(err) {
			return err
		}
	}
	body.Scope = unix.RT_SCOPE_HOST
	err := ns.change(unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_EXCL, body, attrs...)
	if err != nil && !errors.Is(err, unix.EEXIST) || prefix.Addr().Is6() {
		return err
	}
	return ns.addKernelRoutes(l, netstate.Address{Prefix: prefix, NoPrefixRoute: true})
}
