// Package ipam allocates addresses from the subnets of one network on one
// node. It promises that no address is given twice, that the network,
// broadcast, gateway and excluded addresses are never given, and that a freed
// address rests until the others were used. It is pure: no clock, no storage;
// what it knows is what it was told.
package ipam

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// ErrExhausted is returned when a subnet has no free address.
var ErrExhausted = errors.New("no free address")

// Range is a closed range of addresses of one family.
type Range struct{ First, Last netip.Addr }

// ParseRange reads a CIDR, an address or first-last.
func ParseRange(s string) (Range, error) {
	if first, last, ok := strings.Cut(s, "-"); ok {
		f, err1 := netip.ParseAddr(first)
		l, err2 := netip.ParseAddr(last)
		if err := errors.Join(err1, err2); err != nil {
			return Range{}, fmt.Errorf("parse range %q: %w", s, err)
		}
		if f.BitLen() != l.BitLen() || l.Less(f) {
			return Range{}, fmt.Errorf("parse range %q: the last address must follow the first, in one family", s)
		}
		return Range{f, l}, nil
	}
	if p, err := netip.ParsePrefix(s); err == nil {
		return Range{p.Masked().Addr(), Last(p)}, nil
	}
	a, err := netip.ParseAddr(s)
	if err != nil {
		return Range{}, fmt.Errorf("parse range %q: %w", s, err)
	}
	return Range{a, a}, nil
}

// Contains reports whether the range holds the address.
func (r Range) Contains(a netip.Addr) bool {
	return a.BitLen() == r.First.BitLen() && !a.Less(r.First) && !r.Last.Less(a)
}

// Last returns the last address of a prefix: the broadcast address for IPv4.
func Last(p netip.Prefix) netip.Addr {
	b := p.Masked().Addr().AsSlice()
	for i := p.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 1 << (7 - i%8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

// Usable reports whether an address of the subnet may belong to a host: not the
// subnet's own address (RFC 4291's subnet-router anycast for IPv6), and not the
// IPv4 broadcast address.
func Usable(subnet netip.Prefix, a netip.Addr) bool {
	return subnet.Contains(a) && a != subnet.Masked().Addr() && (a.Is6() || a != Last(subnet))
}

// Pool is the addresses of one subnet.
type Pool struct {
	subnet   netip.Prefix
	exclude  []Range
	reserved []netip.Addr
	holders  map[netip.Addr]string
	held     map[string][]netip.Addr
	// next is where the search goes on, so that a freed address rests.
	next netip.Addr
}

// NewPool makes a pool without holders. Exclude lists ranges that are never
// allocated but may be reserved; gateways are neither.
func NewPool(subnet netip.Prefix, exclude []Range, gateways ...netip.Addr) *Pool {
	return &Pool{subnet: subnet.Masked(), exclude: exclude, reserved: gateways, holders: map[netip.Addr]string{}, held: map[string][]netip.Addr{}}
}

// Subnet returns the subnet the pool allocates from.
func (p *Pool) Subnet() netip.Prefix { return p.subnet }

// Holder returns who holds an address; empty if it is free.
func (p *Pool) Holder(a netip.Addr) string { return p.holders[a] }

// Reserve gives a certain address to a holder, and reports false if it is not a
// usable address of the subnet or another holds it.
func (p *Pool) Reserve(a netip.Addr, holder string) bool {
	if h := p.holders[a]; h != "" && h != holder || !p.usable(a) {
		return false
	}
	p.give(a, holder)
	return true
}

func (p *Pool) give(a netip.Addr, holder string) {
	if p.holders[a] == "" {
		p.holders[a] = holder
		p.held[holder] = append(p.held[holder], a)
	}
}

// Allocate gives the next free address to a holder. It returns ErrExhausted
// where there is none.
func (p *Pool) Allocate(holder string) (netip.Addr, error) {
	start := p.next
	if !start.IsValid() || !p.subnet.Contains(start) {
		start = p.subnet.Addr()
	}
	for a, wrapped := start, false; ; {
		if skip, ok := p.excluded(a); ok {
			a = skip
		}
		if _, skip := p.excluded(a); !skip && p.usable(a) && p.holders[a] == "" {
			p.give(a, holder)
			p.next = a.Next()
			return a, nil
		}
		a = a.Next()
		if !a.IsValid() || !p.subnet.Contains(a) {
			a, wrapped = p.subnet.Addr(), true
		}
		if wrapped && !a.Less(start) {
			return netip.Addr{}, p.exhausted()
		}
	}
}

func (p *Pool) usable(a netip.Addr) bool {
	return Usable(p.subnet, a) && !slices.Contains(p.reserved, a)
}

// excluded returns the last address of the excluded range that holds a, kept
// inside the subnet, so that a large exclusion is skipped in one step.
func (p *Pool) excluded(a netip.Addr) (netip.Addr, bool) {
	i := slices.IndexFunc(p.exclude, func(r Range) bool { return r.Contains(a) })
	if i < 0 {
		return a, false
	}
	if last := p.exclude[i].Last; p.subnet.Contains(last) {
		return last, true
	}
	return Last(p.subnet), true
}

// Release frees every address of a holder, and reports whether it had any.
func (p *Pool) Release(holder string) bool {
	list := p.held[holder]
	for _, a := range list {
		delete(p.holders, a)
	}
	delete(p.held, holder)
	return len(list) > 0
}

func (p *Pool) exhausted() error {
	var names []string
	for _, h := range p.holders {
		names = append(names, h)
	}
	slices.Sort(names)
	total, shown := len(names), names
	if total > 3 {
		shown = append(slices.Clone(names[:3]), "...")
	}
	return fmt.Errorf("%w in %s: %d in use by %s", ErrExhausted, p.subnet, total, strings.Join(shown, ", "))
}

// Inherit takes over the holders and the position of an older pool as far as
// they lie in this one's subnet.
func (p *Pool) Inherit(old *Pool) {
	for a, h := range old.holders {
		if p.holders[a] == "" {
			p.Reserve(a, h)
		}
	}
	if p.subnet.Contains(old.next) {
		p.next = old.next
	}
}
