package engine

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/netip"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/patchbay-dev/patchbay/api/v1alpha1"
	"github.com/patchbay-dev/patchbay/nodeagent/kernel"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
	"github.com/patchbay-dev/patchbay/nodeagent/plan"
)

// fake is a kernel that is a set; what it says and how it fails is set by hand.
type fake struct {
	set      netstate.Set
	obsErr   func(netstate.Key) error
	appErr   func(plan.Step) error
	nodeErr  error
	node     netstate.Node
	nodes    int
	held     []netstate.Held
	fn       func(kernel.Event)
	inv      int
	noIPv6   map[string]bool
	passes   int
	second   map[string]string
	routings map[string]netstate.Routing
	keys     *keys
}

// keys are what a record keeps of each owner. No step may make an object whose key is not
// kept; the ruleset alone is of no owner.
type keys struct {
	t    testing.TB
	of   map[netstate.Owner][]netstate.Key
	kept map[netstate.Key]int
}

func (s *keys) keep(o netstate.Owner, list []netstate.Key) {
	for _, k := range s.of[o] {
		s.kept[k]--
	}
	for _, k := range list {
		s.kept[k]++
	}
	if s.of[o] = list; list == nil {
		delete(s.of, o)
	}
}

// replace has other keys in the records.
func (s *keys) replace(kept map[netstate.Owner][]netstate.Key) {
	for o := range s.of {
		s.keep(o, nil)
	}
	for o, list := range kept {
		s.keep(o, list)
	}
}

func (s *keys) expect(steps ...plan.Step) {
	for _, step := range steps {
		if step.Op != plan.Delete && step.Key.Kind != netstate.KindRuleset && s.kept[step.Key] == 0 {
			s.t.Errorf("the key of %s is not kept before it is made", step.Key)
		}
	}
}

func (f *fake) Observe(keys []netstate.Key) (netstate.Set, map[netstate.Key]error) {
	f.passes++
	out, errs := netstate.Set{}, map[netstate.Key]error{}
	for _, k := range keys {
		if k.Kind.Firewall() {
			continue
		}
		if f.obsErr != nil {
			if err := f.obsErr(k); err != nil {
				errs[k] = err
				continue
			}
		}
		if o := f.set[k]; o != nil {
			out[k] = o
		}
	}
	return out, errs
}
func (f *fake) IPv6Off(netns string) bool { return f.noIPv6[netns] }
func (f *fake) step(s plan.Step) {
	if s.Op == plan.Delete {
		f.remove(s.Key)
		if l, ok := s.Old.(netstate.Link); ok {
			f.remove(netstate.Link{Netns: l.Peer.Netns, Name: l.Peer.Name}.Key())
		}
		return
	}
	was, _ := f.set[s.Key].(netstate.Link)
	f.set[s.Key] = s.New
	if l, ok := s.New.(netstate.Link); ok && s.Op != plan.Activate && l.Type != netstate.Loopback {
		l.Up, l.Master, l.Isolated = was.Up, was.Master, was.Isolated
		f.set[s.Key] = l
	}
	if p, ok := s.Peer.(netstate.Link); ok {
		// A veth brings its peer along, down.
		p.Up = false
		f.set[p.Key()] = p
	}
}

// remove removes an object with what dies with it.
func (f *fake) remove(k netstate.Key) {
	delete(f.set, k)
	maps.DeleteFunc(f.set, func(on netstate.Key, _ netstate.Object) bool {
		switch k.Kind {
		case netstate.KindLink:
			return plan.DiesWithLink(on.Kind) && on.Netns == k.Netns && on.Link == k.Link
		case netstate.KindNetns:
			return on.Netns == k.Netns
		}
		return false
	})
}

// inventory returns the objects that bear a mark: links, and the objects on them.
func (f *fake) inventory() []netstate.Held {
	var held []netstate.Held
	for k, o := range f.set {
		link, ok := f.set[netstate.Link{Netns: k.Netns, Name: k.Link}.Key()].(netstate.Link)
		ns, isNetns := o.(netstate.Netns)
		if port, is := o.(netstate.Port); is {
			link, ok = f.set[netstate.Link{Name: port.Master}.Key()].(netstate.Link)
		}
		_, owner, marked := netstate.ParseMark(link.Mark)
		switch {
		case isNetns && ns.Managed:
			held = append(held, netstate.Held{Object: o})
		case ok && marked && link.Type == netstate.Loopback:
			held = append(held, netstate.Held{Object: o})
		case ok && marked && k.Kind != netstate.KindSysctl:
			held = append(held, netstate.Held{Owner: owner, Object: o})
		}
	}
	return held
}

func (f *fake) Apply(steps []plan.Step) []error {
	f.keys.expect(steps...)
	errs := make([]error, len(steps))
	for i, s := range steps {
		if f.appErr != nil {
			if errs[i] = f.appErr(s); errs[i] != nil {
				continue
			}
		}
		f.step(s)
	}
	return errs
}
func (f *fake) Inventory() ([]netstate.Held, error) { f.inv++; return f.held, nil }
func (f *fake) Node() (netstate.Node, error) {
	f.nodes++
	if f.nodeErr != nil {
		return netstate.Node{}, f.nodeErr
	}
	n := f.node
	n.Links = maps.Clone(n.Links)
	return n, nil
}
func (f *fake) Announce([]plan.Step)                                  {}
func (f *fake) LinkIndex(netstate.End) (index, peer int32, err error) { return 1, 1, nil }

// NetnsID: a namespace of the fake is its name, or the one that second names lead to.
func (f *fake) NetnsID(name string) (netstate.NetnsID, bool) {
	if first, ok := f.second[name]; ok {
		name = first
	}
	_, ok := f.set[netstate.Netns{Name: name}.Key()]
	id := netstate.NetnsID{Dev: 4}
	for _, b := range []byte(name) {
		id.Ino = id.Ino<<8 + uint64(b)
	}
	return id, ok
}
func (f *fake) Listen(string) (bool, error)                          { return false, nil }
func (f *fake) ListenMounts()                                        {}
func (f *fake) Routing(netns string) (netstate.Routing, error)       { return f.routings[netns], nil }
func (f *fake) Watch(_ context.Context, fn func(kernel.Event)) error { f.fn = fn; return nil }

// fakeFirewall is a firewall that is a set. After a failed Apply it is read again, unless it
// is unreadable; then each object is unknown.
type fakeFirewall struct {
	set             netstate.Set
	err, unreadable error
	stale, mangled  bool
	n               int
	forgotten       []netip.Addr
	keys            *keys
}

func (f *fakeFirewall) Observe(keys []netstate.Key) (netstate.Set, map[netstate.Key]error) {
	out, unknown := netstate.Set{}, map[netstate.Key]error{}
	f.stale = f.stale && f.unreadable != nil
	for _, k := range keys {
		switch o := f.set[k]; {
		case !k.Kind.Firewall():
		case f.stale:
			unknown[k] = fmt.Errorf("read the firewall: %w", f.unreadable)
		case k.Kind == netstate.KindRuleset && !f.mangled:
			out.Add(netstate.Ruleset{})
		case o != nil:
			out[k] = o
		}
	}
	return out, unknown
}

func (f *fakeFirewall) Inventory() (held []netstate.Held, err error) {
	if f.stale = f.unreadable != nil; f.stale {
		return nil, f.unreadable
	}
	for _, o := range f.set {
		held = append(held, netstate.Held{Object: o})
	}
	return held, nil
}

func (f *fakeFirewall) Apply(steps []plan.Step) []error {
	f.n++
	f.keys.expect(steps...)
	errs := make([]error, len(steps))
	if f.stale = f.err != nil; f.stale {
		for i := range errs {
			errs[i] = f.err
		}
		return errs
	}
	for _, s := range steps {
		switch {
		case s.Key.Kind == netstate.KindRuleset:
		case s.Op == plan.Delete:
			delete(f.set, s.Key)
		default:
			f.set[s.Key] = s.New
		}
	}
	f.mangled = false
	return errs
}

func (f *fakeFirewall) Blockers() []netstate.Blocker { return nil }
func (f *fakeFirewall) AntiSpoof() bool              { return true }
func (f *fakeFirewall) Forget(gone []netip.Addr) error {
	f.forgotten = append(f.forgotten, gone...)
	return nil
}
func (f *fakeFirewall) Watch(context.Context, func()) error { return nil }

type rep struct {
	status  map[netstate.Owner]Status
	removed map[netstate.Owner]int
	braked  int
	keys    *keys
}

func (r *rep) Report(s Status)                         { r.status[s.Owner] = s }
func (r *rep) Removed(o netstate.Owner)                { r.removed[o]++; r.keys.keep(o, nil) }
func (r *rep) Keep(o netstate.Owner, k []netstate.Key) { r.keys.keep(o, k) }
func (r *rep) Changed(netstate.Owner, plan.Line, bool) {}
func (r *rep) Braked(int, int, time.Time)              { r.braked++ }

type world struct {
	// ahead is how far the world's clock is before the real one.
	ahead time.Duration
	t     testing.TB
	k     *fake
	n     *fakeFirewall
	r     *rep
	e     *Engine
}

func newWorld(t testing.TB) *world {
	kept := &keys{t, map[netstate.Owner][]netstate.Key{}, map[netstate.Key]int{}}
	w := &world{t: t,
		k: &fake{keys: kept, set: netstate.Set{}, node: netstate.Node{Name: "n1", DefaultLink: "eth0", Links: map[string]netstate.NodeLink{"eth0": {MTU: 9000, Type: netstate.OtherLink}}, Forwarding: map[netstate.Family]bool{netstate.IPv4: true, netstate.IPv6: true}}},
		n: &fakeFirewall{keys: kept, set: netstate.Set{}}, r: &rep{map[netstate.Owner]Status{}, map[netstate.Owner]int{}, 0, kept}}
	w.e = w.engine()
	return w
}
func (w *world) engine() *Engine {
	e := New(Options{Source: netstate.SourceLocal, Kernel: w.k, Firewall: w.n, Reporter: w.r, Kept: maps.Clone(w.r.keys.of), Now: func() time.Time { return time.Now().Add(w.ahead) }, Log: slog.New(slog.NewTextHandler(io.Discard, nil))})
	if err := e.watch(context.Background()); err != nil {
		w.t.Fatal(err)
	}
	return e
}
func (w *world) turn() time.Duration {
	d, err := w.e.turn()
	if err != nil {
		w.t.Fatal(err)
	}
	return d
}

// turns runs as Run would while it's woken, at most n.
func (w *world) turns(n int) int {
	for i := range n {
		d := w.turn()
		select {
		case <-w.e.wake:
			continue
		default:
		}
		if d > 0 {
			return i + 1
		}
	}
	return n
}

// later lets time pass.
func (w *world) later(d time.Duration) { w.ahead += d }

func yes(in Input) Input {
	in.Accepted = metav1.Condition{Type: "Accepted", Status: "True"}
	return in
}
func bnet(name string, subnets ...string) *v1alpha1.BridgeNetwork {
	n := &v1alpha1.BridgeNetwork{}
	n.Name = name
	for _, s := range subnets {
		n.Spec.Subnets = append(n.Spec.Subnets, v1alpha1.Subnet(s))
	}
	return n
}
func nsa(name, network string, addr ...string) *v1alpha1.NamespaceAttachment {
	a := &v1alpha1.NamespaceAttachment{}
	a.Namespace, a.Name = "lab", name
	a.Spec.Target.Netns = &v1alpha1.NetnsTarget{Name: v1alpha1.NetnsName(name)}
	a.Spec.Network = network
	for _, s := range addr {
		a.Spec.Addresses = append(a.Spec.Addresses, v1alpha1.Subnet(s))
	}
	return a
}
func pp(name, att string, host string, port int32) *v1alpha1.PortPublish {
	p := &v1alpha1.PortPublish{}
	p.Namespace, p.Name = "lab", name
	p.Spec.Attachment = att
	if host != "" {
		p.Spec.HostAddresses = []v1alpha1.IPAddress{v1alpha1.IPAddress(host)}
	}
	p.Spec.Ports = []v1alpha1.PublishedPort{{Protocol: "TCP", HostPort: port, TargetPort: port}}
	return p
}
func (w *world) set(o v1alpha1.Object)     { w.e.Set(yes(InputOf(o))) }
func own(o v1alpha1.Object) netstate.Owner { return InputOf(o).Owner() }
