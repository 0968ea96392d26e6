// Package ipam chooses addresses from the subnets of one network on one node.
// It promises that the network, broadcast, gateway and excluded addresses are never
// chosen, nor one that is taken, and that a freed address rests until the other
// addresses were used. It is pure: no clock, no storage; the caller tells it all.
package ipam

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"go4.org/netipx"
)

// ErrExhausted is returned when a subnet has no free address.
var ErrExhausted = errors.New("no free address")

// ParseRange reads a CIDR, an address or first-last. The range is not valid where
// the last address does not follow the first in one family.
func ParseRange(s string) (netipx.IPRange, error) {
	if p, err := netip.ParsePrefix(s); err == nil {
		return netipx.RangeOfPrefix(p), nil
	}
	first, last, ok := strings.Cut(s, "-")
	if !ok {
		last = first
	}
	from, err1 := netip.ParseAddr(first)
	to, err2 := netip.ParseAddr(last)
	if err := errors.Join(err1, err2); err != nil {
		return netipx.IPRange{}, fmt.Errorf("parse range %q: %w", s, err)
	}
	return netipx.IPRangeFrom(from, to), nil
}

// Reserved says why no host of a subnet may have an address; empty if one may.
// IPv6 has no broadcast; its first address belongs to every router (RFC 4291,
// 2.6.1).
func Reserved(subnet netip.Prefix, a netip.Addr) string {
	switch {
	case a == subnet.Masked().Addr():
		return "network address"
	case a.Is4() && a == netipx.PrefixLastIP(subnet):
		return "broadcast address"
	}
	return ""
}

// Pool chooses addresses of one subnet. The caller knows which are taken.
type Pool struct {
	subnet   netip.Prefix
	exclude  []netipx.IPRange
	reserved []netip.Addr
	// next is where the search goes on, so that a freed address rests.
	next netip.Addr
}

// NewPool makes a pool. Exclude lists ranges that are never chosen but may be named;
// reserved addresses, such as gateways, may be neither.
func NewPool(subnet netip.Prefix, exclude []netipx.IPRange, reserved ...netip.Addr) *Pool {
	return &Pool{subnet: subnet.Masked(), exclude: exclude, reserved: reserved}
}

// Subnet returns the subnet the pool chooses from.
func (p *Pool) Subnet() netip.Prefix { return p.subnet }

// Usable reports whether a host may have an address of the subnet, chosen or
// named.
func (p *Pool) Usable(a netip.Addr) bool {
	return p.subnet.Contains(a) && Reserved(p.subnet, a) == "" && !slices.Contains(p.reserved, a)
}

// Started reports whether the pool was told where to begin, or has chosen any.
func (p *Pool) Started() bool { return p.next.IsValid() }

// StartAfter has the search begin after an address.
func (p *Pool) StartAfter(a netip.Addr) { p.next = a.Next() }

// Next chooses the next address that is not taken. It asks of each at most once
// and stops at the first that is not. It returns ErrExhausted where there is
// none.
func (p *Pool) Next(taken func(netip.Addr) bool) (netip.Addr, error) {
	start := p.next
	if !start.IsValid() || !p.subnet.Contains(start) {
		start = p.subnet.Addr()
	}
	for a, wrapped := start, false; ; {
		skip, excluded := p.excluded(a)
		if !excluded && p.Usable(a) && !taken(a) {
			p.next = a.Next()
			return a, nil
		}
		a = skip.Next()
		if !a.IsValid() || !p.subnet.Contains(a) {
			a, wrapped = p.subnet.Addr(), true
		}
		if wrapped && !a.Less(start) {
			return netip.Addr{}, fmt.Errorf("%w in %s", ErrExhausted, p.subnet)
		}
	}
}

// excluded returns the last address of the excluded range that holds a, kept
// inside the subnet, so that a large exclusion is skipped in one step.
func (p *Pool) excluded(a netip.Addr) (netip.Addr, bool) {
	i := slices.IndexFunc(p.exclude, func(r netipx.IPRange) bool { return r.Contains(a) })
	if i < 0 {
		return a, false
	}
	if last := p.exclude[i].To(); p.subnet.Contains(last) {
		return last, true
	}
	return netipx.PrefixLastIP(p.subnet), true
}

// Continue goes on where an older pool of the same subnet was.
func (p *Pool) Continue(old *Pool) {
	if p.subnet.Contains(old.next) {
		p.next = old.next
	}
}
