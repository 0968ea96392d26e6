package plan

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
)

var (
	red  = netstate.Mark(netstate.SourceLocal, netstate.Owner{Kind: netstate.OwnerNetwork, Name: "red"})
	net1 = netstate.Mark(netstate.SourceLocal, netstate.Owner{Kind: netstate.OwnerAttachment, Namespace: "lab", Name: "net1"})
)

// world is one network with one published attachment, limited both ways.
func world() netstate.Set {
	mac := netstate.MAC{2, 0, 0, 0, 0, 1}
	addr := netip.MustParsePrefix("10.0.0.2/24")
	return netstate.Set{}.Add(
		netstate.Netns{Name: "net1", Managed: true},
		netstate.Link{Netns: "net1", Name: "lo", Type: netstate.Loopback, Mark: netstate.NetnsMark(netstate.SourceLocal, "net1"), Up: true},
		netstate.Link{Name: "br-red", Type: netstate.Bridge, MAC: netstate.MAC{2, 1}, MTU: 1500, Mark: red, Up: true},
		netstate.Link{Name: "veth1", Type: netstate.Veth, MAC: netstate.MAC{2, 2}, MTU: 1500, Mark: net1, Primary: true, Peer: netstate.End{Netns: "net1", Name: "eth0"}, Master: "br-red", Up: true},
		netstate.Link{Netns: "net1", Name: "eth0", Type: netstate.Veth, MAC: mac, MTU: 1500, Mark: net1, Peer: netstate.End{Name: "veth1"}, Up: true},
		netstate.Link{Name: "ifb1", Type: netstate.IFB, MAC: netstate.MAC{2, 3}, MTU: 1500, Mark: net1, Up: true},
		netstate.Shaper{Link: "veth1", Rate: 8_000_000, Burst: 64 << 10},
		netstate.Shaper{Link: "ifb1", Rate: 8_000_000, Burst: 64 << 10},
		netstate.Redirect{Link: "veth1", To: "ifb1"},
		netstate.Sysctl{Link: "veth1", Path: "net/ipv6/conf/veth1/disable_ipv6", Value: "1"},
		netstate.Sysctl{Path: "net/ipv4/ip_forward", Value: "1", Restore: true},
		netstate.LinkPolicy{Link: "br-red", Guarded: true},
		netstate.ForwardGuard{Family: netstate.IPv4},
		netstate.PortFilter{Link: "veth1", MAC: mac},
		netstate.PortAddress{Link: "veth1", MAC: mac, Addr: addr.Addr()},
		netstate.Address{Link: "br-red", Prefix: netip.MustParsePrefix("10.0.0.1/24")},
		netstate.Address{Netns: "net1", Link: "eth0", Prefix: addr},
		netstate.Route{Netns: "net1", Link: "eth0", Dst: netip.MustParsePrefix("0.0.0.0/0"), Via: netip.MustParseAddr("10.0.0.1")},
		netstate.Masquerade{Link: "br-red", Subnet: netip.MustParsePrefix("10.0.0.0/24"), Egress: true},
		netstate.Publish{Host: netip.IPv4Unspecified(), Proto: "tcp", HostPort: 80, Targets: "10.0.0.2:80"},
	)
}

func text(steps []Step) string {
	var b strings.Builder
	for _, s := range steps {
		fmt.Fprintf(&b, "%d %s %s\n", s.Stage, s.Op, s.Key)
	}
	return b.String()
}

func diff(t *testing.T, desired, observed netstate.Set, release []netstate.Key) []Step {
	t.Helper()
	steps, conflicts := Diff(desired, observed, release)
	if len(conflicts) > 0 {
		t.Fatalf("conflicts: %v", conflicts)
	}
	return steps
}

func TestNothingToDo(t *testing.T) {
	if steps := diff(t, world(), world(), nil); len(steps) > 0 {
		t.Fatalf("plan(desired, desired) is not empty:\n%s", text(steps))
	}
}

func TestBuildOrder(t *testing.T) {
	want := `4 create netns net1
5 create link br-red
5 create link ifb1
5 create link veth1
6 mark link br-red
6 mark link ifb1
6 activate link ifb1
6 mark link veth1
6 mark link netns/net1 eth0
6 create sysctl veth1 net/ipv6/conf/veth1/disable_ipv6
6 create bandwidth ifb1
6 create bandwidth veth1
6 create redirect veth1
7 create isolation br-red
7 create forward-guard ipv4
7 create anti-spoof veth1
7 create anti-spoof veth1 10.0.0.2
7 create masquerade br-red 10.0.0.0/24
8 create sysctl net/ipv4/ip_forward
8 activate link br-red
8 activate link veth1
8 activate link netns/net1 eth0
9 create address br-red 10.0.0.1/24
9 create address netns/net1 eth0 10.0.0.2/24
10 create route netns/net1 eth0 0.0.0.0/0
11 create publish 0.0.0.0:80/tcp
`
	if d := cmp.Diff(want, text(diff(t, world(), netstate.Set{}, nil))); d != "" {
		t.Fatalf("-want +got:\n%s", d)
	}
}

func TestRemoveOrder(t *testing.T) {
	want := `0 delete publish 0.0.0.0:80/tcp
1 delete link ifb1
1 delete link veth1
1 delete link br-red
1 delete sysctl net/ipv4/ip_forward
2 delete masquerade br-red 10.0.0.0/24
2 delete anti-spoof veth1 10.0.0.2
2 delete anti-spoof veth1
2 delete forward-guard ipv4
2 delete isolation br-red
3 delete netns net1
`
	if d := cmp.Diff(want, text(diff(t, netstate.Set{}, world(), world().Keys()))); d != "" {
		t.Fatalf("-want +got:\n%s", d)
	}
}

// TestApplyReachesDesired carries out plans on a model of the kernel from
// random states: parts missing, parts changed.
func TestApplyReachesDesired(t *testing.T) {
	for seed := range uint64(500) {
		r := rand.New(rand.NewPCG(seed, 0))
		observed := netstate.Set{}
		for k, o := range world() {
			switch r.IntN(3) {
			case 0:
				continue
			case 1:
				o = disturb(o)
			}
			observed[k] = o
		}
		heal(observed)
		after := carryOut(observed, diff(t, world(), observed, nil))
		if steps := diff(t, world(), after, nil); len(steps) > 0 {
			t.Fatalf("seed %d: from\n%v\nstill to do:\n%s", seed, observed, text(steps))
		}
	}
}

// disturb changes an object as drift does.
func disturb(o netstate.Object) netstate.Object {
	switch o := o.(type) {
	case netstate.Link:
		o.Up, o.Master = false, ""
		if o.Type == netstate.Veth && o.Primary {
			o.Mark = netstate.HalfMade
		}
		return o
	case netstate.Sysctl:
		o.Value = "7"
		return o
	case netstate.Shaper:
		o.Rate *= 2
		return o
	case netstate.Redirect:
		o.To = "?"
		return o
	case netstate.Route:
		o.Via = netip.MustParseAddr("10.0.0.9")
		return o
	case netstate.Publish:
		o.Targets = "10.0.0.9:80"
		return o
	}
	return o
}

var redirected = netstate.Redirect{Link: "veth1"}.Key()

// heal makes a random state one that a kernel can be in.
func heal(s netstate.Set) {
	veth, eth := linkKey(netstate.End{Name: "veth1"}), linkKey(netstate.End{Netns: "net1", Name: "eth0"})
	ns := netstate.Key{Kind: netstate.KindNetns, Netns: "net1"}
	if s[veth] == nil || s[eth] == nil || s[ns] == nil {
		delete(s, veth)
		delete(s, eth)
	}
	if s[ns] == nil {
		delete(s, linkKey(netstate.End{Netns: "net1", Name: "lo"}))
	} else if s[linkKey(netstate.End{Netns: "net1", Name: "lo"})] == nil {
		s.Add(world()[linkKey(netstate.End{Netns: "net1", Name: "lo"})])
	}
	if s[linkKey(netstate.End{Name: "ifb1"})] == nil && s[redirected] != nil {
		s.Add(netstate.Redirect{Link: "veth1", To: "?"})
	}
	for k := range s {
		if DiesWithLink(k.Kind) && s[netstate.Key{Kind: netstate.KindLink, Netns: k.Netns, Link: k.Link}] == nil {
			delete(s, k)
		}
	}
}

// carryOut is the kernel's part, on a set.
func carryOut(s netstate.Set, steps []Step) netstate.Set {
	out := netstate.Set{}
	for k, o := range s {
		out[k] = o
	}
	for _, step := range steps {
		if step.Op == Delete {
			delete(out, step.Key)
			if l, ok := step.Old.(netstate.Link); ok {
				delete(out, linkKey(l.Peer))
			}
			continue
		}
		out[step.Key] = step.New
		if step.Peer != nil {
			out[step.Peer.Key()] = step.Peer
		}
		if ns, ok := step.New.(netstate.Netns); ok {
			out.Add(netstate.Link{Netns: ns.Name, Name: "lo", Type: netstate.Loopback, Mark: netstate.NetnsMark(netstate.SourceLocal, ns.Name), Up: true})
		}
	}
	return out
}

// TestNeverUpAndUnfiltered looks at every prefix of random plans: a port that
// is up has its filter and its limits.
func TestNeverUpAndUnfiltered(t *testing.T) {
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 1))
		state := netstate.Set{}
		for k, o := range world() {
			if r.IntN(2) == 0 {
				state[k] = o
			}
		}
		heal(state)
		if unfiltered(state) {
			continue
		}
		target, release := world(), []netstate.Key(nil)
		if r.IntN(2) == 0 {
			target, release = netstate.Set{}, world().Keys()
		}
		steps := diff(t, target, state, release)
		for i := range steps {
			if stageEnds(steps, i) && unfiltered(carryOut(state, activated(steps[:i+1]))) {
				t.Fatalf("seed %d: up and unfiltered after\n%s", seed, text(steps[:i+1]))
			}
		}
	}
}

func stageEnds(steps []Step, i int) bool {
	return !steps[i].Stage.Firewall() || i+1 == len(steps) || steps[i+1].Stage != steps[i].Stage
}

// activated gives links that are made but not yet active the state down.
func activated(steps []Step) []Step {
	out := slices.Clone(steps)
	for i, s := range out {
		if l, ok := s.New.(netstate.Link); ok && (s.Op == Create || s.Op == Mark && s.Old == nil) {
			l.Up = false
			out[i].New = l
			if p, ok := s.Peer.(netstate.Link); ok {
				p.Up = false
				out[i].Peer = p
			}
		}
	}
	return out
}

func unfiltered(s netstate.Set) bool {
	l, ok := s[linkKey(netstate.End{Name: "veth1"})].(netstate.Link)
	return ok && l.Up && (s[netstate.Key{Kind: netstate.KindPortFilter, Link: "veth1"}] == nil || unlimited(s))
}

func TestForeignIsLeftAlone(t *testing.T) {
	observed := world()
	bridge := netstate.Link{Name: "br-red", Type: netstate.Bridge, MTU: 1500, Up: true}
	observed.Add(bridge)
	steps, conflicts := Diff(world(), observed, nil)
	if len(conflicts) != 1 || conflicts[0].Key != bridge.Key() {
		t.Fatalf("conflicts: %v, want br-red", conflicts)
	}
	if len(steps) > 0 {
		t.Fatalf("steps on a foreign bridge:\n%s", text(steps))
	}
}

func TestExternalNetnsIsAwaited(t *testing.T) {
	desired := netstate.Set{}.Add(netstate.Netns{Name: "ext"}, netstate.Address{Netns: "ext", Link: "eth0", Prefix: netip.MustParsePrefix("10.0.0.2/24")})
	steps, conflicts := Diff(desired, netstate.Set{}, nil)
	if len(steps) != 0 || len(conflicts) != 1 || conflicts[0].Found != nil {
		t.Fatalf("steps %v, conflicts %v", steps, conflicts)
	}
	observed := netstate.Set{}.Add(netstate.Netns{Name: "ext"})
	if got := text(diff(t, netstate.Set{}, observed, observed.Keys())); got != "" {
		t.Fatalf("an external namespace is removed:\n%s", got)
	}
}

func TestAnotherOwnersLinkIsReplaced(t *testing.T) {
	observed := world()
	key := linkKey(netstate.End{Name: "veth1"})
	l := observed[key].(netstate.Link)
	l.Mark = netstate.Mark(netstate.SourceLocal, netstate.Owner{Kind: netstate.OwnerAttachment, Namespace: "lab", Name: "old"})
	observed[key] = l
	got := text(diff(t, world(), observed, nil))
	for _, want := range []string{"delete link veth1", "create link veth1", "create address netns/net1 eth0"} {
		if !strings.Contains(got, want) {
			t.Fatalf("no %q in\n%s", want, got)
		}
	}
}

func TestDependencies(t *testing.T) {
	steps := diff(t, world(), netstate.Set{}, nil)
	for failed, want := range map[netstate.Key]int{
		{Kind: netstate.KindNetns, Netns: "net1"}:                         8,
		{Kind: netstate.KindLink, Link: "br-red"}:                         9,
		{Kind: netstate.KindAddress, Link: "br-red", Name: "10.0.0.1/24"}: 1,
	} {
		n := 0
		for _, s := range steps {
			if slices.Contains(Dependencies(s), failed) {
				n++
			}
		}
		if n != want {
			t.Errorf("%d steps depend on %s, want %d", n, failed, want)
		}
	}
}

// TestPublishLosesTargetsFirst has a port turn away from a target before that
// goes, and to one after it came.
func TestPublishLosesTargetsFirst(t *testing.T) {
	one := netstate.Publish{Host: netip.IPv4Unspecified(), Proto: "tcp", HostPort: 80, Targets: "10.0.0.2:80"}
	two, other, hidden := one, one, one
	two.Targets, other.Targets, hidden.Back = "10.0.0.2:80,10.0.0.3:80", "10.0.0.3:80", one.Targets
	for _, c := range []struct {
		from, to netstate.Publish
		want     Stage
	}{{two, one, StageClosePublish}, {one, two, StagePublish}, {one, other, StagePublish}, {one, hidden, StagePublish}} {
		steps, _ := Diff(netstate.Set{}.Add(c.to), netstate.Set{}.Add(c.from), nil)
		if len(steps) != 1 || steps[0].Stage != c.want || steps[0].Op != Update {
			t.Errorf("%s to %s: %v, want an update in stage %v", c.from, c.to, steps, c.want)
		}
	}
}

// TestPublishIsReplacedAtOnce: what goes of a publish goes with what comes in its
// place, if that leads to the same address; else first of all.
func TestPublishIsReplacedAtOnce(t *testing.T) {
	old := netstate.Publish{Host: netip.IPv4Unspecified(), Proto: "tcp", HostPort: 80, HostPortEnd: 90, Targets: "10.0.0.2:80"}
	change := func(f func(*netstate.Publish)) netstate.Publish {
		p := old
		f(&p)
		return p
	}
	for _, c := range []struct {
		now  netstate.Publish
		want Stage
	}{
		{change(func(p *netstate.Publish) { p.HostPortEnd = 100 }), StagePublish},
		{change(func(p *netstate.Publish) { p.HostPort, p.HostPortEnd, p.Targets = 85, 0, "10.0.0.2:8080" }), StagePublish},
		{change(func(p *netstate.Publish) { p.Host = netip.MustParseAddr("192.0.2.1") }), StagePublish},
		{change(func(p *netstate.Publish) { p.HostPortEnd, p.Targets = 100, "10.0.0.3:80" }), StageClosePublish},
		{change(func(p *netstate.Publish) { p.HostPort, p.HostPortEnd = 91, 100 }), StageClosePublish},
		{change(func(p *netstate.Publish) { p.Proto = "udp" }), StageClosePublish},
	} {
		for _, pair := range [][2]netstate.Publish{{old, c.now}, {c.now, old}} {
			steps, _ := Diff(netstate.Set{}.Add(pair[1]), netstate.Set{}.Add(pair[0]), []netstate.Key{pair[0].Key()})
			i := slices.IndexFunc(steps, func(s Step) bool { return s.Op == Delete })
			if len(steps) != 2 || i < 0 || steps[i].Stage != c.want {
				t.Errorf("%s to %s: %v, want a deletion in stage %v", pair[0].Key(), pair[1].Key(), steps, c.want)
			}
		}
	}
}

// TestLoopbackIsGuarded: the guard comes before the sysctl that needs it and
// goes after it, and a bridge that is made anew gets the sysctl anew.
func TestLoopbackIsGuarded(t *testing.T) {
	sysctl := netstate.Sysctl{Link: "br-red", Path: "net/ipv4/conf/br-red/route_localnet", Value: "1", Restore: true}
	guard := netstate.LoopbackGuard{Link: "br-red"}
	open := world().Add(sysctl, guard)
	for _, c := range []struct {
		desired, observed netstate.Set
		release           []netstate.Key
		want              string
	}{
		{open, world(), nil, "7 create loopback-guard br-red\n8 create sysctl br-red net/ipv4/conf/br-red/route_localnet\n"},
		{world(), open, []netstate.Key{sysctl.Key(), guard.Key()}, "1 delete sysctl br-red net/ipv4/conf/br-red/route_localnet\n2 delete loopback-guard br-red\n"},
	} {
		if d := cmp.Diff(c.want, text(diff(t, c.desired, c.observed, c.release))); d != "" {
			t.Errorf("-want +got:\n%s", d)
		}
	}
	replaced := world().Add(sysctl, guard, netstate.Link{Name: "br-red", Type: netstate.Veth, Mark: red})
	if got := text(diff(t, open, replaced, nil)); !strings.Contains(got, "8 create sysctl br-red net/ipv4/conf/br-red/route_localnet") {
		t.Errorf("the new bridge is without the sysctl:\n%s", got)
	}
}
