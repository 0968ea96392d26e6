// Package book is the same for every dialect of the firewall: which entries the kernel
// holds, which objects they are, and which objects and steps are valid.
package book

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/patchbay-dev/patchbay/nodeagent/firewall/conntrack"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
	"github.com/patchbay-dev/patchbay/nodeagent/plan"
)

// Options are what a driver hands to a dialect.
type Options struct {
	// Source marks the objects that are written, and selects the objects that are reported.
	Source netstate.Source
	// Committed is called after every transaction, and Step after what else changed the
	// kernel.
	Committed, Step func()
}

// CheckSteps refuses steps of other kinds, and new objects that are not valid.
func CheckSteps(steps []plan.Step, validate func(netstate.Object) error) error {
	var errs []error
	for _, s := range steps {
		if !s.Key.Kind.Firewall() {
			errs = append(errs, fmt.Errorf("%s %s: not a firewall object", s.Op, s.Key))
			continue
		}
		if s.Op == plan.Delete {
			continue
		}
		if s.New == nil || s.New.Key() != s.Key {
			errs = append(errs, fmt.Errorf("%s %s: the step names another object", s.Op, s.Key))
		} else if err := validate(s.New); err != nil {
			errs = append(errs, fmt.Errorf("%s %s: %w", s.Op, s.Key, err))
		}
	}
	return errors.Join(errs...)
}

// Check refuses an object that has no place in the tables.
func Check(o netstate.Object) error {
	var err error
	switch o := o.(type) {
	case netstate.LinkPolicy:
		err = CheckLink(o.Link)
	case netstate.ForwardGuard:
		err = checkKnown(o.Family)
	case netstate.PortFilter:
		err = CheckLink(o.Link)
	case netstate.ForeignBridge:
		err = CheckLink(o.Link)
	case netstate.Opening:
		err = errors.Join(CheckLink(o.Link), checkKnown(o.Family), checkBeyond(o))
	case netstate.LoopbackGuard:
		err = CheckLink(o.Link)
	case netstate.PortAddress:
		err = errors.Join(CheckLink(o.Link), checkAddr(o.Addr))
	case netstate.AllowedMAC:
		err = CheckLink(o.Link)
	case netstate.AllowedPrefix:
		err = errors.Join(CheckLink(o.Link), checkPrefix(o.Prefix))
	case netstate.DHCPClient:
		err = CheckLink(o.Link)
	case netstate.Masquerade:
		err = errors.Join(CheckLink(o.Link), checkPrefix(o.Subnet), checkSource(o))
	case netstate.NoMasquerade:
		err = errors.Join(CheckLink(o.Link), checkPrefix(o.Subnet), checkPrefix(o.Dst), checkFamily(o.Subnet.Addr(), o.Dst.Addr()))
	case netstate.WayBack:
		err = errors.Join(CheckLink(o.Link), CheckLink(o.TargetLink), checkWay(o.Way))
	case netstate.Publish:
		err = checkPublish(o)
	default:
		err = fmt.Errorf("%T is not a firewall object", o)
	}
	return err
}

// checkBeyond refuses an opening that names more than one thing beside its link.
func checkBeyond(o netstate.Opening) error {
	switch {
	case o == netstate.Opening{Family: o.Family, Link: o.Link}:
		return nil
	case o == netstate.Opening{Family: o.Family, Link: o.Link, Out: o.Out}:
		return CheckLink(o.Out)
	case o.Out != "" || conntrack.Protocols[o.Proto] == 0 || netstate.FamilyOf(o.To.Addr()) != o.Family || o.End != 0 && o.End <= o.To.Port():
		return fmt.Errorf("opening to %s-%d/%s of %s must be ports of a known protocol in its family", o.To, o.End, o.Proto, o.Family)
	}
	return checkAddr(o.To.Addr())
}

func checkKnown(f netstate.Family) error {
	if f != netstate.IPv4 && f != netstate.IPv6 {
		return fmt.Errorf("unknown family %q", f)
	}
	return nil
}

func checkWay(n int) error {
	if n < 1 || n > netstate.WaysBack {
		return fmt.Errorf("way back %d must be 1 to %d", n, netstate.WaysBack)
	}
	return nil
}

// CheckLink refuses a text that is no name of an interface.
func CheckLink(name string) error {
	if !netstate.LinkName.MatchString(name) {
		return fmt.Errorf("interface name %q must match %s", name, netstate.LinkName)
	}
	return nil
}

func checkAddr(a netip.Addr) error {
	if !a.IsValid() || a.Zone() != "" || a.Is4In6() {
		return fmt.Errorf("address %q must be a plain IPv4 or IPv6 address", a)
	}
	return nil
}

func checkPrefix(p netip.Prefix) error {
	if !p.IsValid() || p != p.Masked() {
		return fmt.Errorf("prefix %q must have no host bits", p)
	}
	return checkAddr(p.Addr())
}

func checkFamily(a, b netip.Addr) error {
	if a.Is4() != b.Is4() {
		return fmt.Errorf("%s and %s must be of one family", a, b)
	}
	return nil
}

func checkSource(m netstate.Masquerade) error {
	if !m.Source.IsValid() {
		return nil
	}
	return errors.Join(checkAddr(m.Source), checkFamily(m.Source, m.Subnet.Addr()))
}

func checkPublish(p netstate.Publish) error {
	if _, ok := conntrack.Protocols[p.Proto]; !ok {
		return fmt.Errorf("protocol %q must be tcp, udp or sctp", p.Proto)
	}
	targets := p.Targets.All()
	switch {
	case p.HostPort == 0:
		return errors.New("port 0 cannot be published")
	case len(targets) == 0 || len(targets) > netstate.MaxTargets:
		return fmt.Errorf("a port leads to 1 to %d targets, not %d", netstate.MaxTargets, len(targets))
	case p.Targets != netstate.NewTargets(targets...) || p.Back.Without(p.Targets) != "" || p.Back != netstate.NewTargets(p.Back.All()...):
		return fmt.Errorf("targets %q, of which %q masqueraded, must be sorted and the latter among the former", p.Targets, p.Back)
	}
	errs := []error{checkAddr(p.Host), checkRange(p, targets), checkSources(p)}
	for _, t := range targets {
		if t.Port() == 0 {
			errs = append(errs, errors.New("port 0 cannot be a target"))
		}
		errs = append(errs, checkAddr(t.Addr()), checkFamily(p.Host, t.Addr()))
	}
	return errors.Join(errs...)
}

func checkRange(p netstate.Publish, targets []netip.AddrPort) error {
	switch {
	case p.HostPortEnd == 0:
		return nil
	case p.HostPortEnd <= p.HostPort:
		return fmt.Errorf("range of ports %d-%d must have two ports at least", p.HostPort, p.HostPortEnd)
	case len(targets) > 1 && p.Shifted():
		return fmt.Errorf("range of ports %d-%d that leads to others must lead to one target, not %d", p.HostPort, p.HostPortEnd, len(targets))
	case int(targets[0].Port())+p.Ports()-1 > 65535:
		return fmt.Errorf("range of ports %d-%d must not lead beyond port 65535", p.HostPort, p.HostPortEnd)
	case p.Shifted() && p.Ports() > netstate.MaxShifted:
		return fmt.Errorf("range of ports %d-%d that leads to others must have at most %d", p.HostPort, p.HostPortEnd, netstate.MaxShifted)
	}
	return nil
}

func checkSources(p netstate.Publish) error {
	if p.Sources == "" {
		return nil
	}
	if p.Sources != netstate.NewSources(p.Sources.All()...) {
		return fmt.Errorf("sources %q must be sorted and apart", p.Sources)
	}
	var errs []error
	for _, s := range p.Sources.All() {
		errs = append(errs, checkPrefix(s), checkFamily(p.Host, s.Addr()))
	}
	return errors.Join(errs...)
}

// Fields are the parts of a key or value. Its methods return zero values for
// a part that is missing or not of that type; Check refuses the objects made of
// them.
type Fields []string

func (f Fields) Text(i int) string {
	if i < 0 || i >= len(f) {
		return ""
	}
	return f[i]
}

func (f Fields) Addr(i int) netip.Addr {
	a, _ := netip.ParseAddr(f.Text(i))
	return a
}

func (f Fields) Prefix(i int) netip.Prefix {
	p, _ := netip.ParsePrefix(f.Text(i))
	return p
}

func (f Fields) Port(i int) uint16 {
	n, _ := strconv.ParseUint(f.Text(i), 10, 16)
	return uint16(n)
}

// Ports reads a port, or a range of them; last is zero for one port.
func (f Fields) Ports(i int) (first, last uint16) {
	from, to, _ := strings.Cut(f.Text(i), "-")
	return Fields{from}.Port(0), Fields{to}.Port(0)
}

// Mac is always a key's second part.
func (f Fields) Mac() netstate.MAC {
	m, _ := netstate.ParseMAC(f.Text(1))
	return m
}
