package nftables

import (
	"net/netip"
	"strings"

	"github.com/patchbay-dev/patchbay/nodeagent/firewall/book"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
)

// One interval set cannot hold both a prefix and another within it (EEXIST), so
// only the widest exclusions of a subnet become elements; the others are held
// through them.

// wantExclusions wants all exclusions if one of them is touched: what goes may
// uncover others, what comes may cover them.
func (m *memory) wantExclusions(touched map[id]bool, want map[id]element) {
	hit := false
	for i := range touched {
		hit = hit || i.set == setNoMasq4 || i.set == setNoMasq6
	}
	if !hit {
		return
	}
	for k, e := range m.entries {
		if k.Kind != netstate.KindNoMasquerade {
			continue
		}
		for _, w := range elements(e.object) {
			touched[w.id], want[w.id] = true, w
		}
	}
}

// covered reports whether a wider exclusion of the same subnet is wanted.
func covered(i id, want map[id]element) bool {
	if i.set != setNoMasq4 && i.set != setNoMasq6 {
		return false
	}
	p := fieldsOf(i.key)
	for j := range want {
		if q := fieldsOf(j.key); j.set == i.set && q.Text(0) == p.Text(0) && wider(q.Prefix(1), p.Prefix(1)) {
			return true
		}
	}
	return false
}

func wider(a, b netip.Prefix) bool { return a.Bits() < b.Bits() && a.Overlaps(b) }

// observeCovered finds an exclusion that is held through a wider one, and
// remembers it, so that it becomes an element when the wider one goes.
func (m *memory) observeCovered(k netstate.Key) netstate.Object {
	subnet, dst, _ := strings.Cut(k.Name, " to ")
	o := netstate.NoMasquerade{Link: k.Link, Subnet: book.Fields{subnet}.Prefix(0), Dst: book.Fields{dst}.Prefix(0)}
	if book.Check(o) != nil {
		return nil
	}
	for _, e := range m.entries {
		w, ok := e.object.(netstate.NoMasquerade)
		if !ok || !e.exact || w.Link != o.Link || w.Subnet != o.Subnet || !wider(w.Dst, o.Dst) {
			continue
		}
		m.entries[k] = &entry{object: o, exact: true}
		for _, want := range elements(o) {
			m.refs[want.id]++
		}
		return o
	}
	return nil
}
