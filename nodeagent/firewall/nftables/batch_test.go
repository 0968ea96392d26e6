package nftables

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/patchbay-dev/patchbay/nodeagent/firewall/book"
	"github.com/patchbay-dev/patchbay/nodeagent/firewall/firewalltest"
	"github.com/patchbay-dev/patchbay/nodeagent/firewall/nfnl"
	"github.com/patchbay-dev/patchbay/nodeagent/firewall/program"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
	"github.com/patchbay-dev/patchbay/nodeagent/plan"
	"github.com/patchbay-dev/patchbay/test/netlab"
	"github.com/patchbay-dev/patchbay/test/sandbox"
	"golang.org/x/sys/unix"
	"sigs.k8s.io/knftables"
)

// randomPart is a part of a key or value in canonical text.
func randomPart(random *rand.Rand, f field, interval bool) any {
	bytes := make([]byte, 16)
	for i := range bytes {
		bytes[i] = byte(random.Uint32())
	}
	switch f {
	case fieldLink:
		return "v.-_ABCxyz"[:1+random.IntN(10)] + fmt.Sprintf("%05d", random.IntN(1e5))
	case fieldMAC:
		return netstate.MAC(bytes[:6])
	case fieldIPv4:
		if interval {
			return netip.PrefixFrom(netip.AddrFrom4([4]byte(bytes)), 32)
		}
		return netip.AddrFrom4([4]byte(bytes))
	case fieldIPv6:
		if interval {
			return netip.PrefixFrom(netip.AddrFrom16([16]byte(bytes)), 128)
		}
		return netip.AddrFrom16([16]byte(bytes))
	case fieldTarget:
		// Leading zeros and small numbers are listed in their own way.
		clear(bytes[:random.IntN(16)])
		return netip.AddrFrom16([16]byte(bytes))
	case fieldProto:
		return []string{"tcp", "udp", "sctp"}[random.IntN(3)]
	case fieldPort:
		return 1 + random.IntN(65535)
	case fieldFamily:
		return []netstate.Family{netstate.IPv4, netstate.IPv6}[random.IntN(2)]
	case fieldSlot:
		return random.IntN(netstate.MaxTargets)
	}
	panic("no random " + f)
}

// randomEdits add elements with all kinds of comments.
func randomEdits(random *rand.Rand, d *setDef, n int) []edit {
	part := func(f field) any { return randomPart(random, f, d.interval) }
	value := func(f field) any { return randomPart(random, f, false) }
	seen := map[string]bool{}
	var edits []edit
	for range n {
		var h book.Held
		key := join(each(d.key, part))
		if d.value != nil {
			h.Value = join(each(d.value, value))
		}
		h.Source = []netstate.Source{netstate.SourceLocal, netstate.SourceCluster, ""}[random.IntN(3)]
		if h.Source != "" && random.IntN(2) == 0 {
			h.Note = fmt.Sprint(randomPart(random, fieldLink, false))
		}
		if !seen[key] {
			edits = append(edits, edit{id: id{d.name, key}, Held: h})
		}
		seen[key] = true
	}
	return edits
}

func each[T, U any](list []T, of func(T) U) []U {
	out := make([]U, len(list))
	for i, f := range list {
		out[i] = of(f)
	}
	return out
}

// reverse are the edits that remove what the given ones add, in another order.
func reverse(edits []edit) []edit {
	var out []edit
	for _, e := range slices.Backward(edits) {
		out = append(out, edit{id: e.id, remove: true})
	}
	return out
}

// byNft makes the edits as it is done without netlink.
func byNft(b *backend, edits []edit) error {
	var statements []statement
	for _, e := range edits {
		statements = append(statements, e)
	}
	text, err := scriptOf(statements)
	if err == nil {
		_, err = program.Run(context.Background(), text, b.path, "-f", "-")
	}
	return err
}

// tables makes both tables without elements.
func tables(t testing.TB, b *backend) {
	t.Helper()
	for _, f := range families {
		if err := b.write(t.Context(), []unit{createTable(f)}); err != nil {
			t.Fatal(err)
		}
	}
}

// content is what nft lists of a set's elements, in JSON and in the kernel's
// bytes, each sorted since the order is the kernel's.
func content(t testing.TB, d *setDef) (listed, bytes []string) {
	t.Helper()
	kind := "set"
	if d.value != nil {
		kind = "map"
	}
	name := fmt.Sprintf("list %s %s %s %s", kind, d.family, nfnl.OwnTable, d.name)
	var l listing
	if err := json.Unmarshal([]byte(netlab.Shell(t, "nft -j "+name)), &l); err != nil {
		t.Fatal(err)
	}
	for _, o := range l.Objects {
		for _, s := range []*listedSet{o.Set, o.Map} {
			if s != nil {
				listed = append(listed, each(s.Elem, func(e json.RawMessage) string { return string(e) })...)
			}
		}
	}
	for line := range strings.Lines(netlab.Shell(t, "nft --debug=netlink "+name)) {
		if strings.HasPrefix(line, "\telement ") {
			bytes = append(bytes, line)
		}
	}
	slices.Sort(listed)
	slices.Sort(bytes)
	return listed, bytes
}

// TestBatchAsNft has nft and netlink make the same elements, and each remove the
// other's.
func TestBatchAsNft(t *testing.T) {
	if !sandbox.Enter(t) {
		return
	}
	b := newBackend(t, netstate.SourceLocal)
	tables(t, b)
	random := rand.New(rand.NewPCG(5, 3))
	for i := range setDefs {
		d := &setDefs[i]
		edits := randomEdits(random, d, 60)
		if _, ok := onlyEdits(unit{edits[0]}); ok == d.interval {
			t.Errorf("%s goes by netlink: %t", d.name, ok)
		}
		if d.interval {
			continue
		}
		t.Run(d.name, func(t *testing.T) {
			listed, bytes := map[string][]string{}, map[string][]string{}
			nft, netlink := func(e []edit) error { return byNft(b, e) }, commit
			for _, way := range []struct {
				name        string
				add, remove func([]edit) error
			}{{"nft", nft, netlink}, {"netlink", netlink, nft}, {"netlink alone", netlink, netlink}} {
				if err := way.add(edits); err != nil {
					t.Fatal(err)
				}
				listed[way.name], bytes[way.name] = content(t, d)
				if err := way.remove(reverse(edits)); err != nil {
					t.Fatal(err)
				}
				if left, _ := content(t, d); len(left) > 0 {
					t.Errorf("%s left %q", way.name, left)
				}
			}
			firewalltest.Same(t, "number of elements", []int{len(edits), len(edits)}, []int{len(listed["nft"]), len(bytes["nft"])})
			firewalltest.Same(t, "listing of netlink's elements, beside nft's,", listed["nft"], listed["netlink"])
			firewalltest.Same(t, "bytes of netlink's elements, beside nft's,", bytes["nft"], bytes["netlink"])
		})
	}
}

// TestBatchWithoutNft builds and removes the elements of an attachment and a publish on a
// node that has further ones, without a run of nft.
func TestBatchWithoutNft(t *testing.T) {
	if !sandbox.Enter(t) {
		return
	}
	b := newBackend(t, netstate.SourceLocal)
	firewalltest.Apply(t, b, firewalltest.Creates(firewalltest.List(firewalltest.Rich())...))
	whole := firewalltest.Ruleset(t)
	w := firewalltest.WatchAll(t, b)
	nft, socket := b.path, nfnl.Socket.Fd
	b.path = "/nothing"
	more := []netstate.Object{
		netstate.PortFilter{Link: "veth9", MAC: firewalltest.MacB},
		netstate.PortAddress{Link: "veth9", MAC: firewalltest.MacB, Addr: firewalltest.Addr("10.68.0.109")},
		netstate.PortAddress{Link: "veth9", MAC: firewalltest.MacB, Addr: firewalltest.Addr("fd00:68::109")},
		firewalltest.Publish("0.0.0.0", "tcp", 8009, "10.68.0.109:80"),
		firewalltest.PartlyBack(firewalltest.Balance("::", "udp", 8009, "[fd00:68::109]:80", "[fd00:68::101]:80"), "[fd00:68::109]:80"),
	}
	firewalltest.Apply(t, b, firewalltest.Creates(more...))
	firewalltest.Apply(t, b, firewalltest.Updates(more[3], firewalltest.Back(firewalltest.Publish("0.0.0.0", "tcp", 8009, "10.68.0.101:80"))))
	firewalltest.Same(t, "transactions", uint64(3), b.Transactions())
	firewalltest.Same(t, "observed", len(more)-1, len(newLoaded(t, netstate.SourceLocal).Observe(netstate.Set{}.Add(append(more[:3:3], more[4])...).Keys())))
	firewalltest.Apply(t, b, firewalltest.Deletes(more...))
	firewalltest.Same(t, "ruleset", whole, firewalltest.Ruleset(t))
	firewalltest.Same(t, "intact", true, newLoaded(t, netstate.SourceLocal).Intact())
	firewalltest.Same(t, "socket", socket, nfnl.Socket.Fd)
	b.path = nft
	netlab.Shell(t, "nft delete table bridge patchbay")
	w.Fires(t)
	firewalltest.Same(t, "further calls", 0, len(w))
}

// TestBatchIsWhole has the kernel refuse one edit among many.
func TestBatchIsWhole(t *testing.T) {
	if !sandbox.Enter(t) {
		return
	}
	b := newBackend(t, netstate.SourceLocal)
	tables(t, b)
	there := edit{id: id{"any_ports4", "tcp . 80"}, Held: book.Held{Value: "10.68.0.1 . 80", Source: netstate.SourceLocal}}
	if err := commit([]edit{there}); err != nil {
		t.Fatal(err)
	}
	missing := edit{id: id{setFiltered, "veth9"}, remove: true}
	another := there
	another.Value = "10.68.0.2 . 80"
	many := randomEdits(rand.New(rand.NewPCG(1, 1)), setByName[setOwnND6], 900)
	before, gen := firewalltest.Ruleset(t), firewalltest.Generation(t)
	for _, c := range []struct {
		bad   edit
		errno error
	}{{missing, unix.ENOENT}, {another, unix.EEXIST}} {
		for _, at := range []int{0, 450, len(many)} {
			err := commit(slices.Insert(slices.Clone(many), at, c.bad))
			if !errors.Is(err, c.errno) || !strings.HasPrefix(err.Error(), c.bad.String()) {
				t.Errorf("edit %d: error %v, want %s: %v", at, err, c.bad, c.errno)
			}
			firewalltest.Same(t, "ruleset", before, firewalltest.Ruleset(t))
			firewalltest.Same(t, "generation", gen, firewalltest.Generation(t))
		}
	}
	if err := commit(slices.Repeat([]edit{missing}, 3000)); err == nil {
		t.Error("a batch larger than the socket's buffer was committed")
	}
	if err := commit([]edit{there, another}); !errors.Is(err, unix.EEXIST) {
		t.Errorf("error %v, want %v", err, unix.EEXIST)
	}
	firewalltest.Same(t, "ruleset", before, firewalltest.Ruleset(t))
	if err := commit(append([]edit{there}, many...)); err != nil {
		t.Errorf("add what is there: %v", err)
	}
	if err := commit(append(reverse(many), edit{id: there.id, remove: true}, another)); err != nil {
		t.Errorf("replace an element: %v", err)
	}
	firewalltest.Same(t, "ruleset", strings.Replace(before, "10.68.0.1 . 80", "10.68.0.2 . 80", 1), firewalltest.Ruleset(t))
}

// TestBatchRefused has nft make what netlink cannot, and say why it cannot either.
func TestBatchRefused(t *testing.T) {
	if !sandbox.Enter(t) {
		return
	}
	one, two := firewalltest.Publish("0.0.0.0", "tcp", 8001, "10.68.0.101:80"), firewalltest.Publish("0.0.0.0", "tcp", 8002, "10.68.0.101:80")
	b := newBackend(t, netstate.SourceLocal)
	firewalltest.Apply(t, b, firewalltest.Creates(one))
	w := firewalltest.WatchAll(t, b)
	b.commit, b.Refused = func([]edit) error { return unix.EOPNOTSUPP }, nil
	firewalltest.Apply(t, b, firewalltest.Creates(two))
	firewalltest.Same(t, "transactions", uint64(2), b.Transactions())
	firewalltest.Same(t, "held", netstate.Set{}.Add(one, two), newLoaded(t, netstate.SourceLocal).Held())
	b.commit = commit

	netlab.Shell(t, `nft delete element inet patchbay any_ports4 '{ tcp . 8002 }'`)
	w.Fires(t)
	firewalltest.Same(t, "further calls", 0, len(w))
	before := firewalltest.Ruleset(t)
	err := b.Apply(firewalltest.Deletes(two))
	if !errors.Is(err, unix.ENOENT) || !errors.As(err, new(*exec.ExitError)) && !knftables.IsNotFound(err) {
		t.Errorf("error %v, want both nft's and netlink's", err)
	}
	firewalltest.Same(t, "ruleset", before, firewalltest.Ruleset(t))
	firewalltest.Same(t, "transactions", uint64(2), b.Transactions())
	firewalltest.Apply(t, b, firewalltest.Creates(two))
	firewalltest.Same(t, "held again", netstate.Set{}.Add(one, two), newLoaded(t, netstate.SourceLocal).Held())

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := b.Write(ctx, firewalltest.Deletes(two)); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want %v", err, context.Canceled)
	}
	firewalltest.Same(t, "held still", netstate.Set{}.Add(one, two), newLoaded(t, netstate.SourceLocal).Held())
}

// TestEncodeRefuses has keys that no object makes.
func TestEncodeRefuses(t *testing.T) {
	for _, i := range []id{
		{setOurs, "a name of many bytes"}, {setOurs, ""}, {setSame, "br-red"}, {setNoForward, "arp"}, {setOwnMAC, "veth1 . 02:00"},
		{"own_ip4", "veth1 . 02:00:00:00:00:01 . fd00::1"}, {"own_ip6", "veth1 . 02:00:00:00:00:01 . 10.0.0.1"},
		{"targets4", "10.0.0.1 . icmp . 80"}, {"targets4", "10.0.0.1 . tcp . 65536"}, {"any_slots4", "tcp . 80 . -1"},
	} {
		if _, err := (edit{id: i}).encode(); err == nil {
			t.Errorf("%s was encoded", i)
		}
	}
	if _, err := (edit{id: id{"any_ports4", "tcp . 80"}, Held: book.Held{Value: "fd00::1 . 80"}}).encode(); err == nil {
		t.Error("a value of the other family was encoded")
	}
}

// TestWatchInterleaved has another program commit in the middle of a transaction of the
// backend.
func TestWatchInterleaved(t *testing.T) {
	if !sandbox.Enter(t) {
		return
	}
	b := newBackend(t, netstate.SourceLocal)
	firewalltest.Apply(t, b, firewalltest.Creates(firewalltest.List(firewalltest.Rich())...))
	w := firewalltest.WatchAll(t, b)
	err := b.gens.Own(func() error {
		netlab.Shell(t, `nft delete element inet patchbay any_ports4 '{ sctp . 9 }'; nft add table inet other`)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	w.Fires(t)
}

// backend is the Driver as tests of both dialects see a firewall.
type backend struct {
	*Driver
	known bool
	count uint64
}

// newBackend lets nothing that netlink is refused fall to nft unnoticed.
func newBackend(t testing.TB, source netstate.Source) *backend {
	t.Helper()
	b := &backend{}
	d, err := New(book.Options{Source: source, Step: func() {}, Committed: func() { b.count++ }})
	if err != nil {
		t.Fatal(err)
	}
	d.Refused = func(err error) { t.Errorf("refused: %v", err) }
	b.Driver = d
	return b
}

// newLoaded is a backend that has just read the kernel.
func newLoaded(t testing.TB, source netstate.Source) *backend {
	t.Helper()
	b := newBackend(t, source)
	if err := b.Load(); err != nil {
		t.Fatal(err)
	}
	return b
}

func (b *backend) Load() error {
	b.known = true
	return errors.Join(b.Read(context.Background()), b.ReadBlockers(context.Background()))
}

func (b *backend) Apply(steps []plan.Step) error {
	if !b.known {
		if err := b.Load(); err != nil {
			return err
		}
	}
	_, err := b.Write(context.Background(), steps)
	return err
}

func (b *backend) Observe(keys []netstate.Key) netstate.Set {
	set := netstate.Set{}
	for _, k := range keys {
		if o, whole := b.Object(k); whole {
			set.Add(o)
		}
	}
	return set
}

func (b *backend) Held() netstate.Set { return netstate.Set{}.Add(b.Objects()...) }

func (b *backend) Transactions() uint64 { return b.count }

func (b *backend) Clean() error {
	_, err := b.Driver.Clean(context.Background())
	return err
}
