package iptables

import (
	"fmt"
	"slices"
	"strings"

	"github.com/patchbay-dev/patchbay/nodeagent/firewall/book"
	"github.com/patchbay-dev/patchbay/nodeagent/firewall/foreign"
	"github.com/patchbay-dev/patchbay/nodeagent/firewall/iptsave"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
)

// The chains whose rules are objects'. Their order does not matter within a
// chain, so that rules come and go one by one.
const (
	ipRaw      = iptsave.Prefix + "RAW"      // loopback addresses to and from where they are guarded
	ipPorts    = iptsave.Prefix + "PORTS"    // our links without a policy, and so bridge ports
	ipDrop     = iptsave.Prefix + "DROP"     // what links with a policy do not forward
	ipGuard    = iptsave.Prefix + "GUARD"    // families with a ForwardGuard
	ipForeign  = iptsave.Prefix + "FOREIGN"  // all but links with a policy and foreign bridges
	ipPolicy   = iptsave.Prefix + "REALM"    // what enters links with a policy
	ipInto     = iptsave.Prefix + "INTO"     // what may enter guarded ones
	ipOpen     = iptsave.Prefix + "OPEN"     // what FORWARD must not drop afterwards
	ipAddress  = iptsave.Prefix + "ADDRESS"  // publishes of an address
	ipAny      = iptsave.Prefix + "ANY"      // publishes of all addresses
	ipLoopback = iptsave.Prefix + "LOOPBACK" // publishes of loopback
	ipHairpin  = iptsave.Prefix + "HAIRPIN"  // subnets on their interface
	ipBack     = iptsave.Prefix + "BACK"     // targets whose default route is elsewhere
	ipEgress   = iptsave.Prefix + "EGRESS"   // packets that are not masqueraded
	ipMasq     = iptsave.Prefix + "MASQ"     // subnets that are
	ipArrival  = iptsave.Prefix + "ARRIVAL"  // connections answered by the way they came in by
	ipAnswer   = iptsave.Prefix + "ANSWER"   // its answers
)

// The chains that the hooks jump to.
const (
	ipForward     = iptsave.Prefix + "FORWARD"
	ipOutput      = iptsave.Prefix + "OUTPUT"
	ipPublish     = iptsave.Prefix + "PUBLISH"
	ipPostrouting = iptsave.Prefix + "POSTROUTING"
	ipResets      = iptsave.Prefix + "RESETS" // what would end connections of attachments
)

// A publish of its own chains has them named by a hash.
const (
	ipSources = iptsave.Prefix + "S-" // sources that may connect
	ipTargets = iptsave.Prefix + "T-" // several targets
)

// frame is a chain as it always is: the rules of objects stand between head and
// tail.
type frame struct {
	chain      string
	head, tail []string
}

// hook is a jump from a chain of the kernel's.
type hook struct {
	chain, spec string
	// first hooks must be before the rules of other programs, which could accept what
	// Patchbay has to drop.
	first bool
}

// front reports whether a hook is put before the rules that are there. The hook of
// POSTROUTING is, so that a sourceAddress counts, but it does not hold its place.
func (h hook) front() bool { return h.first || h.chain == "POSTROUTING" }

// ipFrames are the chains of each table. Packets that may pass RETURN: with ACCEPT
// they would pass the rules of other programs unseen. Only where FORWARD drops them are
// packets accepted that have passed our other chains.
var ipFrames = map[string][]frame{
	"raw": {
		{chain: ipPorts, tail: []string{iptsave.Marked + "-j DROP"}},
		{chain: ipRaw, head: []string{fmt.Sprintf("-m devgroup --src-group 0x%x %s-j %s", netstate.LinkGroup, iptsave.Marked, ipPorts)}},
	},
	"filter": {
		{chain: ipDrop}, {chain: ipGuard},
		{chain: ipForeign, tail: []string{iptsave.Marked + "-j DROP"}},
		{chain: ipPolicy}, {chain: ipOpen},
		{chain: ipInto, head: []string{"-m conntrack --ctstate RELATED,ESTABLISHED " + iptsave.Marked + "-j RETURN"}, tail: []string{iptsave.Marked + "-j DROP"}},
		// As in the chain resets of nftables.
		{chain: ipResets, head: []string{"-p tcp -m tcp --tcp-flags SYN,RST,ACK RST -m conntrack --ctstate INVALID " + iptsave.Marked + "-j DROP"}},
		{chain: ipForward, head: []string{iptsave.Marked + "-j " + ipDrop, iptsave.Marked + "-j " + ipGuard, iptsave.Marked + "-j " + ipPolicy, iptsave.Marked + "-j " + ipOpen}},
	},
	"mangle": {{chain: ipArrival}, {chain: ipAnswer}},
	"nat": {
		{chain: ipAddress}, {chain: ipAny}, {chain: ipLoopback}, {chain: ipHairpin}, {chain: ipBack}, {chain: ipMasq},
		{chain: ipEgress, tail: []string{iptsave.Marked + "-j " + ipMasq}},
		{chain: ipPublish, head: []string{iptsave.Marked + "-j " + ipAddress}, tail: []string{iptsave.Marked + "-j " + ipAny}},
		{chain: ipOutput, tail: []string{iptsave.Marked + "-j " + ipLoopback, iptsave.Marked + "-j " + ipPublish}},
		{chain: ipPostrouting, head: []string{iptsave.Marked + "-j " + ipHairpin, iptsave.Marked + "-j " + ipBack, iptsave.Marked + "-j " + ipEgress}},
	},
}

// kept are the node's own addresses that publishes of every address leave out.
// kube-proxy sets all.route_localnet, so loopback needs saying.
var kept = map[bool][]string{false: {"127.0.0.0/8", "169.254.0.0/16"}, true: {"::1/128", "fe80::/10"}}

// framesOf are the frames of an area.
func framesOf(a iptsave.TableID) []frame {
	var out []frame
	for _, f := range ipFrames[a.Table] {
		if f.chain == ipPublish {
			for _, p := range kept[a.Six] {
				f.head = append(f.head, "-d "+p+" "+iptsave.Marked+"-j RETURN")
			}
		}
		out = append(out, f)
	}
	return out
}

// hooks are the jumps of each table. A Service of kube-proxy comes before our publishes,
// which therefore stand last in PREROUTING and OUTPUT.
var hooks = map[string][]hook{
	"raw": {{chain: "PREROUTING", spec: iptsave.Marked + "-j " + ipRaw, first: true}},
	"filter": {
		{chain: "FORWARD", spec: iptsave.Marked + "-j " + ipForward, first: true},
		{chain: "OUTPUT", spec: iptsave.Marked + "-j " + ipResets, first: true},
	},
	"mangle": {
		{chain: "FORWARD", spec: iptsave.Marked + "-j " + ipArrival},
		{chain: "PREROUTING", spec: iptsave.Marked + "-j " + ipAnswer},
	},
	"nat": {
		{chain: "PREROUTING", spec: "-m addrtype --dst-type LOCAL " + iptsave.Marked + "-j " + ipPublish},
		{chain: "OUTPUT", spec: "-m addrtype --dst-type LOCAL " + iptsave.Marked + "-j " + ipOutput},
		{chain: "POSTROUTING", spec: iptsave.Marked + "-j " + ipPostrouting},
	},
}

// ipTables are the tables in the order of writing: what closes comes first.
var ipTables = []string{"raw", "filter", "mangle", "nat"}

// builder collects the rules of an object.
type builder struct {
	comment string
	lines   []iptsave.Rule
}

func (b *builder) add(six bool, table, chain, match, target string) {
	if match != "" {
		match += " "
	}
	b.lines = append(b.lines, iptsave.InTable(six, table).At(chain).With(fmt.Sprintf("%s-m comment --comment %q %s", match, b.comment, target)))
}

// both adds a rule for both families.
func (b *builder) both(table, chain, match, target string) {
	b.add(false, table, chain, match, target)
	b.add(true, table, chain, match, target)
}

// rulesOf are the rules of an object, each bearing its name; the rules of a chain of its
// own are in their order.
func rulesOf(s netstate.Source, o netstate.Object) []iptsave.Rule {
	b := &builder{comment: iptsave.Comment(s, o.Key())}
	switch o := o.(type) {
	case netstate.LinkPolicy:
		b.policy(o)
	case netstate.ForwardGuard:
		b.add(o.Family == netstate.IPv6, "filter", ipGuard, "", "-j "+ipForeign)
	case netstate.ForeignBridge:
		b.both("filter", ipForeign, "-i "+o.Link+" -o "+o.Link, "-j RETURN")
	case netstate.LoopbackGuard:
		b.add(false, "raw", ipRaw, "-d 127.0.0.0/8 -i "+o.Link, "-j DROP")
		b.add(false, "raw", ipRaw, "-s 127.0.0.0/8 -i "+o.Link, "-j DROP")
	case netstate.Opening:
		for _, spec := range foreign.AcceptRules(s, o) {
			b.lines = append(b.lines, iptsave.InTable(o.Family == netstate.IPv6, "filter").At(ipOpen).With(spec))
		}
	case netstate.Masquerade:
		b.masquerade(o)
	case netstate.NoMasquerade:
		match := "-s " + o.Subnet.String()
		if o.Dst.Bits() > 0 {
			match += " -d " + o.Dst.String()
		}
		b.add(o.Subnet.Addr().Is6(), "nat", ipEgress, match, "-j RETURN")
	case netstate.WayBack:
		mark := fmt.Sprintf("%#x/%#x", netstate.WayMark(o.Way), netstate.MarkMask)
		b.both("mangle", ipArrival, "-i "+o.Link+" -o "+o.TargetLink+" -m conntrack --ctstate DNAT --ctdir ORIGINAL", "-j CONNMARK --set-xmark "+mark)
		b.both("mangle", ipAnswer, "-i "+o.TargetLink+" -m conntrack --ctstate DNAT --ctdir REPLY -m connmark --mark "+mark, "-j MARK --set-xmark "+mark)
	case netstate.Publish:
		b.publish(s, o)
	}
	return b.lines
}

func (b *builder) policy(p netstate.LinkPolicy) {
	in, out := "-i "+p.Link, "-o "+p.Link
	// Frames to link-local groups come from the bridge's port itself.
	b.both("raw", ipPorts, in, "-j RETURN")
	// What conntrack cannot place is not translated and would leave with the
	// network's own addresses.
	b.both("filter", ipDrop, in+" -m conntrack --ctstate INVALID", "-j DROP")
	b.both("filter", ipForeign, in, "-j RETURN")
	b.both("filter", ipForeign, out, "-j RETURN")
	switch {
	case p.Isolated:
		b.both("filter", ipDrop, in+" "+out+" -m conntrack ! --ctstate DNAT", "-j DROP")
	default:
		b.both("filter", ipInto, in+" "+out, "-j RETURN")
	}
	switch {
	case p.Guarded:
		b.both("filter", ipPolicy, out, "-g "+ipInto)
	case p.Isolated:
		b.both("filter", ipPolicy, in+" "+out, "-g "+ipInto)
	}
	b.both("nat", ipEgress, out, "-j RETURN")
}

func (b *builder) masquerade(m netstate.Masquerade) {
	six, from := m.Subnet.Addr().Is6(), "-s "+m.Subnet.String()
	// Not by the interface it came in by: there is none where br_netfilter
	// bridges it.
	b.add(six, "nat", ipHairpin, from+" -o "+m.Link+" -m conntrack --ctstate DNAT", "-j MASQUERADE")
	switch {
	case m.Egress && m.Source.IsValid():
		b.add(six, "nat", ipMasq, from, "-j SNAT --to-source "+m.Source.String())
	case m.Egress:
		b.add(six, "nat", ipMasq, from, "-j MASQUERADE")
	}
}

// ownChain reports whether a chain is one object's alone.
func ownChain(name string) bool {
	return strings.HasPrefix(name, ipSources) || strings.HasPrefix(name, ipTargets)
}

// ownChains are those among the lines.
func ownChains(lines []iptsave.Rule) []iptsave.ChainID {
	var out []iptsave.ChainID
	for _, l := range lines {
		if ownChain(l.Chain) && !slices.Contains(out, l.ChainID) {
			out = append(out, l.ChainID)
		}
	}
	return out
}

// check refuses what validate does, and what iptables cannot hold.
func check(o netstate.Object) error {
	switch o.(type) {
	case netstate.PortFilter, netstate.PortAddress, netstate.AllowedMAC, netstate.AllowedPrefix, netstate.DHCPClient:
		return fmt.Errorf("the backend %s cannot hold what a bridge port sends to its addresses", Kind)
	}
	return book.Check(o)
}
