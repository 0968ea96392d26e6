// Package conntrack deletes the tracked connections that a change of publishes or
// addresses contradicts.
package conntrack

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

// Flow says which tracked connections contradict a changed publish.
type Flow struct {
	// Old is the publish before the change. Connections to targets in Lost are deleted, as
	// are connections of clients that sources leaves out, unless another publish leads to
	// the same target. Connections to targets in turned, which the publish reaches in
	// another way now, are deleted in any case.
	Old          netstate.Publish
	Lost, turned netstate.Targets
	sources      netstate.Sources
	// fresh is a new publish. UDP flows that it leads away from the node itself, or from a
	// publish for every address, are deleted, since senders would keep them alive for ever.
	// So are all connections by that publish of clients that the fresh one keeps out.
	fresh netstate.Publish
	// gone is an address without an attachment: all connections from and to it are deleted.
	gone netip.Addr
}

// Flows are the changes whose contradicted connections are to be deleted.
type Flows []Flow

// Add adds what changing a publish from old to new contradicts; either may be
// nil or another kind of object.
func (fs Flows) Add(old, now netstate.Object) Flows {
	o, _ := old.(netstate.Publish)
	n, _ := now.(netstate.Publish)
	if o == n {
		return fs
	}
	lost, turned := o.Targets.Without(n.Targets), turnedTargets(o, n)
	if lost != "" || turned != "" || o.HostPort != 0 && n.Sources != "" && n.Sources != o.Sources {
		fs = append(fs, Flow{Old: o, Lost: lost, turned: turned, sources: n.Sources})
	}
	if n.Proto == "udp" || n.Sources != "" && o.HostPort == 0 && !n.Host.IsUnspecified() {
		fs = append(fs, Flow{fresh: n})
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

// Standing finds the publish for exactly this host address, the unspecified one
// included, that a connection would go by, so that connections that the publishes
// that there are would make as well stay.
type Standing func(host netip.Addr, c Connection) (netstate.Publish, bool)

// leads says whether a publish takes a connection from its source to where it goes.
func (publishes Standing) leads(host netip.Addr, c Connection) bool {
	p, ok := publishes(host, c)
	return ok && p.Targets.Has(firstOf(p, c)) && p.Sources.Has(c.Orig.Src.Addr())
}

// decides returns the host address of the publish that a connection falls to: one of
// the address itself comes before one for every address, whatever its sources.
func (publishes Standing) decides(c Connection) netip.Addr {
	host := c.Orig.Dst.Addr()
	if _, own := publishes(host, c); own {
		return host
	}
	return everywhere(host)
}

// lead says whether the publishes together take a connection to where it goes.
func (publishes Standing) lead(c Connection) bool { return publishes.leads(publishes.decides(c), c) }

// admit says whether they take it anywhere.
func (publishes Standing) admit(c Connection) bool {
	p, ok := publishes(publishes.decides(c), c)
	return ok && p.Sources.Has(c.Orig.Src.Addr())
}

// Among judges by the object of a key and by all of them. Few publishes
// are ranges, which are looked for when a connection needs it.
func Among(find func(netstate.Key) netstate.Object, all iter.Seq[netstate.Object]) Standing {
	ranges := sync.OnceValue(func() []netstate.Publish {
		var out []netstate.Publish
		for o := range all {
			if p, ok := o.(netstate.Publish); ok && p.HostPortEnd != 0 {
				out = append(out, p)
			}
		}
		return out
	})
	return func(host netip.Addr, c Connection) (netstate.Publish, bool) {
		for name, number := range Protocols {
			one := netstate.Publish{Host: host, Proto: name, HostPort: c.Orig.Dst.Port()}
			if number != c.Orig.Proto {
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
func about(p netstate.Publish, c Connection) bool {
	port := c.Orig.Dst.Port()
	return c.Orig.Proto == Protocols[p.Proto] && port >= p.HostPort && port <= p.Last()
}

// firstOf is the target of a publish's first port, if the connection goes where
// its own port leads.
func firstOf(p netstate.Publish, c Connection) netip.AddrPort {
	return netip.AddrPortFrom(c.Reply.Src.Addr(), c.Reply.Src.Port()-(c.Orig.Dst.Port()-p.HostPort))
}

// Settle deletes the connections, if there are any to look for, and forgets the
// Flows unless trying again may help.
func (fs *Flows) Settle(publishes func() Standing, step func()) error {
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
func (fs Flows) flush(publishes Standing) error {
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
	ports  map[flowKey]Flows
	ranges Flows
	gone   map[netip.Addr]bool
}

func (fs Flows) index(family netlink.InetFamily) flowIndex {
	index := flowIndex{ports: map[flowKey]Flows{}, gone: map[netip.Addr]bool{}}
	for _, f := range fs {
		p := f.publish()
		k := flowKey{Protocols[p.Proto], p.HostPort}
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

func (x flowIndex) flush(family netlink.InetFamily, publishes Standing) error {
	locals, err := localAddresses(int(family))
	if err != nil {
		return fmt.Errorf("list local addresses: %w", err)
	}
	return deleteConnections(family, x.asks(), func(c Connection) bool {
		match := func(f Flow) bool { return f.matches(c, locals, publishes) }
		return len(x.gone) > 0 && x.left(c) || slices.ContainsFunc(x.ports[flowKey{c.Orig.Proto, c.Orig.Dst.Port()}], match) || slices.ContainsFunc(x.ranges, match)
	})
}

// left says whether an end of a connection has gone.
func (x flowIndex) left(c Connection) bool {
	ends := []netip.AddrPort{c.Orig.Src, c.Orig.Dst, c.Reply.Src, c.Reply.Dst}
	return c.zone == 0 && slices.ContainsFunc(ends, func(a netip.AddrPort) bool { return x.gone[a.Addr()] })
}

// Gone are flows of addresses that have gone.
func Gone(gone []netip.Addr) Flows {
	var fs Flows
	for _, a := range gone {
		fs = append(fs, Flow{gone: a})
	}
	return fs
}

func (f Flow) publish() netstate.Publish {
	if f.fresh != (netstate.Publish{}) {
		return f.fresh
	}
	return f.Old
}

func (f Flow) matches(c Connection, locals map[netip.Addr]bool, publishes Standing) bool {
	p, host := f.publish(), c.Orig.Dst.Addr()
	anyHost := p.Host.IsUnspecified()
	if c.zone != 0 || !anyHost && host != p.Host || !about(p, c) {
		return false
	}
	if f.fresh != (netstate.Publish{}) {
		return f.overtakes(c, !anyHost || locals[host], publishes)
	}
	if c.Reply.Src == c.Orig.Dst {
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
	return !publishes.lead(c) && (f.Lost.Has(target) || p.Targets.Has(target) && !f.sources.Has(c.Orig.Src.Addr()))
}

// overtakes says whether the fresh publish leads away what went to the node
// itself or, for one address, by a publish for every address.
func (f Flow) overtakes(c Connection, local bool, publishes Standing) bool {
	admitted, udp := f.fresh.Sources.Has(c.Orig.Src.Addr()), f.fresh.Proto == "udp"
	switch {
	case c.Reply.Src == c.Orig.Dst:
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

func onlyFresh(fs Flows) bool {
	return !slices.ContainsFunc(fs, func(f Flow) bool { return f.Old != (netstate.Publish{}) })
}
