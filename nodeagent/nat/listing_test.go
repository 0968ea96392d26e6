package nat

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
	"github.com/patchbay-dev/patchbay/test/sandbox"
	"golang.org/x/sys/unix"
)

// TestElements shows what each object wants in the tables.
func TestElements(t *testing.T) {
	var text strings.Builder
	for _, o := range list(rich()) {
		fmt.Fprintf(&text, "%s: %s\n", o.Key(), o)
		for _, e := range elements(o) {
			fmt.Fprintf(&text, "\t%s", e.id)
			if e.value != "" {
				fmt.Fprintf(&text, " : %s", e.value)
			}
			if e.note != "" {
				fmt.Fprintf(&text, " (%s)", e.note)
			}
			text.WriteByte('\n')
		}
	}
	golden(t, "elements.txt", text.String())
}

// TestInverse has elements and objects as each other's inverse.
func TestInverse(t *testing.T) {
	holds := map[id]held{}
	for _, o := range rich() {
		for _, e := range elements(o) {
			holds[e.id] = held{e.value, netstate.SourceLocal, e.note}
		}
	}
	got := netstate.Set{}
	for _, e := range objects(holds, holds) {
		if !e.exact {
			t.Errorf("%s %s is not exact", e.object.Key(), e.object)
		}
		got.Add(e.object)
	}
	same(t, "objects", rich(), got)
}

// TestDialects reads what versions of nft write differently.
func TestDialects(t *testing.T) {
	for _, c := range []struct{ set, definition string }{
		{setND6, `{"name": "ok_nd6", "type": ["ifname", "ether_addr", "integer"]}`},
		{setND6, `{"name": "ok_nd6", "type": {"typeof": {"concat": [{"meta": {"key": "iifname"}}]}}}`},
		{mapAny4, `{"name": "any4", "type": ["inet_proto", "inet_service"], "map": "ipv4_addr . inet_service"}`},
		{mapAny4, `{"name": "any4", "type": ["inet_proto", "inet_service"], "map": ["ipv4_addr", "inet_service"]}`},
		{mapAny4Slots, `{"name": "any4slots", "type": ["inet_proto", "inet_service", "integer"], "map": "ipv4_addr . inet_service"}`},
		{mapAny4Slots, `{"name": "any4slots", "type": {"typeof": {"concat": [{"numgen": {"mode": "random", "mod": 120, "offset": 0}}]}}, "map": {"typeof": {"concat": []}}}`},
		{setMasq4, `{"name": "snet4", "type": "ipv4_addr", "flags": ["interval"]}`},
		{setMasq4, `{"name": "snet4", "type": "ipv4_addr", "flags": "interval"}`},
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
		{setND6, `{"concat": ["veth1", "02:00:00:00:00:01", 61441]}`, "veth1 . 02:00:00:00:00:01 . ::f001"},
		{setND6, `{"concat": ["veth1", "02:00:00:00:00:01", 1311768467463790321]}`, "veth1 . 02:00:00:00:00:01 . ::1234:5678:9abc:def1"},
		{setND6, `{"concat": ["veth1", "02:00:00:00:00:01", "0xfd000000000000000000000000000001"]}`, "veth1 . 02:00:00:00:00:01 . fd00::1"},
		{setAllowedND6, `{"concat": ["veth1", {"range": ["0xfd000000000000000000000000000000", "0xfd00000000000000ffffffffffffffff"]}]}`, "veth1 . fd00::/64"},
		{setAllowedND6, `{"concat": ["veth1", {"range": [61440, 65535]}]}`, "veth1 . ::f000/116"},
		{setAllowedND6, `{"concat": ["veth1", {"prefix": {"addr": 61440, "len": 116}}]}`, "veth1 . ::f000/116"},
		{setAllowedND6, `{"concat": ["veth1", 61441]}`, "veth1 . ::f001/128"},
		{setTarget4, `{"concat": ["10.0.0.1", 6, 80]}`, "10.0.0.1 . tcp . 80"},
		{setMasq4, `"10.0.0.1"`, "10.0.0.1/32"},
		{mapAny4Slots, `[{"elem": {"val": {"concat": ["tcp", 80, 60]}, "comment": "local"}}, {"concat": ["10.0.0.1", 80]}]`, "tcp . 80 . 60"},
		{mapAny4Slots, `[{"concat": [6, 80, "0x3c"]}, {"concat": ["10.0.0.1", 80]}]`, "tcp . 80 . 60"},
		{setAnyGate4, `{"concat": ["tcp", {"range": [8000, 8010]}]}`, "tcp . 8000-8010"},
		{setAnyGate4, `{"concat": ["tcp", "80"]}`, "tcp . 80"},
		{setPubFrom6, `{"elem": {"val": {"concat": ["2001:db8::1", 17, {"range": ["1", 65535]}, {"prefix": {"addr": "::", "len": 0}}]}, "comment": "local"}}`, "2001:db8::1/128 . udp . 1-65535 . ::/0"},
		{mapAny4Range, `[{"elem": {"val": {"concat": ["tcp", {"range": [8000, 8010]}]}, "comment": "local"}}, "10.0.0.1"]`, "tcp . 8000-8010"},
		{setNoForward, `{"elem": {"val": "ipv6", "comment": "local"}}`, "ipv6"},
	} {
		i, _, err := parseElement(setByName[c.set], json.RawMessage(c.raw))
		if err != nil || i.key != c.key {
			t.Errorf("%s is %q, %v; want %q", c.raw, i.key, err, c.key)
		}
	}
}

// TestRangesAreRefused has what is no range of ports.
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
		want, holds := netstate.Set{}, map[id]held{}
		for port := uint16(1000); port < 1200; port += 20 {
			p := randomPublish(random, port)
			if err := validate(p); err != nil {
				t.Fatalf("%s %s: %v", p.Key(), p, err)
			}
			want.Add(p)
			for _, e := range elements(p) {
				holds[e.id] = held{e.value, netstate.SourceLocal, e.note}
			}
		}
		got := netstate.Set{}
		for _, e := range objects(holds, holds) {
			if !e.exact {
				t.Errorf("%s %s is not exact", e.object.Key(), e.object)
			}
			got.Add(e.object)
		}
		same(t, "publishes", want, got)
	}
}

// randomPublish has its first port, and its targets' from 20 ports on, to itself.
func randomPublish(random *rand.Rand, port uint16) netstate.Publish {
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
	p := publish(host, []string{"tcp", "udp", "sctp"}[random.IntN(3)], port, fmt.Sprintf(pick("10.0.0.2:%d", "[fd00::2]:%d"), port))
	switch random.IntN(5) {
	case 4:
		p.HostPortEnd = port + 1 + uint16(random.IntN(18))
		p.Targets = targets(fmt.Sprintf(pick("10.0.0.2:%d", "[fd00::2]:%d"), port), fmt.Sprintf(pick("10.0.0.3:%d", "[fd00::3]:%d"), port))
	case 0:
		p.HostPortEnd = port + 1 + uint16(random.IntN(18))
	case 1:
		p.HostPortEnd, p.Targets = port+1+uint16(random.IntN(18)), targets(fmt.Sprintf(pick("10.0.0.3:%d", "[fd00::3]:%d"), port+5000))
	case 2:
		p.Targets = targets(fmt.Sprintf(pick("10.0.0.2:%d", "[fd00::2]:%d"), port), fmt.Sprintf(pick("10.0.0.3:%d", "[fd00::3]:%d"), port))
	}
	if random.IntN(3) == 0 {
		p = back(p)
	}
	switch random.IntN(4) {
	case 0:
		p = from(p)
	case 1:
		p = from(p, pick("10.0.0.0/8", "fd00::/8"), pick("0.0.0.0/0", "2001:db8::/32"))
	}
	return p
}

// TestLargeTarget has a target of which nft makes a number.
func TestLargeTarget(t *testing.T) {
	if !sandbox.Enter(t) {
		return
	}
	o := netstate.PortAddress{Link: "veth1", MAC: macA, Addr: addr("::1234:5678:9abc:def1")}
	apply(t, backend(t, netstate.SourceLocal), creates(o))
	same(t, "held", netstate.Set{}.Add(o), loaded(t, netstate.SourceLocal).Held())
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
		holds := map[id]held{i: h}
		for k, e := range objects(holds, holds) {
			if e.object.Key() != k || validate(e.object) != nil {
				t.Errorf("%s makes %s with the key %s", raw, e.object.Key(), k)
			}
		}
		if text := strings.Join(script(d.key, i.key), "\n") + h.comment(); strings.ContainsAny(text, "{};#") {
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
			m := newMemory(netstate.SourceLocal)
			m.take(family, tab)
			m.understand()
			changes, _, err := m.apply(deletes(list(heldBy(m))...))
			if err != nil {
				t.Fatal(err)
			}
			m.script(changes)
		}
	})
}

func heldBy(m memory) netstate.Set {
	s := netstate.Set{}
	for _, e := range m.entries {
		s.Add(e.object)
	}
	return s
}

// message is a netlink message with one attribute.
func message(kind uint16, family byte, attribute uint16, value []byte) []byte {
	b := []byte{family, 0, 0, 0}
	b = binary.NativeEndian.AppendUint16(b, uint16(4+len(value)))
	b = binary.NativeEndian.AppendUint16(b, attribute)
	b = append(b, value...)
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	h := binary.NativeEndian.AppendUint32(nil, uint32(16+len(b)))
	h = binary.NativeEndian.AppendUint16(h, unix.NFNL_SUBSYS_NFTABLES<<8|kind)
	return append(append(h, make([]byte, 10)...), b...)
}

func TestEvents(t *testing.T) {
	name := []byte(tableName + "\x00")
	generation := func(n byte) []byte {
		return message(unix.NFT_MSG_NEWGEN, 0, unix.NFTA_GEN_ID, []byte{0, 0, 0, n})
	}
	e := events{look: ours}
	ended, touched, _ := e.parse(append(message(unix.NFT_MSG_NEWTABLE, unix.NFPROTO_INET, 1, []byte("other\x00")), generation(5)...))
	same(t, "another table", []any{uint32(5), 0}, []any{ended, len(touched)})
	ended, touched, _ = e.parse(append(message(unix.NFT_MSG_NEWRULE, unix.NFPROTO_IPV4, 1, name), generation(6)...))
	same(t, "another family", []any{uint32(6), 0}, []any{ended, len(touched)})
	ended, touched, _ = e.parse(message(unix.NFT_MSG_DELSETELEM, unix.NFPROTO_BRIDGE, 1, name))
	same(t, "not yet ended", []any{uint32(0), 0}, []any{ended, len(touched)})
	ended, touched, _ = e.parse(append(generation(7), generation(8)...))
	same(t, "ended", []any{uint32(8), []uint32{7}}, []any{ended, touched})
}

func FuzzEvents(f *testing.F) {
	f.Add(message(unix.NFT_MSG_NEWRULE, unix.NFPROTO_INET, 1, []byte(tableName+"\x00")), message(unix.NFT_MSG_NEWGEN, 0, unix.NFTA_GEN_ID, []byte{0, 0, 0, 1}))
	f.Fuzz(func(t *testing.T, first, second []byte) {
		chains := &iptables{}
		for _, look := range []look{ours, aboutIPTables, chains.look} {
			e := events{look: look}
			e.parse(first)
			e.parse(second)
		}
	})
}

func FuzzConnection(f *testing.F) {
	f.Add([]byte{2, 0, 0, 0, 52, 0, 1, 128, 20, 0, 1, 128, 8, 0, 1, 0, 10, 0, 0, 1, 8, 0, 2, 0, 10, 0, 0, 2,
		28, 0, 2, 128, 5, 0, 1, 0, 17, 0, 0, 0, 6, 0, 2, 0, 0, 53, 0, 0, 6, 0, 3, 0, 0, 53, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) { parseConnection(b) })
}
