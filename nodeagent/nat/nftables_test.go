package nat

import (
	"context"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
	"github.com/patchbay-dev/patchbay/nodeagent/plan"
	"github.com/patchbay-dev/patchbay/test/sandbox"
)

var update = flag.Bool("update", false, "write the expected files anew")

// TestMain hands -update on into the sandbox.
func TestMain(m *testing.M) {
	flag.Parse()
	if *update {
		os.Setenv("PATCHBAY_UPDATE", "1")
	}
	*update = os.Getenv("PATCHBAY_UPDATE") != ""
	os.Exit(m.Run())
}

var (
	addr   = netip.MustParseAddr
	prefix = netip.MustParsePrefix
	macA   = netstate.MAC{2, 0x42, 10, 68, 0, 101}
	macB   = netstate.MAC{2, 0x42, 10, 68, 0, 102}
)

// rich has every kind of object in every variant.
func rich() netstate.Set {
	return netstate.Set{}.Add(
		netstate.Realm{Link: "br-red", Guarded: true},
		netstate.Realm{Link: "br-blue", Guarded: true, Isolated: true},
		netstate.Realm{Link: "br-open"},
		netstate.Realm{Link: "veth1.p_2-x", Isolated: true},
		netstate.ForwardGuard{Family: netstate.IPv4},
		netstate.ForwardGuard{Family: netstate.IPv6},
		netstate.ForeignBridge{Link: "br-other"},
		netstate.PortFilter{Link: "veth1", MAC: macA},
		netstate.PortAddress{Link: "veth1", MAC: macA, Addr: addr("10.68.0.101")},
		netstate.PortAddress{Link: "veth1", MAC: macA, Addr: addr("fd00:68::101")},
		netstate.AllowedMAC{Link: "veth1", MAC: netstate.MAC{0, 0, 0x5e, 0, 1, 0x33}},
		netstate.AllowedPrefix{Link: "veth1", Prefix: prefix("10.68.0.200/32")},
		netstate.AllowedPrefix{Link: "veth1", Prefix: prefix("172.20.0.0/14")},
		netstate.AllowedPrefix{Link: "veth1", Prefix: prefix("fd00:68::200/128")},
		netstate.AllowedPrefix{Link: "veth1", Prefix: prefix("::f000/116")},
		netstate.DHCPClient{Link: "veth2"},
		netstate.PortFilter{Link: "veth2", MAC: macB},
		netstate.PortAddress{Link: "veth2", MAC: macB, Addr: addr("::f001")},
		netstate.Masquerade{Link: "br-red", Subnet: prefix("10.68.0.0/24"), Egress: true},
		netstate.Masquerade{Link: "br-red", Subnet: prefix("fd00:68::/64"), Egress: true},
		netstate.Masquerade{Link: "br-blue", Subnet: prefix("10.69.0.0/24")},
		netstate.Masquerade{Link: "br-open", Subnet: prefix("10.70.0.0/24"), Egress: true, Source: addr("192.0.2.7")},
		netstate.Masquerade{Link: "br-open", Subnet: prefix("fd00:70::/64"), Egress: true, Source: addr("2001:db8::7")},
		netstate.Masquerade{Link: "veth1.p_2-x", Subnet: prefix("10.71.0.1/32"), Egress: true},
		netstate.NoMasquerade{Link: "br-red", Subnet: prefix("10.68.0.0/24"), Dst: prefix("10.0.0.0/8")},
		netstate.NoMasquerade{Link: "br-red", Subnet: prefix("10.68.0.0/24"), Dst: prefix("192.0.2.9/32")},
		netstate.NoMasquerade{Link: "br-red", Subnet: prefix("fd00:68::/64"), Dst: prefix("fd00::/8")},
		netstate.WayBack{Link: "wan1", Realm: "br-red", Way: 1},
		netstate.WayBack{Link: "wan2", Realm: "br-red", Way: 2},
		netstate.WayBack{Link: "wan2", Realm: "br-blue", Way: 2},
		netstate.WayBack{Link: "wan-3", Realm: "veth1.p_2-x", Way: 3},
		publish("0.0.0.0", "tcp", 8001, "10.68.0.101:80"),
		publish("192.0.2.1", "tcp", 8001, "10.68.0.102:80"),
		publish("0.0.0.0", "tcp", 8002, "10.68.0.101:80"),
		publish("0.0.0.0", "udp", 53, "10.68.0.101:53"),
		publish("0.0.0.0", "sctp", 9, "10.68.0.101:9"),
		publish("::", "tcp", 8001, "[fd00:68::101]:80"),
		publish("2001:db8::1", "udp", 53, "[fd00:68::101]:53"),
		back(publish("0.0.0.0", "tcp", 8003, "10.68.0.103:80")),
		back(publish("::", "tcp", 8003, "[fd00:68::103]:80")),
		partlyBack(balance("0.0.0.0", "tcp", 8004, "10.68.0.101:80", "10.68.0.103:80", "10.68.0.104:80"), "10.68.0.103:80"),
		balance("192.0.2.1", "udp", 8004, "10.68.0.101:80", "10.68.0.102:80"),
		balance("::", "tcp", 8004, "[fd00:68::101]:80", "[fd00:68::102]:80"),
		balance("2001:db8::1", "sctp", 8004, "[fd00:68::101]:80", "[fd00:68::102]:80"),
	).Add(richRanges()...).Add(richGates()...)
}

// richRanges overlap each other in all that does not make them conflict.
func richRanges() []netstate.Object {
	return []netstate.Object{
		ranged("0.0.0.0", "tcp", 9000, 9010, "10.68.0.101:9000"),
		ranged("192.0.2.1", "tcp", 9005, 9015, "10.68.0.101:9005"),
		back(ranged("192.0.2.2", "tcp", 9000, 9007, "10.68.0.101:9000")),
		back(ranged("0.0.0.0", "udp", 20000, 65535, "10.68.0.103:20000")),
		ranged("0.0.0.0", "sctp", 9000, 9003, "10.68.0.101:8000"),
		back(ranged("192.0.2.1", "udp", 9000, 9001, "10.68.0.103:53")),
		ranged("::", "tcp", 9000, 9010, "[fd00:68::101]:9000"),
		back(ranged("2001:db8::1", "tcp", 9005, 9015, "[fd00:68::101]:9005")),
		back(ranged("::", "udp", 9000, 9010, "[fd00:68::103]:9000")),
		ranged("::", "sctp", 9000, 9003, "[fd00:68::101]:8000"),
		ranged("2001:db8::1", "udp", 9000, 9001, "[fd00:68::101]:53"),
	}
}

// richGates are gates of every shape of a publish, and what needs them.
func richGates() []netstate.Object {
	return []netstate.Object{
		netstate.LoopbackGuard{Link: "br-red"},
		publish("127.0.0.1", "tcp", 8001, "10.68.0.101:80"),
		from(publish("0.0.0.0", "tcp", 8010, "10.68.0.101:80"), "10.0.0.0/8", "192.0.2.9/32", "198.51.100.0/25", "198.51.100.128/25"),
		from(publish("192.0.2.1", "tcp", 8010, "10.68.0.102:80"), "0.0.0.0/0"),
		from(ranged("0.0.0.0", "tcp", 9100, 9110, "10.68.0.101:9100"), "10.0.0.0/8"),
		from(ranged("192.0.2.1", "tcp", 9100, 9103, "10.68.0.101:80"), "10.0.0.0/8", "172.16.0.0/12"),
		from(balance("0.0.0.0", "udp", 8010, "10.68.0.101:81", "10.68.0.102:81"), "10.0.0.0/8"),
		from(publish("::", "tcp", 8010, "[fd00:68::101]:80"), "2001:db8::/32", "fd00::1/128"),
		from(ranged("2001:db8::1", "tcp", 9100, 9110, "[fd00:68::101]:9100"), "::/0"),
		from(publish("2001:db8::1", "udp", 8010, "[fd00:68::101]:80")),
		from(publish("::", "sctp", 8010, "[fd00:68::101]:80")),
	}
}

func ranged(host, proto string, first, last uint16, target string) netstate.Publish {
	p := publish(host, proto, first, target)
	p.HostPortEnd = last
	return p
}

// from lets in the given sources, or nobody.
func from(p netstate.Publish, list ...string) netstate.Publish {
	var sources []netip.Prefix
	for _, s := range list {
		sources = append(sources, prefix(s))
	}
	p.Sources = netstate.NewSources(sources...)
	return p
}

func publish(host, proto string, port uint16, target string) netstate.Publish {
	return netstate.Publish{Host: addr(host), Proto: proto, HostPort: port, Targets: targets(target)}
}

func targets(list ...string) netstate.Targets {
	var all []netip.AddrPort
	for _, t := range list {
		all = append(all, netip.MustParseAddrPort(t))
	}
	return netstate.NewTargets(all...)
}

// balance is a publish with several targets.
func balance(host, proto string, port uint16, list ...string) netstate.Publish {
	return netstate.Publish{Host: addr(host), Proto: proto, HostPort: port, Targets: targets(list...)}
}

func partlyBack(p netstate.Publish, list ...string) netstate.Publish {
	p.Back = targets(list...)
	return p
}

func back(p netstate.Publish) netstate.Publish {
	p.Back = p.Targets
	return p
}

// creates, deletes and updates are steps as plan makes them.
func creates(objects ...netstate.Object) (steps []plan.Step) {
	for _, o := range objects {
		steps = append(steps, plan.Step{Op: plan.Create, Key: o.Key(), New: o})
	}
	return steps
}

func deletes(objects ...netstate.Object) (steps []plan.Step) {
	for _, o := range objects {
		steps = append(steps, plan.Step{Op: plan.Delete, Key: o.Key(), Old: o})
	}
	return steps
}

func updates(old, now netstate.Object) []plan.Step {
	return []plan.Step{{Op: plan.Update, Key: now.Key(), Old: old, New: now}}
}

func list(s netstate.Set) (objects []netstate.Object) {
	for _, k := range s.Keys() {
		objects = append(objects, s[k])
	}
	return objects
}

// backend lets nothing that netlink is refused fall to nft unnoticed.
func backend(t testing.TB, source netstate.Source) *nftables {
	t.Helper()
	made, err := New(KindNFTables, Options{Source: source})
	if err != nil {
		t.Fatal(err)
	}
	b := made.(*nftables)
	b.commit = func(edits []edit) error {
		err := commit(edits)
		if err != nil {
			t.Errorf("refused: %v", err)
		}
		return err
	}
	return b
}

// loaded is a backend that has just read the kernel.
func loaded(t testing.TB, source netstate.Source) *nftables {
	t.Helper()
	b := backend(t, source)
	if err := b.Load(context.Background()); err != nil {
		t.Fatal(err)
	}
	return b
}

func apply(t testing.TB, b Backend, steps ...[]plan.Step) {
	t.Helper()
	var all []plan.Step
	for _, s := range steps {
		all = append(all, s...)
	}
	if err := b.Apply(context.Background(), all); err != nil {
		t.Fatal(err)
	}
}

func run(t testing.TB, command string) string {
	t.Helper()
	out, err := exec.Command("sh", "-ec", command).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", command, err, out)
	}
	return string(out)
}

var (
	listedElements = regexp.MustCompile(`(?s)elements = \{ .*? \}\n`)
	listedCounts   = regexp.MustCompile(`packets \d+ bytes \d+`)
)

// ruleset lists all of nftables, tables and elements sorted since the kernel's
// order is that of their making or none, and counters at zero.
func ruleset(t testing.TB) string {
	t.Helper()
	tables := strings.SplitAfter(run(t, "nft list ruleset"), "\n}\n")
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
	return listedCounts.ReplaceAllString(text, "packets 0 bytes 0")
}

func same(t testing.TB, what string, want, got any) {
	t.Helper()
	if d := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
		cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }), cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); d != "" {
		t.Errorf("%s differs (-want +got):\n%s", what, d)
	}
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	same(t, file, string(want), got)
}

func TestRuleset(t *testing.T) {
	if !sandbox.Enter(t) {
		return
	}
	b := backend(t, netstate.SourceLocal)
	apply(t, b, creates(list(rich())...))
	// nft 1.1 names what 1.0 shows as numbers.
	old := strings.NewReplacer("hook output priority dstnat + 5;", "hook output priority -95;", "icmpv6 taddr", "@th,64,128")
	golden(t, "ruleset.nft", old.Replace(ruleset(t)))
	same(t, "transactions", uint64(1), b.Transactions())
}

func TestRoundTrip(t *testing.T) {
	if !sandbox.Enter(t) {
		return
	}
	eachKind(t, roundTrip)
}

func roundTrip(t *testing.T, k kind) {
	b := k.open(t, netstate.SourceLocal)
	want := netstate.Set{}.Add(able(b, rich())...)
	apply(t, b, creates(list(want)...))
	same(t, "what it observes after Apply", want, b.Observe(want.Keys()))
	gen := generation(t)
	again := k.loaded(t, netstate.SourceLocal)
	same(t, "what another observes after Load", want, again.Observe(want.Keys()))
	same(t, "what it holds", want, again.Held())
	same(t, "intact", true, again.Intact())
	apply(t, b, creates(list(want)...))
	apply(t, again, creates(list(want)...))
	apply(t, again)
	same(t, "transactions of the second", uint64(0), again.Transactions())
	same(t, "generation", gen, generation(t))
	apply(t, again, deletes(list(want)...))
	same(t, "what is left", "", firewall(t))
	same(t, "what it holds at the end", netstate.Set{}, again.Held())
}

func generation(t testing.TB) uint32 {
	t.Helper()
	g, err := Generation()
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func TestThousands(t *testing.T) {
	if !sandbox.Enter(t) {
		return
	}
	want := netstate.Set{}
	for i := range 2000 {
		want.Add(publish("0.0.0.0", "tcp", uint16(20000+i), fmt.Sprintf("10.68.%d.%d:80", i/250, 1+i%250)))
	}
	b := backend(t, netstate.SourceLocal)
	apply(t, b, creates(list(want)...))
	same(t, "transactions", uint64(5), b.Transactions())
	// While the kernel's worker enlarges the table of a set, a dump lacks some of it.
	again := loaded(t, netstate.SourceLocal)
	for end := time.Now().Add(10 * time.Second); len(again.Observe(want.Keys())) < len(want) && time.Now().Before(end); {
		again = loaded(t, netstate.SourceLocal)
	}
	same(t, "observed", len(want), len(again.Observe(want.Keys())))

	whole := ruleset(t)
	run(t, "nft add set inet patchbay mine '{ type mark; }'")
	repair(t, b, want)
	same(t, "transactions of making it anew", uint64(10), b.Transactions())
	same(t, "ruleset made anew", whole, ruleset(t))
	last := want.Keys()[1999]
	apply(t, again, deletes(list(want)[:1999]...))
	same(t, "what is left", netstate.Set{}.Add(want[last]), loaded(t, netstate.SourceLocal).Held())
	apply(t, again, deletes(want[last]))
	same(t, "ruleset", "", ruleset(t))
}
