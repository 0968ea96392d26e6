package nftables

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/patchbay-dev/patchbay/nodeagent/firewall/nfnl"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
	"sigs.k8s.io/knftables"
)

// The chains.
const (
	chainPrerouting  = "prerouting"
	chainOutput      = "output"
	chainPublish     = "publish"
	chainArriving    = "arriving"
	chainPublished   = "published"
	chainForward     = "forward"
	chainBetween     = "between"
	chainInto        = "into"
	chainPostrouting = "postrouting"
	chainResets      = "resets"
	chainArrival     = "arrival"
	chainAnswer      = "answer"

	chainIngress = "ingress"
	chainPort    = "port"
	chainIPv4    = "v4"
	chainARP     = "arp4"
	chainIPv6    = "v6"
)

// chainDef is a chain with its rules; base is nil for one that is jumped to. A rule that
// names IP, and sets with #, stands for one of each family.
type chainDef struct {
	name  string
	base  *baseChain
	rules []string
}

type baseChain struct {
	typ      knftables.BaseChainType
	hook     knftables.BaseChainHook
	priority int
}

// chainDefs are the chains of each table: a chain stands before the chains that jump to it.
var chainDefs = map[knftables.Family][]chainDef{
	knftables.InetFamily:   inetChains,
	knftables.BridgeFamily: bridgeChains,
}

const ports = "meta l4proto { tcp, udp, sctp } "

var inetChains = []chainDef{
	{name: chainPublish, rules: slices.Concat(addrSets.rules("IP daddr . "), []string{
		// Publishes of every address leave these addresses out.
		"ip daddr { 127.0.0.0/8, 169.254.0.0/16 } return",
		"ip6 daddr { ::1, fe80::/10 } return",
	}, anySets.rules(""))},
	// Before conntrack sees it. A bridge gives what it takes to the node as its own
	// (also what br_netfilter shows of it), but for frames to link-local groups, which
	// come from the port itself: bridge ports are no way into the node. Ports
	// that are published on a loopback address, or on which the node itself listens there,
	// are for the node alone.
	{name: chainArriving, base: &baseChain{knftables.FilterType, knftables.PreroutingHook, -310}, rules: []string{
		fmt.Sprintf("iifgroup 0x%x iifname != @%s counter drop", netstate.LinkGroup, setOurs),
		"iifname @" + setLoopback + " ip daddr 127.0.0.0/8 counter drop",
		"iifname @" + setLoopback + " ip saddr 127.0.0.0/8 counter drop",
	}},
	// After kube-proxy: its Services come first.
	{name: chainPrerouting, base: &baseChain{knftables.NATType, knftables.PreroutingHook, -95}, rules: []string{
		// kube-proxy sets all.route_localnet, so loopback needs saying.
		"ip daddr 127.0.0.0/8 return",
		"fib daddr type local goto " + chainPublish,
	}},
	{name: chainOutput, base: &baseChain{knftables.NATType, knftables.OutputHook, -95}, rules: []string{
		"fib daddr type local goto " + chainPublish,
	}},
	// `ct status dnat` alone would let the DNAT of other programs pass.
	{name: chainPublished, rules: []string{
		"ct status dnat IP daddr . meta l4proto . th dport @" + setTargets + " accept",
		"ct status dnat IP daddr . meta l4proto . th dport @" + anySets.targetRanges + " accept",
		"ct status dnat IP daddr . meta l4proto . th dport . ct original IP daddr @" + addrSets.targetRanges + " accept",
		"counter drop",
	}},
	{name: chainBetween, rules: []string{
		"ct status dnat ct state established,related accept",
		"goto " + chainPublished,
	}},
	{name: chainInto, rules: []string{
		"ct state established,related accept",
		"iifname . oifname @" + setSame + " accept",
		"goto " + chainPublished,
	}},
	{name: chainForward, base: &baseChain{knftables.FilterType, knftables.ForwardHook, 0}, rules: []string{
		// What conntrack cannot place is not translated and would leave with
		// the network's own addresses.
		"iifname @" + setOurs + " ct state invalid drop",
		"meta nfproto @" + setNoForward + " iifname != @" + setOurs + " oifname != @" + setOurs + " iifname . oifname != @" + setForeignBridge + " counter drop",
		"iifname . oifname @" + setIsolated + " goto " + chainBetween,
		"oifname @" + setGuarded + " goto " + chainInto,
	}},
	// Of several ways out, a connection is answered by the one that it came in by.
	{name: chainArrival, base: &baseChain{knftables.FilterType, knftables.ForwardHook, -150}, rules: wayRules(
		"ct direction original ct status dnat iifname . oifname @SET ct mark set ct mark and REST or MARK")},
	{name: chainAnswer, base: &baseChain{knftables.FilterType, knftables.PreroutingHook, -150}, rules: wayRules(
		"iifname @" + setOurs + " ct direction reply ct status dnat ct mark and MASK == MARK meta mark set meta mark and REST or MARK")},
	// A segment that conntrack calls INVALID is not translated, so one of a connection
	// of an attachment meets the node's own TCP, which has no such connection: its
	// reset would end the attachment's. Only a reset without ACK answers what no
	// socket takes, and an INVALID one that no connection is known for.
	{name: chainResets, base: &baseChain{knftables.FilterType, knftables.OutputHook, 0}, rules: []string{
		"tcp flags & (syn | rst | ack) == rst ct state invalid counter drop",
	}},
	{name: chainPostrouting, base: &baseChain{knftables.NATType, knftables.PostroutingHook, 100}, rules: []string{
		// Hairpin, not by iifname: there is none where br_netfilter bridges it.
		"ct status dnat IP saddr . oifname @" + setHairpin + " masquerade",
		"ct status dnat IP daddr . meta l4proto . th dport @" + setMasqTargets + " masquerade",
		"ct status dnat IP daddr . meta l4proto . th dport @" + anySets.masqRanges + " masquerade",
		"ct status dnat IP daddr . meta l4proto . th dport . ct original IP daddr @" + addrSets.masqRanges + " masquerade",
		"ct status dnat oifname @" + setLoopback + " ip saddr 127.0.0.0/8 masquerade",
		"oifname @" + setOurs + " return",
		"IP saddr . IP daddr @" + setNoMasq + " return",
		"snat IP to IP saddr map @" + mapSNAT,
		"IP saddr @" + setMasq + " masquerade",
	}},
}

// wayRules is a rule for each way back, with its set and mark, the bits of marks that
// belong to Patchbay, and the rest.
func wayRules(rule string) []string {
	var rules []string
	for i, set := range waySets {
		words := strings.NewReplacer("SET", set, "MARK", hexMark(netstate.WayMark(i+1)), "MASK", hexMark(netstate.MarkMask), "REST", hexMark(^uint32(netstate.MarkMask)))
		rules = append(rules, words.Replace(rule))
	}
	return rules
}

func hexMark(m uint32) string { return fmt.Sprintf("%#010x", m) }

// Sets of one family, where the rules differ between families.
var (
	ipv4, ipv6                     = netip.IPv4Unspecified(), netip.IPv6Unspecified()
	setOwnIPv4, setOwnIPv6         = of(setOwnIP, ipv4), of(setOwnIP, ipv6)
	setAllowedIPv4, setAllowedIPv6 = of(setAllowedIP, ipv4), of(setAllowedIP, ipv6)
)

var bridgeChains = []chainDef{
	{name: chainIPv4, rules: []string{
		"iifname . ether saddr . ip saddr @" + setOwnIPv4 + " accept",
		"iifname . ip saddr @" + setAllowedIPv4 + " accept",
		"ip saddr 0.0.0.0 ip daddr 255.255.255.255 udp sport 68 udp dport 67 iifname @" + setDHCP + " accept",
		"drop",
	}},
	{name: chainARP, rules: []string{
		"arp htype 1 arp ptype ip arp plen 4 iifname . arp saddr ether . arp saddr ip @" + setOwnIPv4 + " accept",
		"iifname . arp saddr ether != @" + setOwnMAC + " iifname . arp saddr ether != @" + setAllowedMAC + " drop",
		"arp operation request arp saddr ip 0.0.0.0 accept",
		"arp htype 1 arp ptype ip arp plen 4 iifname . arp saddr ip @" + setAllowedIPv4 + " accept",
		"drop",
	}},
	{name: chainIPv6, rules: []string{
		"icmpv6 type { nd-router-advert, nd-redirect } drop",
		"icmpv6 type nd-neighbor-advert iifname . ether saddr . @th,64,128 != @" + setOwnND6 + " iifname . @th,64,128 != @" + setAllowedND6 + " drop",
		"iifname . ether saddr . ip6 saddr @" + setOwnIPv6 + " accept",
		"iifname . ip6 saddr @" + setAllowedIPv6 + " accept",
		"ip6 saddr :: icmpv6 type nd-neighbor-solicit iifname . ether saddr . @th,64,128 @" + setOwnND6 + " accept",
		"ip6 saddr :: icmpv6 type nd-neighbor-solicit iifname . @th,64,128 @" + setAllowedND6 + " accept",
		"ip6 saddr :: icmpv6 type mld2-listener-report accept",
		"drop",
	}},
	{name: chainPort, rules: []string{
		"iifname . ether saddr != @" + setOwnMAC + " iifname . ether saddr != @" + setAllowedMAC + " drop",
		"ether type vmap { ip : goto " + chainIPv4 + ", arp : goto " + chainARP + ", ip6 : goto " + chainIPv6 + " }",
		"drop",
	}},
	// ibrname matches nothing here; iifname is the port.
	{name: chainIngress, base: &baseChain{knftables.FilterType, knftables.PreroutingHook, -300}, rules: []string{
		"iifname @" + setFiltered + " goto " + chainPort,
	}},
}

// families are the families in which we have a table.
var families = []knftables.Family{knftables.InetFamily, knftables.BridgeFamily}

// ruleMark is the comment by which a rule is known again: nft lists a rule's
// text differently from version to version.
func ruleMark(f knftables.Family, chain string, index int, rule string) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%s %s %d %s", f, chain, index, rule))
	return hex.EncodeToString(sum[:5])
}

// object is the chain without its rules in knftables' words.
func (c *chainDef) object(f knftables.Family) *knftables.Chain {
	o := &knftables.Chain{Family: f, Table: nfnl.OwnTable, Name: c.name}
	if c.base != nil {
		o.Type, o.Hook = &c.base.typ, &c.base.hook
		o.Priority = knftables.PtrTo(knftables.BaseChainPriority(fmt.Sprint(c.base.priority)))
		o.Policy = knftables.PtrTo(knftables.AcceptPolicy)
	}
	return o
}

// ruleObjects are the chain's rules in knftables' words.
func (c *chainDef) ruleObjects(f knftables.Family) []*knftables.Rule {
	var texts []string
	for _, text := range c.rules {
		texts = append(texts, of(ipWords(text, ipv4), ipv4))
		if strings.Contains(text, "IP") {
			texts = append(texts, of(ipWords(text, ipv6), ipv6))
		}
	}
	rules := make([]*knftables.Rule, len(texts))
	for i, text := range texts {
		mark := ruleMark(f, c.name, i, text)
		rules[i] = &knftables.Rule{Family: f, Table: nfnl.OwnTable, Chain: c.name, Rule: text, Comment: &mark}
	}
	return rules
}
