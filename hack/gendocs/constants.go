package main

import (
	"fmt"
	"regexp"
	"strings"
)

// chainPurposes says what each chain of nftables is for.
var chainPurposes = map[string]string{
	"publish":     "Where a packet to an address of the node's own is led to a published target. A port of one address comes before a port of every address, and who may not use the former does not fall to the latter. A lookup that finds nothing falls through to the next rule.",
	"arriving":    "Before anything is translated. What comes in by a bridge's port itself, in frames to link-local groups, is dropped: such a port has our link group and is not the interface of a network. Networks with publishes on 127.0.0.1 do not speak to, or as, the node's loopback.",
	"prerouting":  "What comes in to the node itself, after kube-proxy: its Services come first.",
	"output":      "What the node's own processes send to the node.",
	"published":   "Translated packets to a published target pass, all others end here. That they were translated by somebody (`ct status dnat`) is not enough.",
	"between":     "Between two attachments of a network with isolated ports, only what is published.",
	"into":        "Into a network that only published flows enter: answers, its own members, and what is published.",
	"forward":     "What the node routes. Where forwarding was switched on by Patchbay, nothing passes between two interfaces that are not ours.",
	"arrival":     "On a node that routes by sender: connections that come in, translated, by another interface than the usual one are marked with it.",
	"answer":      "Their answers get the mark of the connection, for a rule of ours (`ip rule`) that leads them out by that interface.",
	"resets":      "The answer of the node's own TCP to a segment that conntrack calls INVALID and no socket of the node takes: of a connection that is translated, it would end it.",
	"postrouting": "Masquerading: of targets that connect to their own network's published ports (hairpin), of clients whose answers would leave by another way, and of what leaves for other networks.",
	"v4":          "IPv4 from a port: from its own address only.",
	"arp4":        "ARP from a port: in its own name only.",
	"v6":          "IPv6 from a port: from its own addresses only, with neighbour messages for these alone, and no router advertisements.",
	"port":        "What a filtered port of a bridge sends: from its own MAC, and nothing but IP and ARP.",
	"ingress":     "What a bridge's ports receive, before anything else sees it.",
}

// setPurposes says which members the sets and maps have; most exist for each family.
var setPurposes = map[string]string{
	"ours":      "interfaces of networks and of links to the host",
	"guarded":   "interfaces that only published flows enter",
	"isolated":  "from and to one interface, of a network whose ports are isolated",
	"same":      "from and to one interface, of a network whose attachments reach each other",
	"noforward": "families that are not forwarded between foreign interfaces",
	"bridged":   "from and to one foreign bridge, whose own frames br_netfilter brings here",
	"lb":        "interfaces with publishes on 127.0.0.1",
	"way1":      "interfaces and networks whose connections are answered by the first of the further ways out",
	"way2":      "the same of the second",
	"way3":      "the same of the third",
	"snat":      "subnets on their interface, for hairpin",
	"nomasq":    "subnets and destinations that see their addresses",
	"snto":      "subnets, and the address that each hides behind",
	"snet":      "subnets hidden behind whatever address the kernel chooses",
	"tgt":       "published targets",
	"back":      "targets whose clients are masqueraded",
	"tgtr":      "targets of ranges that keep their ports",
	"backr":     "targets of ranges whose clients are masqueraded",
	"tgth":      "targets of such ranges of one address, with it",
	"backh":     "targets of ranges of one address, with it, whose clients are masqueraded",
	"pubgate":   "ports of one address that not everyone may use",
	"pubfrom":   "ports of one address, and who may use them",
	"anygate":   "ports of every address that not everyone may use",
	"anyfrom":   "ports of every address, and who may use them",
	"pub":       "published ports of one address, and their target",
	"any":       "published ports of every address, and their target",
	"pubr":      "ranges of one address, and their target",
	"anyr":      "ranges of every address, and their target",
	"pubslots":  "ports of one address with several targets, and the target of each slot",
	"anyslots":  "ports of every address with several targets, and the target of each slot",
	"pubrslots": "ranges of one address with several targets, and the target of each slot",
	"anyrslots": "ranges of every address with several targets, and the target of each slot",
	"ports":     "filtered bridge ports",
	"ok_mac":    "ports and their MAC",
	"ok_ip":     "ports, their MAC and their addresses",
	"allow_mac": "ports and further MACs that they may send from",
	"allow":     "ports and further addresses that they may send from",
	"allow_nd":  "ports and what else their neighbour messages may be about",
	"dhcp":      "ports without an IPv4 address, which may ask for one",
	"ok_nd":     "ports, their MAC and what their neighbour messages may be about",
}

// framePurposes says what each chain of iptables is for.
var framePurposes = map[string]string{
	"PORTS":       "links of ours that are not the interface of a network or of a link to the host, and so ports of a bridge: nothing comes in there",
	"RAW":         "loopback addresses to and from networks that have publishes on 127.0.0.1",
	"DROP":        "what networks do not forward",
	"GUARD":       "leads to FOREIGN in the families where Patchbay switched forwarding on",
	"FOREIGN":     "drops what is between two interfaces that are not ours",
	"REALM":       "leads what enters a guarded network to INTO",
	"OPEN":        "accepts what FORWARD would drop, by policy or by a rule, after all others",
	"INTO":        "lets through what may enter: answers, members, what is published",
	"FORWARD":     "the way of what is routed",
	"ADDRESS":     "publishes of an address",
	"ANY":         "publishes of every address",
	"LOOPBACK":    "publishes of 127.0.0.1",
	"RESETS":      "drops resets that would end connections of attachments, as the chain `resets` of nftables",
	"ARRIVAL":     "marks connections that come in by another way than the usual one",
	"ANSWER":      "marks their answers",
	"HAIRPIN":     "masquerades within a network",
	"BACK":        "masquerades clients whose answers would leave by another way",
	"MASQ":        "masquerades what leaves for other networks",
	"EGRESS":      "what is not masqueraded, and then MASQ",
	"PUBLISH":     "the way of what comes in to the node itself",
	"OUTPUT":      "the way of what the node sends to itself",
	"POSTROUTING": "the way of what leaves",
}

// constants are the tables, sets, chains and rules that are always the same.
func (p *page) constants() (string, error) {
	chains, err := p.chains()
	if err != nil {
		return "", err
	}
	sets, err := p.sets()
	if err != nil {
		return "", err
	}
	frames, err := p.frames()
	return "\n## nftables: what is always there\n\nA table is there while it has an element. The comment of a rule tells its text in any\nversion of nft.\n\n" +
		sets + chains +
		"## iptables: what is always there\n\nA table has our chains while one of them has a rule of an object. Such rules stand before\nthe last one of `PATCHBAY-FOREIGN`, `PATCHBAY-INTO` and `PATCHBAY-EGRESS`, and are alone in\nthe other chains that have any.\n\n" + frames, err
}

var setLine = regexp.MustCompile(`^add (?:set|map) \S+ patchbay (\S+)`)

// sets are the lines of tables and sets, and a legend.
func (p *page) sets() (string, error) {
	var lines []string
	legend := []string{"| set, or map; with 6 the same of IPv6 | what is in it |", "|---|---|"}
	told := map[string]bool{}
	for _, line := range p.nft {
		m := setLine.FindStringSubmatch(line)
		if m == nil && !strings.HasPrefix(line, "add table ") {
			continue
		}
		lines = append(lines, line)
		if m == nil || told[familyless(m[1])] {
			continue
		}
		name := familyless(m[1])
		purpose, ok := setPurposes[name]
		if !ok {
			return "", fmt.Errorf("setPurposes lacks %s", name)
		}
		legend, told[name] = append(legend, fmt.Sprintf("| `%s` | %s |", m[1], purpose)), true
	}
	return fence(lines) + strings.Join(legend, "\n") + "\n\n", nil
}

// familyless is a set's name without its family.
func familyless(name string) string { return strings.NewReplacer("4", "", "6", "").Replace(name) }

var (
	chainLine = regexp.MustCompile(`^add chain \S+ patchbay (\S+)`)
	ruleLine  = regexp.MustCompile(`^add rule \S+ patchbay (\S+)`)
)

// chains writes the chains of nftables, each with its purpose and its rules.
func (p *page) chains() (string, error) {
	var out strings.Builder
	var lines []string
	done := func() {
		if len(lines) > 0 {
			out.WriteString(fence(lines))
		}
		lines = nil
	}
	for _, line := range p.nft {
		if m := chainLine.FindStringSubmatch(line); m != nil {
			done()
			purpose, ok := chainPurposes[m[1]]
			if !ok {
				return "", fmt.Errorf("chainPurposes lacks %s", m[1])
			}
			fmt.Fprintf(&out, "**%s.** %s\n\n", m[1], purpose)
			lines = append(lines, line)
		} else if ruleLine.MatchString(line) {
			lines = append(lines, line)
		}
	}
	done()
	return out.String(), nil
}

// frames are the tables of iptables, without rules of objects.
func (p *page) frames() (string, error) {
	restores := map[string][]string{}
	for _, program := range programs {
		for _, table := range []string{"*raw", "*filter", "*nat"} {
			if lines, ok := p.tables[program+" "+table]; ok {
				restores[program] = append(append(restores[program], table), lines...)
			}
		}
	}
	legend, err := frameLegend(restores[programs[0]])
	alone := titled(programs[1]+", instead of lines with IPv4 addresses", inTables(restores[programs[1]], restores[programs[0]], false))
	return fence(append(titled(programs[0], restores[programs[0]]), alone...)) + legend, err
}

func frameLegend(lines []string) (string, error) {
	rows := []string{"| chain | what it is for |", "|---|---|"}
	for _, line := range lines {
		name, isChain := strings.CutPrefix(line, ":PATCHBAY-")
		if !isChain {
			continue
		}
		name, _, _ = strings.Cut(name, " ")
		purpose, ok := framePurposes[name]
		if !ok {
			return "", fmt.Errorf("framePurposes lacks %s", name)
		}
		rows = append(rows, fmt.Sprintf("| `PATCHBAY-%s` | %s |", name, purpose))
	}
	return strings.Join(rows, "\n") + "\n", nil
}

// titled are lines under a comment; none without lines.
func titled(title string, lines []string) []string {
	if len(lines) == 0 {
		return nil
	}
	return append([]string{"# " + title}, lines...)
}

func fence(lines []string) string {
	return "```\n" + strings.Join(lines, "\n") + "\n```\n\n"
}
