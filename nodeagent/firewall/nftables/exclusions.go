package nftables

import (
	"net/netip"
	"strings"

	"github.com/patchbay-dev/patchbay/nodeagent/firewall/book"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
	"github.com/patchbay-dev/patchbay/nodeagent/plan"
)

// One interval set cannot hold both a prefix and another within it (EEXIST), so
// only the widest exclusions of a subnet become elements; the narrower ones are held
// through them.

// withExclusions adds steps for all exclusions if one of them is touched: an exclusion
// that goes may uncover narrower ones, one that comes may cover them.
func (m *memory) withExclusions(steps []plan.Step) []plan.Step {
	hit, named := false, map[netstate.Key]bool{}
	for i := range m.Loose {
		hit = hit || isExclusion(i)
	}
	for _, s := range steps {
		hit = hit || s.Key.Kind == netstate.KindNoMasquerade
		named[s.Key] = true
	}
	if !hit {
		return steps
	}
	for o := range m.Objects() {
		if k := o.Key(); k.Kind == netstate.KindNoMasquerade && !named[k] {
			steps = append(steps, plan.Step{Op: plan.Update, Key: k, Old: o, New: o})
		}
	}
	return steps
}

func isExclusion(i id) bool { return setByName[i.set].both == setNoMasq }

// Covered reports whether a wider exclusion of the same subnet is wanted.
func (sets) Covered(i id, want map[id]element) bool {
	if !isExclusion(i) {
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

// held finds an exclusion that is held through a wider one, and notes it, so that it
// becomes an element when the wider one goes.
func (m *memory) held(k netstate.Key) netstate.Object {
	subnet, dst, _ := strings.Cut(k.Name, " to ")
	o := netstate.NoMasquerade{Link: k.Link, Subnet: book.Fields{subnet}.Prefix(0), Dst: book.Fields{dst}.Prefix(0)}
	if book.Check(o) != nil {
		return nil
	}
	for found := range m.Objects() {
		w, ok := found.(netstate.NoMasquerade)
		if !ok || w.Link != o.Link || w.Subnet != o.Subnet || !wider(w.Dst, o.Dst) {
			continue
		}
		if _, whole := m.Object(w.Key()); whole {
			m.Add(o)
			return o
		}
	}
	return nil
}
