package kernel

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
	"github.com/patchbay-dev/patchbay/nodeagent/plan"
)

// ruleDrops are the actions that end what a rule concerns.
var ruleDrops = map[uint8]string{unix.FR_ACT_BLACKHOLE: "blackhole", unix.FR_ACT_UNREACHABLE: "unreachable", unix.FR_ACT_PROHIBIT: "prohibit"}

const (
	ruleHeader          = 12 // struct fib_rule_hdr
	ruleInverted        = 2  // FIB_RULE_INVERT
	priorityOfMainTable = 32766
)

// rule is a routing rule as a netlink message describes it.
type rule struct {
	netstate.RouteRule
	action   uint8
	protocol uint8
	invert   bool
	mark     uint32
	// conditions are those beside from, to, the interface and the mark.
	conditions int
}

// parseRule reads RTM_NEWRULE of IPv4 and IPv6; it returns false for everything else.
func parseRule(b []byte) (rule, bool) {
	if len(b) < ruleHeader || b[0] != unix.AF_INET && b[0] != unix.AF_INET6 {
		return rule{}, false
	}
	r := rule{action: b[7], invert: uint32At(b[8:])&ruleInverted != 0}
	r.Family, r.Table, r.Longer, r.Drops = netstate.IPv4, uint32(b[4]), -1, ruleDrops[b[7]]
	if b[0] == unix.AF_INET6 {
		r.Family = netstate.IPv6
	}
	if b[3] != 0 {
		r.conditions++ // type of service
	}
	for kind, value := range attributes(b[ruleHeader:]) {
		r.attribute(b, kind, value)
	}
	// A rule for all but one mark is for nearly everybody.
	all := r.invert && r.mark != 0 && r.conditions == 0 && !r.From.IsValid() && !r.To.IsValid() && r.In == ""
	r.Narrow = !all && (r.conditions > 0 || r.mark != 0 || r.invert)
	return r, true
}

func (r *rule) attribute(header []byte, kind uint16, value []byte) {
	switch kind {
	case unix.FRA_DST:
		r.To = rulePrefix(value, header[1])
	case unix.FRA_SRC:
		r.From = rulePrefix(value, header[2])
	case unix.FRA_IIFNAME:
		r.In = stringAt(value)
	case unix.FRA_PRIORITY:
		r.Priority = uint32At(value)
	case unix.FRA_TABLE:
		r.Table = uint32At(value)
	case unix.FRA_SUPPRESS_PREFIXLEN:
		r.Longer = int(int32(uint32At(value)))
	case unix.FRA_FWMARK:
		r.mark = uint32At(value)
	case unix.FRA_FWMASK:
		r.Mask = uint32At(value)
	case unix.FRA_PROTOCOL:
		r.protocol = byteAt(value)
	case unix.FRA_OIFNAME, unix.FRA_TUN_ID, unix.FRA_UID_RANGE, unix.FRA_IP_PROTO, unix.FRA_SPORT_RANGE, unix.FRA_DPORT_RANGE:
		r.conditions++
	case unix.FRA_L3MDEV:
		r.conditions += int(byteAt(value))
	}
}

func rulePrefix(value []byte, bits byte) netip.Prefix {
	a, _ := netip.AddrFromSlice(value)
	return netip.PrefixFrom(a, int(bits))
}

// kernels reports whether it is one of those that the kernel makes.
func (r rule) kernels() bool {
	return r.action == unix.FR_ACT_TO_TBL && !r.From.IsValid() && !r.To.IsValid() && r.In == "" && !r.Narrow && r.Longer < 0 &&
		(r.Table == netstate.TableLocal || r.Table == unix.RT_TABLE_DEFAULT || r.Table == netstate.TableMain && r.Priority == priorityOfMainTable)
}

func (p *place) rules() ([]rule, error) {
	c, err := p.conn()
	if err != nil {
		return nil, err
	}
	answers, err := c.dump(unix.RTM_GETRULE, &nl.RtMsg{RtMsg: unix.RtMsg{Family: unix.AF_UNSPEC}})
	var rules []rule
	for _, b := range answers {
		if r, ok := parseRule(b); ok {
			rules = append(rules, r)
		}
	}
	return rules, err
}

// Routing reads what others made of a namespace's routing, without the default
// routes of its main table. It fails with ErrNetnsNotFound.
func (k *Kernel) Routing(netns string) (netstate.Routing, error) {
	s := k.session()
	defer s.close()
	p, err := s.place(netns)
	if err != nil {
		return netstate.Routing{}, err
	}
	links, err := p.allLinks()
	if err != nil {
		return netstate.Routing{}, fmt.Errorf("list interfaces of %s: %w", placeName(netns), err)
	}
	routing, _, err := p.routing(links)
	if err != nil {
		return routing, fmt.Errorf("list rules and routes of %s: %w", placeName(netns), err)
	}
	return routing, nil
}

// routing also returns the routes of all tables and kinds, IPv4 first.
func (p *place) routing(links []*link) (out netstate.Routing, all []route, err error) {
	rules, err := p.rules()
	if err != nil {
		return out, nil, err
	}
	main, other := foreignLinks(links), map[int32]*link{}
	for _, l := range links {
		other[l.index] = l
	}
	tables := map[netstate.Family][]uint32{netstate.IPv4: {netstate.TableMain}, netstate.IPv6: {netstate.TableMain}}
	for _, r := range rules {
		if r.kernels() || r.protocol == netstate.RouteProtocol || r.action != unix.FR_ACT_TO_TBL && r.Drops == "" {
			continue
		}
		out.Rules = append(out.Rules, r.RouteRule)
		if list := tables[r.Family]; r.Drops == "" && r.Table != netstate.TableLocal && !slices.Contains(list, r.Table) {
			tables[r.Family] = append(list, r.Table)
		}
	}
	slices.SortStableFunc(out.Rules, func(a, b netstate.RouteRule) int { return cmp.Compare(a.Priority, b.Priority) })
	for _, f := range []netstate.Family{netstate.IPv4, netstate.IPv6} {
		routes, err := p.everyRoute(listed{family: familyNumber(f)})
		if err != nil {
			return out, nil, err
		}
		all = append(all, routes...)
		for _, t := range tables[f] {
			through := other
			if t == netstate.TableMain {
				through = main
			}
			for _, r := range routes {
				if r.table != t || !r.decides() || t == netstate.TableMain && r.dst.Bits() == 0 {
					continue
				}
				if o, ok := r.foreign(through); ok {
					out.Routes = append(out.Routes, o)
				}
			}
		}
	}
	return out, all, nil
}

// foreign is the route unless it is ours, or leads through none of the links.
func (r route) foreign(links map[int32]*link) (netstate.ForeignRoute, bool) {
	o := netstate.ForeignRoute{Table: r.table, Dst: r.dst, Via: r.via, Drops: routeDrops[r.kind], Own: r.protocol == unix.RTPROT_KERNEL}
	if o.Drops != "" {
		return o, !r.ours()
	}
	for _, index := range r.links {
		if l := links[index]; l != nil {
			o.Link, o.Tunnel = l.name, l.flags&(unix.IFF_POINTOPOINT|unix.IFF_NOARP) != 0
			return o, true
		}
	}
	return o, false
}

func familyNumber(f netstate.Family) int {
	if f == netstate.IPv6 {
		return unix.AF_INET6
	}
	return unix.AF_INET
}

// ours is the rule as one of ours.
func (r rule) ours() (netstate.Rule, bool) {
	o := netstate.Rule{Family: r.Family, Way: int(r.mark >> 12), Table: r.Table}
	return o, r.protocol == netstate.RouteProtocol && r.Mask == netstate.MarkMask && r.mark == netstate.WayMark(o.Way)
}

// sound reports whether a rule of ours does what it is for.
func (r rule) sound() bool {
	return r.action == unix.FR_ACT_TO_TBL && r.Priority == netstate.RulePriority && !r.invert && r.conditions == 0 &&
		!r.From.IsValid() && !r.To.IsValid() && r.In == "" && r.Longer < 0
}

// observeRule also returns a rule without a table where several of ours have one mark.
func (s *session) observeRule(key netstate.Key) (netstate.Object, error) {
	p, err := s.place(key.Netns)
	if err != nil {
		return nil, err
	}
	rules, err := p.rules()
	var found []netstate.Rule
	sound := true
	for _, r := range rules {
		if o, ok := r.ours(); ok && o.Key() == key {
			found, sound = append(found, o), sound && r.sound()
		}
	}
	switch {
	case len(found) == 0 || err != nil:
		return nil, err
	case len(found) > 1 || !sound:
		found[0].Table = 0
	}
	return found[0], nil
}

// applyRule takes away whatever of ours has the rule's mark, and sets it anew.
func (s *session) applyRule(op plan.Op, o netstate.Rule) error {
	p, err := s.place("")
	if err != nil {
		return err
	}
	err = putOrRemove(op,
		func() error { return errors.Join(p.removeRule(o), p.addRule(o)) },
		func() error { return p.removeRule(o) })
	if err != nil {
		return fmt.Errorf("%s rule %s: %w", op, o.Key().Name, err)
	}
	return nil
}

func (p *place) addRule(o netstate.Rule) error {
	c, err := p.conn()
	if err != nil {
		return err
	}
	body := &nl.RtMsg{RtMsg: unix.RtMsg{Family: uint8(familyNumber(o.Family)), Type: unix.FR_ACT_TO_TBL}}
	err = c.change(unix.RTM_NEWRULE, unix.NLM_F_CREATE|unix.NLM_F_EXCL, body, ruleAttributes(o, netstate.RulePriority)...)
	if errors.Is(err, unix.EEXIST) {
		return ErrExists
	}
	return err
}

func (p *place) removeRule(o netstate.Rule) error {
	rules, err := p.rules()
	if err != nil {
		return err
	}
	c, err := p.conn()
	if err != nil {
		return err
	}
	for _, r := range rules {
		have, ok := r.ours()
		if !ok || have.Key() != o.Key() {
			continue
		}
		body := &nl.RtMsg{RtMsg: unix.RtMsg{Family: uint8(familyNumber(o.Family)), Type: r.action}}
		if err := c.change(unix.RTM_DELRULE, 0, body, ruleAttributes(have, r.Priority)...); err != nil && !gone(err) {
			return err
		}
	}
	return nil
}

func ruleAttributes(o netstate.Rule, priority uint32) []*nl.RtAttr {
	return []*nl.RtAttr{
		u32Attr(unix.FRA_PRIORITY, priority), u32Attr(unix.FRA_FWMARK, netstate.WayMark(o.Way)), u32Attr(unix.FRA_FWMASK, netstate.MarkMask),
		u32Attr(unix.FRA_TABLE, o.Table), nl.NewRtAttr(unix.FRA_PROTOCOL, []byte{netstate.RouteProtocol}),
	}
}

// rule reports a rule of ours as what it is, and one of others as a route without a
// link.
func (m *monitor) rule(netns string, gone bool, body []byte) {
	r, ok := parseRule(body)
	if !ok {
		return
	}
	o, ours := r.ours()
	switch {
	case r.protocol != netstate.RouteProtocol:
		m.fn(Event{Key: netstate.Key{Kind: netstate.KindRoute, Netns: netns, Name: "rule " + r.String()}})
	case ours && netns == "" && !gone && r.sound():
		m.fn(Event{Key: o.Key(), Object: o})
	case ours && netns == "":
		m.fn(Event{Key: o.Key(), Gone: gone})
	}
}
