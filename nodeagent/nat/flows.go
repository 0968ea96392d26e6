package nat

import (
	"errors"
	"fmt"
	"iter"
	"net/netip"
	"slices"
	"sync"

	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// flow says which tracked connections contradict a changed publish.
type flow struct {
	// old is what no longer holds: connections to those of its targets that it
	// lost go, and those of whom the sources that it has now leave out, unless
	// another publish leads them there. Those to targets that it has in another way
	// now go in any case.
	old          netstate.Publish
	lost, turned netstate.Targets
	sources      netstate.Sources
	// fresh is a new publish. The flows of UDP that it leads away from the node
	// itself, or from a publish for every address, go, since senders would keep them
	// alive for ever; and so do all connections by that of whom it keeps out.
	fresh netstate.Publish
	// gone is an address of nobody any more: all connections from and to it go.
	gone netip.Addr
}

type flows []flow

// add adds what changing a publish from old to new contradicts; either may be
// nil or another kind of object.
func (fs flows) add(old, now netstate.Object) flows {
	o, _ := old.(netstate.Publish)
	n, _ := now.(netstate.Publish)
	if o == n {
		return fs
	}
	lost, turned := o.Targets.Without(n.Targets), turnedTargets(o, n)
	if lost != "" || turned != "" || o.HostPort != 0 && n.Sources != "" && n.Sources != o.Sources {
		fs = append(fs, flow{old: o, lost: lost, turned: turned, sources: n.Sources})
	}
	if n.Proto == "udp" || n.Sources != "" && o.HostPort == 0 && !n.Host.IsUnspecified() {
		fs = append(fs, flow{fresh: n})
	}
	return fs
}

// turnedTargets are the targets of a publish that are masqueraded only before or
// only after a change.
func turnedTargets(old, now netstate.Publish) netstate.Targets {
	var turned []netip.AddrPort
	for _, t := range old.Targets.All() {
		if now.Targets.Has(t) && old.Back.Has(t) != now.Back.Has(t) {
			turned = append(turned, t)
		}
	}
	return netstate.NewTargets(turned...)
}

// standing finds the publish for exactly this host address, the unspecified one
// included, that a connection would go by, so that connections that the publishes
// that there are would make as well stay.
type standing func(host netip.Addr, c connection) (netstate.Publish, bool)

// leads says whether a publish takes a connection from its source to where it goes.
func (publishes standing) leads(host netip.Addr, c connection) bool {
	p, ok := publishes(host, c)
	return ok && p.Targets.Has(firstOf(p, c)) && p.Sources.Has(c.orig.src.Addr())
}

// decides returns the host address of the publish that a connection falls to: one of
// the address itself comes before one for every address, whoever may use it.
func (publishes standing) decides(c connection) netip.Addr {
	host := c.orig.dst.Addr()
	if _, own := publishes(host, c); own {
		return host
	}
	return everywhere(host)
}

// lead says whether the publishes together take a connection to where it goes.
func (publishes standing) lead(c connection) bool { return publishes.leads(publishes.decides(c), c) }

// admit says whether they take it anywhere.
func (publishes standing) admit(c connection) bool {
	p, ok := publishes(publishes.decides(c), c)
	return ok && p.Sources.Has(c.orig.src.Addr())
}

// standing judges by what memory holds.
func (m *memory) standing() standing {
	return standingAmong(func(k netstate.Key) netstate.Object {
		if e := m.entries[k]; e != nil {
			return e.object
		}
		return nil
	}, func(yield func(netstate.Object) bool) {
		for _, e := range m.entries {
			if !yield(e.object) {
				return
			}
		}
	})
}

// standingAmong judges by the object of a key and by all of them. Few publishes
// are ranges, and nobody looks for them before a connection needs it.
func standingAmong(find func(netstate.Key) netstate.Object, all iter.Seq[netstate.Object]) standing {
	ranges := sync.OnceValue(func() []netstate.Publish {
		var out []netstate.Publish
		for o := range all {
			if p, ok := o.(netstate.Publish); ok && p.HostPortEnd != 0 {
				out = append(out, p)
			}
		}
		return out
	})
	return func(host netip.Addr, c connection) (netstate.Publish, bool) {
		for name, number := range protoNumbers {
			one := netstate.Publish{Host: host, Proto: name, HostPort: c.orig.dst.Port()}
			if number != c.orig.proto {
				continue
			}
			if p, ok := find(one.Key()).(netstate.Publish); ok {
				return p, true
			}
		}
		i := slices.IndexFunc(ranges(), func(p netstate.Publish) bool { return p.Host == host && about(p, c) })
		if i < 0 {
			return netstate.Publish{}, false
		}
		return ranges()[i], true
	}
}

// about says whether a connection is to a port of a publish, whatever the address.
func about(p netstate.Publish, c connection) bool {
	port := c.orig.dst.Port()
	return c.orig.proto == protoNumbers[p.Proto] && port >= p.HostPort && port <= p.Last()
}

// firstOf is the target of a publish's first port, if the connection goes where
// its own port leads.
func firstOf(p netstate.Publish, c connection) netip.AddrPort {
	return netip.AddrPortFrom(c.reply.src.Addr(), c.reply.src.Port()-(c.orig.dst.Port()-p.HostPort))
}

// settle deletes the connections, if there are any to look for, and forgets the
// flows unless trying again may help.
func (fs *flows) settle(publishes func() standing, step func()) error {
	if len(*fs) == 0 {
		return nil
	}
	err := fs.flush(publishes())
	if err == nil || !retryable(err) {
		*fs = nil
	}
	step()
	return err
}

// flush deletes the connections.
func (fs flows) flush(publishes standing) error {
	var errs []error
	for _, family := range []netlink.InetFamily{unix.AF_INET, unix.AF_INET6} {
		index := fs.index(family)
		if len(index.ports)+len(index.ranges)+len(index.gone) == 0 {
			continue
		}
		if err := index.flush(family, publishes); err != nil && !(unsupported(err) && onlyFresh(fs)) {
			errs = append(errs, fmt.Errorf("delete conntrack entries of %d publishes and addresses: %w", len(fs), err))
		}
	}
	return errors.Join(errs...)
}

// flowKey is what a connection and a publish of one port have in common at first
// sight.
type flowKey struct {
	proto uint8
	port  uint16
}

// flowIndex is flows of one family.
type flowIndex struct {
	ports  map[flowKey]flows
	ranges flows
	gone   map[netip.Addr]bool
}

func (fs flows) index(family netlink.InetFamily) flowIndex {
	index := flowIndex{ports: map[flowKey]flows{}, gone: map[netip.Addr]bool{}}
	for _, f := range fs {
		p := f.publish()
		k := flowKey{protoNumbers[p.Proto], p.HostPort}
		switch {
		case f.gone.IsValid():
			if f.gone.Is4() == (family == unix.AF_INET) {
				index.gone[f.gone] = true
			}
		case p.Host.Is4() != (family == unix.AF_INET):
		case p.HostPortEnd != 0:
			index.ranges = append(index.ranges, f)
		default:
			index.ports[k] = append(index.ports[k], f)
		}
	}
	return index
}

func (x flowIndex) flush(family netlink.InetFamily, publishes standing) error {
	locals, err := localAddresses(int(family))
	if err != nil {
		return fmt.Errorf("list local addresses: %w", err)
	}
	return deleteConnections(family, x.asks(), func(c connection) bool {
		match := func(f flow) bool { return f.matches(c, locals, publishes) }
		return len(x.gone) > 0 && x.left(c) || slices.ContainsFunc(x.ports[flowKey{c.orig.proto, c.orig.dst.Port()}], match) || slices.ContainsFunc(x.ranges, match)
	})
}

// left says whether an end of a connection has gone.
func (x flowIndex) left(c connection) bool {
	ends := []netip.AddrPort{c.orig.src, c.orig.dst, c.reply.src, c.reply.dst}
	return c.zone == 0 && slices.ContainsFunc(ends, func(a netip.AddrPort) bool { return x.gone[a.Addr()] })
}

// addresses are flows of addresses that have gone.
func addresses(gone []netip.Addr) flows {
	var fs flows
	for _, a := range gone {
		fs = append(fs, flow{gone: a})
	}
	return fs
}

func (f flow) publish() netstate.Publish {
	if f.fresh != (netstate.Publish{}) {
		return f.fresh
	}
	return f.old
}

func (f flow) matches(c connection, locals map[netip.Addr]bool, publishes standing) bool {
	p, host := f.publish(), c.orig.dst.Addr()
	anyHost := p.Host.IsUnspecified()
	if c.zone != 0 || !anyHost && host != p.Host || !about(p, c) {
		return false
	}
	if f.fresh != (netstate.Publish{}) {
		return f.overtakes(c, !anyHost || locals[host], publishes)
	}
	if c.reply.src == c.orig.dst {
		// It was kept out, and what keeps it from the node now falls to another.
		return p.Proto == "udp" && locals[host] && publishes.admit(c)
	}
	if anyHost && publishes.decides(c) == host && publishes.lead(c) {
		return false
	}
	target := firstOf(p, c)
	if f.turned.Has(target) {
		return true
	}
	return !publishes.lead(c) && (f.lost.Has(target) || p.Targets.Has(target) && !f.sources.Has(c.orig.src.Addr()))
}

// overtakes says whether the fresh publish leads away what went to the node
// itself or, for one address, by a publish for every address.
func (f flow) overtakes(c connection, local bool, publishes standing) bool {
	admitted, udp := f.fresh.Sources.Has(c.orig.src.Addr()), f.fresh.Proto == "udp"
	switch {
	case c.reply.src == c.orig.dst:
		return local && udp && admitted
	case f.fresh.Host.IsUnspecified() || admitted && !udp || publishes.lead(c):
		return false
	}
	return publishes.leads(everywhere(f.fresh.Host), c)
}

// everywhere is the host address of publishes for every address of a family; not
// of those on loopback, where they do not answer.
func everywhere(like netip.Addr) netip.Addr {
	switch {
	case like.IsLoopback():
		return netip.Addr{}
	case like.Is4():
		return netip.IPv4Unspecified()
	}
	return netip.IPv6Unspecified()
}

func onlyFresh(fs flows) bool {
	return !slices.ContainsFunc(fs, func(f flow) bool { return f.old != (netstate.Publish{}) })
}
