package engine

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/patchbay-dev/patchbay/nodeagent/engine/ledger"
	"github.com/patchbay-dev/patchbay/nodeagent/engine/resolve"
	"github.com/patchbay-dev/patchbay/nodeagent/kernel"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
	"github.com/patchbay-dev/patchbay/nodeagent/plan"
)

// event notes what the kernel said, for the next turn. Of several about one
// object the last counts, but that it was gone for a moment is not forgotten.
func (e *Engine) event(ev kernel.Event) {
	e.mu.Lock()
	if ev.Lost {
		e.lost = true
	} else {
		ev.Gone, ev.Runs = ev.Gone || e.events[ev.Key].Gone, ev.Runs || e.events[ev.Key].Runs
		e.events[ev.Key] = ev
	}
	e.mu.Unlock()
	e.signal()
}

// consider adds the owners whose objects an event says are not as wanted.
func (e *Engine) consider(ev kernel.Event) {
	if ev.Mounts {
		e.remounted()
		return
	}
	ev = e.byUsedName(ev)
	switch ev.Key.Kind {
	case netstate.KindLink:
		e.considerLink(ev)
	case netstate.KindSysctl:
		e.recheck(e.sysctls(ev.Key)...)
		if ev.Key.Link == "" && ev.Key.Netns == "" {
			e.soon(readNode)
		}
	case netstate.KindRoute:
		e.considerRoute(ev)
	case netstate.KindShaper, netstate.KindRedirect:
		e.considerLimit(ev)
		return
	case netstate.KindNetns:
		e.mark(ev.Key, func(u *resolve.Resource) bool { return ev.Gone || !u.Done })
		e.resolver.NetnsNamed(ev.Key.Netns)
	default:
		if ev.Key.Kind == netstate.KindAddress && strings.Contains(ev.Key.Name, ":") {
			// The first that is heard of IPv6 that is switched on.
			e.resolver.IPv6Appeared(ev.Key.Netns)
		}
		if want := e.ledger.Wanted(ev.Key); want != nil && (ev.Gone || ev.Object == nil || !plan.Same(want, ev.Object)) {
			e.mark(ev.Key, nil)
		}
	}
	ours := e.ledger.Owners(netstate.Key{Kind: netstate.KindLink, Netns: ev.Key.Netns, Link: ev.Key.Link}).Len() > 0
	if ev.Key.Netns == "" && (!ours || e.isOthersAddress(ev.Key)) {
		e.soon(readNode)
	}
}

// isOthersAddress reports whether another program may have given one of our links an
// address, which is the node's own then. IPv6 link-local ones are the kernel's.
func (e *Engine) isOthersAddress(k netstate.Key) bool {
	p, err := netip.ParsePrefix(k.Name)
	return k.Kind == netstate.KindAddress && err == nil && e.ledger.Wanted(k) == nil && !(p.Addr().Is6() && p.Addr().IsLinkLocalUnicast())
}

// considerRoute handles one of our routes, and the routes that the kernel makes with one
// of our addresses.
func (e *Engine) considerRoute(ev kernel.Event) {
	if want := e.ledger.Wanted(ev.Key); want != nil && (ev.Gone || ev.Object == nil || !plan.Same(want, ev.Object)) {
		e.mark(ev.Key, nil)
	}
	if ev.Key.Netns != "" && e.ledger.Owners(netstate.Link{Netns: ev.Key.Netns, Name: ev.Key.Link}.Key()).Len() == 0 {
		e.astray[ev.Key.Netns] = true
		e.soon(readRouting)
	}
	if !ev.Gone {
		return
	}
	e.freed(ev.Key)
	dst, err := netip.ParsePrefix(ev.Key.Name)
	e.recheck(e.on(ledger.On(ev.Key), func(k netstate.Key) bool {
		p, bad := netip.ParsePrefix(k.Name)
		with := dst == p.Masked() || dst.IsSingleIP() && dst.Addr() == p.Addr() || dst.Addr().IsMulticast() && p.Addr().Is6()
		return k.Kind == netstate.KindAddress && err == nil && bad == nil && with
	})...)
}

// on returns the wanted objects on an interface that are chosen.
func (e *Engine) on(p netstate.End, chosen func(netstate.Key) bool) []netstate.Key {
	var keys []netstate.Key
	for k := range e.ledger.At(p) {
		if chosen(k) {
			keys = append(keys, k)
		}
	}
	return keys
}

// considerLimit handles a link's limits. The kernel tells of a redirect in parts: it is read.
func (e *Engine) considerLimit(ev kernel.Event) {
	switch want := e.ledger.Wanted(ev.Key); {
	case want == nil:
	case ev.Key.Kind == netstate.KindRedirect:
		e.recheck(ev.Key)
	case ev.Gone || !plan.Same(want, ev.Object):
		e.mark(ev.Key, nil)
	}
}

// considerLink handles a link's own state and its place in a bridge: the
// kernel tells of both in one message.
func (e *Engine) considerLink(ev kernel.Event) {
	if want := e.ledger.Wanted(ev.Key); want != nil && (ev.Gone || ev.Object == nil || !plan.Same(want, ev.Object)) {
		e.mark(ev.Key, nil)
	}
	if l, ok := ev.Object.(netstate.Link); ok && l.XDP != e.early[ev.Key] {
		e.mark(ev.Key, nil)
	}
	e.considerStray(ev)
	e.freed(ev.Key)
	if ev.Runs {
		e.recheck(e.on(ledger.On(ev.Key), func(k netstate.Key) bool { return k.Kind == netstate.KindAddress || k.Kind == netstate.KindRoute })...)
	}
	for _, kind := range []netstate.Kind{netstate.KindPort, netstate.KindHairpin} {
		if k := (netstate.Key{Kind: kind, Link: ev.Key.Link}); ev.Key.Netns == "" && e.ledger.Wanted(k) != nil {
			e.recheck(k)
		}
	}
}

// considerStray has the owner of an unwanted link with its mark look again: it was renamed.
func (e *Engine) considerStray(ev kernel.Event) {
	l, ok := ev.Object.(netstate.Link)
	if !ok || e.ledger.Wanted(ev.Key) != nil || l.Type == netstate.Loopback {
		return
	}
	source, owner, marked := netstate.ParseMark(l.Mark)
	if u := e.resolver.Resources[owner]; marked && source == e.Source && u != nil {
		u.Hold(ev.Key)
		e.resolver.Mark(owner)
	}
}

// sysctls returns the wanted sysctls that a configuration change may concern:
// the sysctls of its interface and of the whole node.
func (e *Engine) sysctls(k netstate.Key) []netstate.Key {
	return append(e.on(ledger.On(k), isSysctl), e.on(netstate.End{}, isSysctl)...)
}

func isSysctl(k netstate.Key) bool {
	return k.Kind == netstate.KindSysctl || k.Kind == netstate.KindSysctlNode
}

// recheck has objects read when all news are known: together, so that each namespace is
// opened once.
func (e *Engine) recheck(keys ...netstate.Key) { e.doubted = append(e.doubted, keys...) }

// readDoubted marks the owners of objects to recheck that differ.
func (e *Engine) readDoubted() {
	keys := slices.Compact(slices.SortedFunc(slices.Values(e.doubted), netstate.Key.Compare))
	if e.doubted = nil; len(keys) == 0 {
		return
	}
	observed, _ := e.Kernel.Observe(keys)
	for _, k := range keys {
		if observed[k] == nil || !plan.Same(e.ledger.Wanted(k), observed[k]) {
			e.mark(k, nil)
		}
	}
}

func (e *Engine) mark(k netstate.Key, which func(*resolve.Resource) bool) {
	for o := range e.ledger.Owners(k).All() {
		if which == nil || which(e.resolver.Resources[o]) {
			e.resolver.Mark(o)
		}
	}
}

// byUsedName turns an event in a namespace under another name than the used one into
// one that says to look again.
func (e *Engine) byUsedName(ev kernel.Event) kernel.Event {
	if ev.Key.Kind == netstate.KindNetns {
		return ev
	}
	name := e.resolver.UsedName(ev.Key.Netns)
	if name == ev.Key.Netns {
		return ev
	}
	ev.Key.Netns, ev.Object = name, nil
	return ev
}
