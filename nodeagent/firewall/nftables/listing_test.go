package nftables

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/patchbay-dev/patchbay/nodeagent/firewall/book"
	"github.com/patchbay-dev/patchbay/nodeagent/firewall/firewalltest"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
	"github.com/patchbay-dev/patchbay/test/sandbox"
	"sigs.k8s.io/knftables"
)

// TestElements shows what each object wants in the tables.
func TestElements(t *testing.T) {
	var text strings.Builder
	for _, o := range firewalltest.List(firewalltest.Rich()) {
		fmt.Fprintf(&text, "%s: %s\n", o.Key(), o)
		for _, e := range elements(o) {
			fmt.Fprintf(&text, "\t%s", e.ID)
			if e.Value != "" {
				fmt.Fprintf(&text, " : %s", e.Value)
			}
			if e.Note != "" {
				fmt.Fprintf(&text, " (%s)", e.Note)
			}
			text.WriteByte('\n')
		}
	}
	firewalltest.Golden(t, "elements.txt", text.String())
}

// TestInverse has elements and objects as each other's inverse.
func TestInverse(t *testing.T) {
	holds := map[id]book.Held{}
	for _, o := range firewalltest.Rich() {
		for _, e := range elements(o) {
			holds[e.ID] = book.Held{Value: e.Value, Source: netstate.SourceLocal, Note: e.Note}
		}
	}
	got := netstate.Set{}
	b := book.New(sets{}, netstate.SourceLocal, holds)
	for o := range b.Objects() {
		if _, whole := b.Object(o.Key()); !whole {
			t.Errorf("%s %s is not whole", o.Key(), o)
		}
		got.Add(o)
	}
	firewalltest.Same(t, "objects", firewalltest.Rich(), got)
}

// TestDialects reads what versions of nft write differently.
func TestDialects(t *testing.T) {
	for _, c := range []struct{ set, definition string }{
		{setOwnND6, `{"name": "own_nd6", "type": ["ifname", "ether_addr", "integer"]}`},
		{setOwnND6, `{"name": "own_nd6", "type": {"typeof": {"concat": [{"meta": {"key": "iifname"}}]}}}`},
		{"any_ports4", `{"name": "any_ports4", "type": ["inet_proto", "inet_service"], "map": "ipv4_addr . inet_service"}`},
		{"any_ports4", `{"name": "any_ports4", "type": ["inet_proto", "inet_service"], "map": ["ipv4_addr", "inet_service"]}`},
		{"any_slots4", `{"name": "any_slots4", "type": ["inet_proto", "inet_service", "integer"], "map": "ipv4_addr . inet_service"}`},
		{"any_slots4", `{"name": "any_slots4", "type": {"typeof": {"concat": [{"numgen": {"mode": "random", "mod": 120, "offset": 0}}]}}, "map": {"typeof": {"concat": []}}}`},
		{"masq4", `{"name": "masq4", "type": "ipv4_addr", "flags": ["interval"]}`},
		{"masq4", `{"name": "masq4", "type": "ipv4_addr", "flags": "interval"}`},
	} {
		var s listedSet
		if err := json.Unmarshal([]byte(c.definition), &s); err != nil {
			t.Fatal(err)
		}
		if !setByName[c.set].matches(s) {
			t.Errorf("%s is not %s", c.definition, c.set)
		}
	}
	for _, c := range []struct{ set, raw, key string }{
		{setOwnND6, `{"concat": ["veth1", "02:00:00:00:00:01", 61441]}`, "veth1 . 02:00:00:00:00:01 . ::f001"},
		{setOwnND6, `{"concat": ["veth1", "02:00:00:00:00:01", 1311768467463790321]}`, "veth1 . 02:00:00:00:00:01 . ::1234:5678:9abc:def1"},
		{setOwnND6, `{"concat": ["veth1", "02:00:00:00:00:01", "0xfd000000000000000000000000000001"]}`, "veth1 . 02:00:00:00:00:01 . fd00::1"},
		{setAllowedND6, `{"concat": ["veth1", {"range": ["0xfd000000000000000000000000000000", "0xfd00000000000000ffffffffffffffff"]}]}`, "veth1 . fd00::/64"},
		{setAllowedND6, `{"concat": ["veth1", {"range": [61440, 65535]}]}`, "veth1 . ::f000/116"},
		{setAllowedND6, `{"concat": ["veth1", {"prefix": {"addr": 61440, "len": 116}}]}`, "veth1 . ::f000/116"},
		{setAllowedND6, `{"concat": ["veth1", 61441]}`, "veth1 . ::f001/128"},
		{"targets4", `{"concat": ["10.0.0.1", 6, 80]}`, "10.0.0.1 . tcp . 80"},
		{"masq4", `"10.0.0.1"`, "10.0.0.1/32"},
		{"any_slots4", `[{"elem": {"val": {"concat": ["tcp", 80, 60]}, "comment": "local"}}, {"concat": ["10.0.0.1", 80]}]`, "tcp . 80 . 60"},
		{"any_slots4", `[{"concat": [6, 80, "0x3c"]}, {"concat": ["10.0.0.1", 80]}]`, "tcp . 80 . 60"},
		{"any_gates4", `{"concat": ["tcp", {"range": [8000, 8010]}]}`, "tcp . 8000-8010"},
		{"any_gates4", `{"concat": ["tcp", "80"]}`, "tcp . 80"},
		{"addr_sources6", `{"elem": {"val": {"concat": ["2001:db8::1", 17, {"range": ["1", 65535]}, {"prefix": {"addr": "::", "len": 0}}]}, "comment": "local"}}`, "2001:db8::1/128 . udp . 1-65535 . ::/0"},
		{"any_ranges4", `[{"elem": {"val": {"concat": ["tcp", {"range": [8000, 8010]}]}, "comment": "local"}}, "10.0.0.1"]`, "tcp . 8000-8010"},
		{setNoForward, `{"elem": {"val": "ipv6", "comment": "local"}}`, "ipv6"},
	} {
		i, _, err := parseElement(setByName[c.set], json.RawMessage(c.raw))
		if err != nil || i.key != c.key {
			t.Errorf("%s is %q, %v; want %q", c.raw, i.key, err, c.key)
		}
	}
}

// TestRangesAreRefused has texts that are no ranges of ports.
func TestRangesAreRefused(t *testing.T) {
	for _, raw := range []string{`{"range": []}`, `{"range": [1]}`, `{"range": [1, 2, 3]}`, `{"range": [1, 65536]}`, `{"range": ["a", 2]}`, `{"range": [{"range": [1, 2]}, {}]}`, `{"range": null}`, `{}`} {
		if text, err := parsePorts(json.RawMessage(raw)); err == nil {
			t.Errorf("%s is %s", raw, text)
		}
	}
}

// TestInverseAtRandom makes elements of publishes of all shapes, and publishes of
// these again.
func TestInverseAtRandom(t *testing.T) {
	random := rand.New(rand.NewPCG(5, 5))
	for range 200 {
		want, holds := netstate.Set{}, map[id]book.Held{}
		for port := uint16(1000); port < 1200; port += 20 {
			p := firewalltest.RandomPublish(random, port)
			if err := book.Check(p); err != nil {
				t.Fatalf("%s %s: %v", p.Key(), p, err)
			}
			want.Add(p)
			for _, e := range elements(p) {
				holds[e.ID] = book.Held{Value: e.Value, Source: netstate.SourceLocal, Note: e.Note}
			}
		}
		got, b := netstate.Set{}, book.New(sets{}, netstate.SourceLocal, holds)
		for o := range b.Objects() {
			if _, whole := b.Object(o.Key()); !whole {
				t.Errorf("%s %s is not whole", o.Key(), o)
			}
			got.Add(o)
		}
		firewalltest.Same(t, "publishes", want, got)
	}
}

// TestLargeTarget has a target that nft prints as a number.
func TestLargeTarget(t *testing.T) {
	if !sandbox.Enter(t) {
		return
	}
	o := netstate.PortAddress{Link: "veth1", MAC: firewalltest.MacA, Addr: firewalltest.Addr("::1234:5678:9abc:def1")}
	firewalltest.Apply(t, newBackend(t, netstate.SourceLocal), firewalltest.Creates(o))
	firewalltest.Same(t, "held", netstate.Set{}.Add(o), newLoaded(t, netstate.SourceLocal).Held())
}

func FuzzElement(f *testing.F) {
	for i, d := range setDefs {
		f.Add(i, `{"elem": {"val": {"concat": ["veth1", "02:00:00:00:00:01", 61441]}, "comment": "local br-red"}}`)
		f.Add(i, `[{"elem": {"val": {"concat": ["tcp", 80]}, "comment": "`+d.name+`"}}, {"concat": ["10.68.0.2", 8080]}]`)
	}
	for i := range setDefs {
		f.Add(i, `{"elem": {"val": {"concat": ["192.0.2.1", "tcp", {"range": [8000, 8010]}, {"prefix": {"addr": "10.0.0.0", "len": 8}}]}, "comment": "local 8000-8010"}}`)
		f.Add(i, `[{"elem": {"val": {"concat": ["tcp", {"range": [8000, 8010]}]}, "comment": "local 8000-8010"}}, "10.68.0.2"]`)
		f.Add(i, `[{"elem": {"val": {"concat": ["tcp", 8001]}, "comment": "local 8000-8010"}}, {"concat": ["10.68.0.2", 0]}]`)
	}
	f.Add(0, `{"elem": {"val": {"prefix": {"addr": "10.0.0.0", "len": 24}}, "comment": "cluster"}}`)
	f.Fuzz(func(t *testing.T, n int, raw string) {
		d := &setDefs[uint(n)%uint(len(setDefs))]
		i, h, err := parseElement(d, json.RawMessage(raw))
		if err != nil {
			return
		}
		holds := map[id]book.Held{i: h}
		for _, o := range book.New(sets{}, h.Source, holds).All() {
			if k, known := (sets{}).KeyOf(i, h); !known || o.Key() != k || book.Check(o) != nil {
				t.Errorf("%s makes %s with the key %s", raw, o.Key(), k)
			}
		}
		if text := strings.Join(script(d.key, i.key), "\n") + commentOf(h); strings.ContainsAny(text, "{};#") {
			t.Errorf("%s would be written as %s", raw, text)
		}
	})
}

func FuzzTable(f *testing.F) {
	f.Add(`{"nftables": [{"metainfo": {"json_schema_version": 1}}, {"table": {"name": "patchbay"}},
		{"set": {"table": "patchbay", "name": "ours", "type": "ifname", "elem": [{"elem": {"val": "br-red", "comment": "local"}}]}},
		{"chain": {"name": "forward", "prio": 0}}, {"rule": {"chain": "forward", "comment": "x"}}]}`)
	f.Fuzz(func(t *testing.T, text string) {
		for _, family := range families {
			tab, err := parseTable(family, []byte(text))
			if err != nil {
				continue
			}
			m := newMemory(netstate.SourceLocal, map[knftables.Family]table{family: tab})
			changes, _, err := m.apply(firewalltest.Deletes(slices.Collect(m.Objects())...))
			if err != nil {
				t.Fatal(err)
			}
			m.script(changes)
		}
	})
}
