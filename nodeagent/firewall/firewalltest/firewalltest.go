// Package firewalltest has objects, steps and shell commands for tests of the firewall.
package firewalltest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/patchbay-dev/patchbay/nodeagent/firewall/nfnl"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
	"github.com/patchbay-dev/patchbay/nodeagent/plan"
	"github.com/patchbay-dev/patchbay/test/netlab"
)

// Addr and Prefix read addresses; MACA and MACB are two MAC addresses.
var (
	Addr   = netip.MustParseAddr
	Prefix = netip.MustParsePrefix
	MacA   = netstate.MAC{2, 0x42, 10, 68, 0, 101}
	MacB   = netstate.MAC{2, 0x42, 10, 68, 0, 102}
)

// Rich has every kind of object in every variant.
func Rich() netstate.Set {
	return netstate.Set{}.Add(
		netstate.LinkPolicy{Link: "br-red", Guarded: true},
		netstate.LinkPolicy{Link: "br-blue", Guarded: true, Isolated: true},
		netstate.LinkPolicy{Link: "br-open"},
		netstate.LinkPolicy{Link: "veth1.p_2-x", Isolated: true},
		netstate.ForwardGuard{Family: netstate.IPv4},
		netstate.ForwardGuard{Family: netstate.IPv6},
		netstate.ForeignBridge{Link: "br-other"},
		netstate.PortFilter{Link: "veth1", MAC: MacA},
		netstate.PortAddress{Link: "veth1", MAC: MacA, Addr: Addr("10.68.0.101")},
		netstate.PortAddress{Link: "veth1", MAC: MacA, Addr: Addr("fd00:68::101")},
		netstate.AllowedMAC{Link: "veth1", MAC: netstate.MAC{0, 0, 0x5e, 0, 1, 0x33}},
		netstate.AllowedPrefix{Link: "veth1", Prefix: Prefix("10.68.0.200/32")},
		netstate.AllowedPrefix{Link: "veth1", Prefix: Prefix("172.20.0.0/14")},
		netstate.AllowedPrefix{Link: "veth1", Prefix: Prefix("fd00:68::200/128")},
		netstate.AllowedPrefix{Link: "veth1", Prefix: Prefix("::f000/116")},
		netstate.DHCPClient{Link: "veth2"},
		netstate.PortFilter{Link: "veth2", MAC: MacB},
		netstate.PortAddress{Link: "veth2", MAC: MacB, Addr: Addr("::f001")},
		netstate.Masquerade{Link: "br-red", Subnet: Prefix("10.68.0.0/24"), Egress: true},
		netstate.Masquerade{Link: "br-red", Subnet: Prefix("fd00:68::/64"), Egress: true},
		netstate.Masquerade{Link: "br-blue", Subnet: Prefix("10.69.0.0/24")},
		netstate.Masquerade{Link: "br-open", Subnet: Prefix("10.70.0.0/24"), Egress: true, Source: Addr("192.0.2.7")},
		netstate.Masquerade{Link: "br-open", Subnet: Prefix("fd00:70::/64"), Egress: true, Source: Addr("2001:db8::7")},
		netstate.Masquerade{Link: "veth1.p_2-x", Subnet: Prefix("10.71.0.1/32"), Egress: true},
		netstate.NoMasquerade{Link: "br-red", Subnet: Prefix("10.68.0.0/24"), Dst: Prefix("10.0.0.0/8")},
		netstate.NoMasquerade{Link: "br-red", Subnet: Prefix("10.68.0.0/24"), Dst: Prefix("192.0.2.9/32")},
		netstate.NoMasquerade{Link: "br-red", Subnet: Prefix("fd00:68::/64"), Dst: Prefix("fd00::/8")},
		netstate.WayBack{Link: "wan1", TargetLink: "br-red", Way: 1},
		netstate.WayBack{Link: "wan2", TargetLink: "br-red", Way: 2},
		netstate.WayBack{Link: "wan2", TargetLink: "br-blue", Way: 2},
		netstate.WayBack{Link: "wan-3", TargetLink: "veth1.p_2-x", Way: 3},
		Publish("0.0.0.0", "tcp", 8001, "10.68.0.101:80"),
		Publish("192.0.2.1", "tcp", 8001, "10.68.0.102:80"),
		Publish("0.0.0.0", "tcp", 8002, "10.68.0.101:80"),
		Publish("0.0.0.0", "udp", 53, "10.68.0.101:53"),
		Publish("0.0.0.0", "sctp", 9, "10.68.0.101:9"),
		Publish("::", "tcp", 8001, "[fd00:68::101]:80"),
		Publish("2001:db8::1", "udp", 53, "[fd00:68::101]:53"),
		Back(Publish("0.0.0.0", "tcp", 8003, "10.68.0.103:80")),
		Back(Publish("::", "tcp", 8003, "[fd00:68::103]:80")),
		PartlyBack(Balance("0.0.0.0", "tcp", 8004, "10.68.0.101:80", "10.68.0.103:80", "10.68.0.104:80"), "10.68.0.103:80"),
		Balance("192.0.2.1", "udp", 8004, "10.68.0.101:80", "10.68.0.102:80"),
		Balance("::", "tcp", 8004, "[fd00:68::101]:80", "[fd00:68::102]:80"),
		Balance("2001:db8::1", "sctp", 8004, "[fd00:68::101]:80", "[fd00:68::102]:80"),
	).Add(richRanges()...).Add(richGates()...)
}

// richRanges overlap each other in all that does not make them conflict.
func richRanges() []netstate.Object {
	return []netstate.Object{
		Ranged("0.0.0.0", "tcp", 9000, 9010, "10.68.0.101:9000"),
		Ranged("192.0.2.1", "tcp", 9005, 9015, "10.68.0.101:9005"),
		Back(Ranged("192.0.2.2", "tcp", 9000, 9007, "10.68.0.101:9000")),
		Back(Ranged("0.0.0.0", "udp", 20000, 65535, "10.68.0.103:20000")),
		Ranged("0.0.0.0", "sctp", 9000, 9003, "10.68.0.101:8000"),
		Back(Ranged("192.0.2.1", "udp", 9000, 9001, "10.68.0.103:53")),
		Ranged("::", "tcp", 9000, 9010, "[fd00:68::101]:9000"),
		Back(Ranged("2001:db8::1", "tcp", 9005, 9015, "[fd00:68::101]:9005")),
		Back(Ranged("::", "udp", 9000, 9010, "[fd00:68::103]:9000")),
		Ranged("::", "sctp", 9000, 9003, "[fd00:68::101]:8000"),
		Ranged("2001:db8::1", "udp", 9000, 9001, "[fd00:68::101]:53"),
	}
}

// richGates are gates of every shape of a publish, and what needs them.
func richGates() []netstate.Object {
	return []netstate.Object{
		netstate.LoopbackGuard{Link: "br-red"},
		Publish("127.0.0.1", "tcp", 8001, "10.68.0.101:80"),
		From(Publish("0.0.0.0", "tcp", 8010, "10.68.0.101:80"), "10.0.0.0/8", "192.0.2.9/32", "198.51.100.0/25", "198.51.100.128/25"),
		From(Publish("192.0.2.1", "tcp", 8010, "10.68.0.102:80"), "0.0.0.0/0"),
		From(Ranged("0.0.0.0", "tcp", 9100, 9110, "10.68.0.101:9100"), "10.0.0.0/8"),
		From(Ranged("192.0.2.1", "tcp", 9100, 9103, "10.68.0.101:80"), "10.0.0.0/8", "172.16.0.0/12"),
		From(Balance("0.0.0.0", "udp", 8010, "10.68.0.101:81", "10.68.0.102:81"), "10.0.0.0/8"),
		From(Publish("::", "tcp", 8010, "[fd00:68::101]:80"), "2001:db8::/32", "fd00::1/128"),
		From(Ranged("2001:db8::1", "tcp", 9100, 9110, "[fd00:68::101]:9100"), "::/0"),
		From(Publish("2001:db8::1", "udp", 8010, "[fd00:68::101]:80")),
		From(Publish("::", "sctp", 8010, "[fd00:68::101]:80")),
	}
}

// Ranged is a publish of a range of ports.
func Ranged(host, proto string, first, last uint16, target string) netstate.Publish {
	p := Publish(host, proto, first, target)
	p.HostPortEnd = last
	return p
}

// From lets in the given sources, or none.
func From(p netstate.Publish, list ...string) netstate.Publish {
	var sources []netip.Prefix
	for _, s := range list {
		sources = append(sources, Prefix(s))
	}
	p.Sources = netstate.NewSources(sources...)
	return p
}

// Publish is a publish of one port.
func Publish(host, proto string, port uint16, target string) netstate.Publish {
	return netstate.Publish{Host: Addr(host), Proto: proto, HostPort: port, Targets: Targets(target)}
}

// Targets are addresses and ports as targets of a publish.
func Targets(list ...string) netstate.Targets {
	var all []netip.AddrPort
	for _, t := range list {
		all = append(all, netip.MustParseAddrPort(t))
	}
	return netstate.NewTargets(all...)
}

// Balance is a publish with several targets.
func Balance(host, proto string, port uint16, list ...string) netstate.Publish {
	return netstate.Publish{Host: Addr(host), Proto: proto, HostPort: port, Targets: Targets(list...)}
}

// PartlyBack masquerades connections to some targets.
func PartlyBack(p netstate.Publish, list ...string) netstate.Publish {
	p.Back = Targets(list...)
	return p
}

// Back masquerades connections to all targets.
func Back(p netstate.Publish) netstate.Publish {
	p.Back = p.Targets
	return p
}

// Creates are steps that make objects, as plan makes them.
func Creates(objects ...netstate.Object) (steps []plan.Step) {
	for _, o := range objects {
		steps = append(steps, plan.Step{Op: plan.Create, Key: o.Key(), New: o})
	}
	return steps
}

// Deletes are steps that remove objects.
func Deletes(objects ...netstate.Object) (steps []plan.Step) {
	for _, o := range objects {
		steps = append(steps, plan.Step{Op: plan.Delete, Key: o.Key(), Old: o})
	}
	return steps
}

// Updates is the step from one object to another.
func Updates(old, now netstate.Object) []plan.Step {
	return []plan.Step{{Op: plan.Update, Key: now.Key(), Old: old, New: now}}
}

// List are the objects of a set in the order of their keys.
func List(s netstate.Set) (objects []netstate.Object) {
	for _, k := range s.Keys() {
		objects = append(objects, s[k])
	}
	return objects
}

// applier is a firewall, or a dialect of one.
type applier interface {
	Apply([]plan.Step) error
}

// Apply carries out steps in one call.
func Apply(t testing.TB, b applier, steps ...[]plan.Step) {
	t.Helper()
	var all []plan.Step
	for _, s := range steps {
		all = append(all, s...)
	}
	if err := b.Apply(all); err != nil {
		t.Fatal(err)
	}
}

var (
	listedElements = regexp.MustCompile(`(?s)elements = \{ .*? \}\n`)
	// ListedCounts are counters in a listing.
	ListedCounts = regexp.MustCompile(`packets \d+ bytes \d+`)
)

// Ruleset lists all of nftables, tables and elements sorted since the kernel's
// order is that of their making or none, and counters at zero.
func Ruleset(t testing.TB) string {
	t.Helper()
	tables := strings.SplitAfter(netlab.Shell(t, "nft list ruleset"), "\n}\n")
	slices.SortFunc(tables, func(a, b string) int { return strings.Compare(b, a) })
	text := listedElements.ReplaceAllStringFunc(strings.Join(tables, ""), func(s string) string {
		s = strings.TrimSuffix(strings.TrimPrefix(s, "elements = { "), " }\n")
		elements := strings.Split(s, ",")
		for i := range elements {
			elements[i] = strings.TrimSpace(elements[i])
		}
		slices.Sort(elements)
		return "elements = { " + strings.Join(elements, ",\n\t\t\t     ") + " }\n"
	})
	return ListedCounts.ReplaceAllString(text, "packets 0 bytes 0")
}

// Same compares a value with the one that is wanted.
func Same(t testing.TB, what string, want, got any) {
	t.Helper()
	if d := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
		cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }), cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); d != "" {
		t.Errorf("%s differs (-want +got):\n%s", what, d)
	}
}

// Golden compares a text with a file of testdata, which PATCHBAY_UPDATE=1 writes.
func Golden(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", name)
	if os.Getenv("PATCHBAY_UPDATE") != "" {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	Same(t, file, string(want), got)
}

// Generation is the generation of the ruleset.
func Generation(t testing.TB) uint32 {
	t.Helper()
	g, err := nfnl.Generation()
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// OpeningsOf has openings of every sort.
func OpeningsOf(link string) []netstate.Object {
	return []netstate.Object{
		netstate.Opening{Family: netstate.IPv4, Link: link},
		netstate.Opening{Family: netstate.IPv4, Link: link, Out: "eth0.100"},
		netstate.Opening{Family: netstate.IPv4, Link: "br-lan", To: netip.MustParseAddrPort("10.68.0.101:80"), Proto: "tcp"},
		netstate.Opening{Family: netstate.IPv6, Link: link},
		netstate.Opening{Family: netstate.IPv6, Link: link, Out: "wan0"},
		netstate.Opening{Family: netstate.IPv6, Link: "br-lan", To: netip.MustParseAddrPort("[fd00:68::101]:80"), End: 90, Proto: "udp"},
		netstate.Opening{Family: netstate.IPv6, Link: "br-lan", To: netip.MustParseAddrPort("[fd00:68::101]:80"), Proto: "sctp"},
	}
}

// Watcher counts the calls of a Watch.
type Watcher chan struct{}

// WatchAll watches a firewall until the test ends.
func WatchAll(t testing.TB, b interface {
	Watch(context.Context, func()) error
}) Watcher {
	t.Helper()
	w := make(Watcher, 1000)
	if err := b.Watch(t.Context(), func() { w <- struct{}{} }); err != nil {
		t.Fatal(err)
	}
	return w
}

// Fires waits for a call, which must come within 10 seconds, and empties the
// channel.
func (w Watcher) Fires(t testing.TB) {
	t.Helper()
	select {
	case <-w:
	case <-time.After(10 * time.Second):
		t.Error("Watch did not fire within 10 seconds")
	}
}

// Quiet has no call come in the time that one would take.
func (w Watcher) Quiet(t testing.TB) {
	t.Helper()
	select {
	case <-w:
		t.Error("Watch fired")
	case <-time.After(500 * time.Millisecond):
	}
}

// ElsewhereInShort is a blocker at another hook in one line.
func ElsewhereInShort(b netstate.Blocker) string {
	text := b.Hook
	if b.Bridge {
		text = "bridge " + text
	}
	if b.Untracked {
		text += " untracked"
	}
	if b.Proto != "" {
		text += fmt.Sprintf(" %s %d-%d", b.Proto, b.First, b.Last)
	}
	if len(b.Links) > 0 {
		text += fmt.Sprint(" ", b.Links)
	}
	if len(b.Accepts) > 0 {
		text += " but " + strings.Join(b.Accepts, ",")
	}
	return text + " " + b.Cause
}

// InShort are blockers in short: of both families alike, or of one.
func InShort(blockers []netstate.Blocker) string {
	of := map[string][]string{}
	var texts []string
	for _, b := range blockers {
		text := b.Cause
		if len(b.Accepts) > 0 {
			text += " but " + strings.Join(b.Accepts, ",")
		}
		if b.Translated {
			text += " but what was translated"
		}
		if texts = append(texts, text); len(b.Families) == 1 {
			of[text] = append(of[text], map[netstate.Family]string{netstate.IPv4: "4", netstate.IPv6: "6"}[b.Families[0]])
		}
	}
	slices.Sort(texts)
	texts = slices.Compact(texts)
	for i, text := range texts {
		if len(of[text]) == 1 {
			texts[i] = of[text][0] + " " + text
		}
	}
	return strings.Join(texts, "; ")
}

// Many are n targets.
func Many(n int) []string {
	var out []string
	for i := range n {
		out = append(out, fmt.Sprintf("10.68.%d.%d:80", i/250, 1+i%250))
	}
	return out
}

// RandomTargets are n different targets, sorted.
func RandomTargets(random *rand.Rand, n int) []netip.AddrPort {
	set := map[netip.AddrPort]bool{}
	for len(set) < n {
		a := netip.AddrFrom4([4]byte{10, 68, byte(random.Uint32()), byte(random.Uint32())})
		set[netip.AddrPortFrom(a, uint16(1+random.IntN(3)))] = true
	}
	var all []netip.AddrPort
	for a := range set {
		all = append(all, a)
	}
	return netstate.NewTargets(all...).All()
}

// RandomPublish has its first port, and its targets' from 20 ports on, to itself.
func RandomPublish(random *rand.Rand, port uint16) netstate.Publish {
	four := random.IntN(2) == 0
	pick := func(a, b string) string {
		if four {
			return a
		}
		return b
	}
	host := pick("0.0.0.0", "::")
	if random.IntN(2) == 0 {
		host = pick("192.0.2.1", "2001:db8::1")
	}
	p := Publish(host, []string{"tcp", "udp", "sctp"}[random.IntN(3)], port, fmt.Sprintf(pick("10.0.0.2:%d", "[fd00::2]:%d"), port))
	switch random.IntN(5) {
	case 4:
		p.HostPortEnd = port + 1 + uint16(random.IntN(18))
		p.Targets = Targets(fmt.Sprintf(pick("10.0.0.2:%d", "[fd00::2]:%d"), port), fmt.Sprintf(pick("10.0.0.3:%d", "[fd00::3]:%d"), port))
	case 0:
		p.HostPortEnd = port + 1 + uint16(random.IntN(18))
	case 1:
		p.HostPortEnd, p.Targets = port+1+uint16(random.IntN(18)), Targets(fmt.Sprintf(pick("10.0.0.3:%d", "[fd00::3]:%d"), port+5000))
	case 2:
		p.Targets = Targets(fmt.Sprintf(pick("10.0.0.2:%d", "[fd00::2]:%d"), port), fmt.Sprintf(pick("10.0.0.3:%d", "[fd00::3]:%d"), port))
	}
	if random.IntN(3) == 0 {
		p = Back(p)
	}
	switch random.IntN(4) {
	case 0:
		p = From(p)
	case 1:
		p = From(p, pick("10.0.0.0/8", "fd00::/8"), pick("0.0.0.0/0", "2001:db8::/32"))
	}
	return p
}
