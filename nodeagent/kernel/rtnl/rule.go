package rtnl

import (
	"net/netip"

	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// ruleDrops are the actions that drop the packets of a rule.
var ruleDrops = map[uint8]string{unix.FR_ACT_BLACKHOLE: "blackhole", unix.FR_ACT_UNREACHABLE: "unreachable", unix.FR_ACT_PROHIBIT: "prohibit"}

const (
	ruleHeader          = 12 // struct fib_rule_hdr
	ruleInverted        = 2  // FIB_RULE_INVERT
	priorityOfMainTable = 32766
)

// Rule is a routing rule as a netlink message describes it.
type Rule struct {
	netstate.RouteRule
	Action   uint8
	Protocol uint8
	invert   bool
	mark     uint32
	// conditions are those beside from, to, the interface and the mark.
	conditions int
}

// ParseRule reads RTM_NEWRULE of IPv4 and IPv6; it returns false for everything else.
func ParseRule(b []byte) (Rule, bool) {
	if len(b) < ruleHeader || b[0] != unix.AF_INET && b[0] != unix.AF_INET6 {
		return Rule{}, false
	}
	r := Rule{Action: b[7], invert: Uint32(b[8:])&ruleInverted != 0}
	r.Family, r.Table, r.Longer, r.Drops = netstate.IPv4, uint32(b[4]), -1, ruleDrops[b[7]]
	if b[0] == unix.AF_INET6 {
		r.Family = netstate.IPv6
	}
	if b[3] != 0 {
		r.conditions++ // type of service
	}
	for kind, value := range Attributes(b[ruleHeader:]) {
		r.attribute(b, kind, value)
	}
	// A rule for all but one mark concerns nearly every packet.
	all := r.invert && r.mark != 0 && r.conditions == 0 && !r.From.IsValid() && !r.To.IsValid() && r.In == ""
	r.Narrow = !all && (r.conditions > 0 || r.mark != 0 || r.invert)
	return r, true
}

func (r *Rule) attribute(header []byte, kind uint16, value []byte) {
	switch kind {
	case unix.FRA_DST:
		r.To = rulePrefix(value, header[1])
	case unix.FRA_SRC:
		r.From = rulePrefix(value, header[2])
	case unix.FRA_IIFNAME:
		r.In = stringOf(value)
	case unix.FRA_PRIORITY:
		r.Priority = Uint32(value)
	case unix.FRA_TABLE:
		r.Table = Uint32(value)
	case unix.FRA_SUPPRESS_PREFIXLEN:
		r.Longer = int(int32(Uint32(value)))
	case unix.FRA_FWMARK:
		r.mark = Uint32(value)
	case unix.FRA_FWMASK:
		r.Mask = Uint32(value)
	case unix.FRA_PROTOCOL:
		r.Protocol = byteOf(value)
	case unix.FRA_OIFNAME, unix.FRA_TUN_ID, unix.FRA_UID_RANGE, unix.FRA_IP_PROTO, unix.FRA_SPORT_RANGE, unix.FRA_DPORT_RANGE:
		r.conditions++
	case unix.FRA_L3MDEV:
		r.conditions += int(byteOf(value))
	}
}

func rulePrefix(value []byte, bits byte) netip.Prefix {
	a, _ := netip.AddrFromSlice(value)
	return netip.PrefixFrom(a, int(bits))
}

// Kernels reports whether the kernel makes the rule.
func (r Rule) Kernels() bool {
	return r.Action == unix.FR_ACT_TO_TBL && !r.From.IsValid() && !r.To.IsValid() && r.In == "" && !r.Narrow && r.Longer < 0 &&
		(r.Table == netstate.TableLocal || r.Table == unix.RT_TABLE_DEFAULT || r.Table == netstate.TableMain && r.Priority == priorityOfMainTable)
}

// FamilyNumber is the AF_INET or AF_INET6 of a family.
func FamilyNumber(f netstate.Family) int {
	if f == netstate.IPv6 {
		return unix.AF_INET6
	}
	return unix.AF_INET
}

// Ours is the rule as our Rule; it returns false for a foreign rule.
func (r Rule) Ours() (netstate.Rule, bool) {
	o := netstate.Rule{Family: r.Family, Way: int(r.mark >> 12), Table: r.Table}
	return o, r.Protocol == netstate.RouteProtocol && r.Mask == netstate.MarkMask && r.mark == netstate.WayMark(o.Way)
}

// Sound reports whether our rule has all its conditions and no other.
func (r Rule) Sound() bool {
	return r.Action == unix.FR_ACT_TO_TBL && r.Priority == netstate.RulePriority && !r.invert && r.conditions == 0 &&
		!r.From.IsValid() && !r.To.IsValid() && r.In == "" && r.Longer < 0
}

// RuleAttributes are the attributes that add or delete our rule.
func RuleAttributes(o netstate.Rule, priority uint32) []*nl.RtAttr {
	return []*nl.RtAttr{
		U32(unix.FRA_PRIORITY, priority), U32(unix.FRA_FWMARK, netstate.WayMark(o.Way)), U32(unix.FRA_FWMASK, netstate.MarkMask),
		U32(unix.FRA_TABLE, o.Table), nl.NewRtAttr(unix.FRA_PROTOCOL, []byte{netstate.RouteProtocol}),
	}
}
