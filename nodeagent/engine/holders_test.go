package engine

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/patchbay-dev/patchbay/api/v1alpha1"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
	"github.com/patchbay-dev/patchbay/nodeagent/plan"
)

// rivals is a world whose resources want the same few things, and whose processes end
// and begin anew: host ports, interface names, addresses, MAC addresses, subnets,
// uplinks, namespaces and their default routes.
type rivals struct {
	*world
	r       *rand.Rand
	objects map[netstate.Owner]v1alpha1.Object
	// versions counts the specs of each owner.
	versions map[netstate.Owner]int
	log      []string
}

func newRivals(t *testing.T, seed uint64) *rivals {
	l := &rivals{world: newWorld(t), r: rand.New(rand.NewPCG(seed, 24)), objects: map[netstate.Owner]v1alpha1.Object{}, versions: map[netstate.Owner]int{}}
	for _, nic := range []string{"nic0", "nic1"} {
		l.k.node.Links[nic] = netstate.NodeLink{Type: netstate.OtherLink, MTU: 1500}
	}
	l.e.SweepDelay = -1
	l.e.Synced(true)
	return l
}

func pick[T any](l *rivals, list ...T) T { return list[l.r.IntN(len(list))] }

func (l *rivals) network() v1alpha1.Object {
	n := bnet(pick(l, "red", "blue", "green"), pick(l, "10.0.0.0/24", "10.1.0.0/24", "10.0.0.0/16"))
	n.Spec.Bridge.Name = pick(l, "", "br-one")
	if l.r.IntN(3) == 0 {
		n.Spec.Uplink = &v1alpha1.UplinkSpec{Interface: pick(l, "nic0", "nic1")}
		n.Spec.Gateway.Mode = v1alpha1.GatewayNone
	}
	return n
}

func (l *rivals) attachment() v1alpha1.Object {
	a := nsa(fmt.Sprint("a", l.r.IntN(6)), "")
	a.Spec.Target.Netns.Name = v1alpha1.NetnsName(pick(l, "one", "two", a.Name))
	a.Spec.Target.Netns.Lifecycle = v1alpha1.Managed
	a.Spec.Interface = v1alpha1.InterfaceName(pick(l, "", "eth1", "eth2", "eth3"))
	if l.r.IntN(4) == 0 {
		a.Spec.HostInterface = "vethx"
	}
	if l.r.IntN(4) == 0 {
		a.Spec.MACAddress = pick(l, "02:00:00:00:00:01", "02:00:00:00:00:02")
	}
	if l.r.IntN(5) == 0 {
		a.Spec.Addresses = []v1alpha1.Subnet{pick[v1alpha1.Subnet](l, "10.9.0.2/24", "10.9.0.3/24")}
		a.Spec.PointToPoint = &v1alpha1.PointToPoint{Host: &v1alpha1.HostEnd{Addresses: []v1alpha1.Subnet{"10.9.0.1/24"}}}
		return a
	}
	a.Spec.Network = pick(l, "red", "blue", "green")
	if l.r.IntN(2) == 0 {
		a.Spec.Addresses = []v1alpha1.Subnet{pick[v1alpha1.Subnet](l, "10.0.0.2/24", "10.0.0.3/24", "10.1.0.2/24")}
	}
	return a
}

func (l *rivals) publish() v1alpha1.Object {
	p := pp(fmt.Sprint("p", l.r.IntN(6)), fmt.Sprint("a", l.r.IntN(6)), "", 80)
	p.Spec.Ports = nil
	for port := int32(80); port < 84; port++ {
		switch l.r.IntN(4) {
		case 0:
			p.Spec.Ports = append(p.Spec.Ports, v1alpha1.PublishedPort{Protocol: "TCP", HostPort: port, TargetPort: pick[int32](l, 80, 81)})
		case 1:
			p.Spec.Ports = append(p.Spec.Ports, v1alpha1.PublishedPort{Protocol: "TCP", HostPort: port, HostPortEnd: 84, TargetPort: port})
			return p
		}
	}
	if len(p.Spec.Ports) == 0 {
		p.Spec.Ports = append(p.Spec.Ports, v1alpha1.PublishedPort{Protocol: "TCP", HostPort: 80, TargetPort: 80})
	}
	return p
}

// edit makes, changes or removes an object and returns its owner.
func (l *rivals) edit() netstate.Owner {
	if owners := slices.SortedFunc(maps.Keys(l.objects), netstate.Owner.Compare); len(owners) > 0 && l.r.IntN(5) == 0 {
		o := pick(l, owners...)
		l.log = append(l.log, "remove "+o.String())
		delete(l.objects, o)
		l.versions[o]++
		return o
	}
	o := pick(l, l.network, l.attachment, l.attachment, l.publish, l.publish)()
	owner := own(o)
	if old := l.objects[owner]; old != nil {
		v1alpha1.CopyStatus(o, old)
	}
	l.objects[owner] = o
	l.versions[owner]++
	l.log = append(l.log, fmt.Sprintf("edit %s %s", owner, spec(o)))
	return owner
}

func spec(o v1alpha1.Object) string {
	switch o := o.(type) {
	case *v1alpha1.BridgeNetwork:
		return fmt.Sprint(o.Spec.Subnets, o.Spec.Bridge.Name, o.Spec.Uplink)
	case *v1alpha1.NamespaceAttachment:
		return fmt.Sprint(o.Spec.Target.Netns.Name, o.Spec.Interface, o.Spec.HostInterface, o.Spec.MACAddress, o.Spec.Network, o.Spec.Addresses)
	case *v1alpha1.PortPublish:
		return fmt.Sprint(o.Spec.Attachment, o.Spec.Ports)
	}
	return ""
}

// tell hands an owner's object, or that it is gone, to the process.
func (l *rivals) tell(o netstate.Owner) {
	if l.objects[o] == nil {
		l.e.Update(nil, []netstate.Owner{o})
		return
	}
	l.set(copyOf(l.objects[o]))
}

func copyOf(o v1alpha1.Object) v1alpha1.Object {
	switch o := o.(type) {
	case *v1alpha1.BridgeNetwork:
		return o.DeepCopy()
	case *v1alpha1.NamespaceAttachment:
		return o.DeepCopy()
	case *v1alpha1.PortPublish:
		return o.DeepCopy()
	}
	return nil
}

// begin is the next process: it knows the records with their keys, and the marks.
func (l *rivals) begin(kept map[netstate.Owner][]netstate.Key) {
	l.world.r.keys.replace(kept)
	l.k.held = l.k.inventory()
	l.e = l.engine()
	l.e.SweepDelay = -1
	var all []Input
	for _, object := range l.objects {
		all = append(all, yes(InputOf(copyOf(object))))
	}
	l.e.Update(all, nil)
	l.e.Synced(true)
}

// settle lets the process work until it rests, and writes the records.
func (l *rivals) settle() {
	l.t.Helper()
	if l.turns(100) == 100 {
		l.fail("the process does not rest")
	}
	for o, object := range l.objects {
		s, ok := l.world.r.status[o]
		if !ok {
			continue
		}
		switch object := object.(type) {
		case *v1alpha1.BridgeNetwork:
			object.Status.Conditions = []metav1.Condition{s.Ready}
		case *v1alpha1.NamespaceAttachment:
			object.Status = *s.Attachment.DeepCopy()
			object.Status.Conditions = []metav1.Condition{s.Ready}
		case *v1alpha1.PortPublish:
			object.Status = *s.Publish.DeepCopy()
			object.Status.Conditions = []metav1.Condition{s.Ready}
		}
	}
}

// keys are what the records keep.
func (l *rivals) keys() map[netstate.Owner][]netstate.Key { return maps.Clone(l.world.r.keys.of) }

// holders are who has what, and in which version of its spec.
type holders struct {
	of       map[string]string
	firewall netstate.Set
}

func (l *rivals) holders() holders {
	out := map[string]string{}
	for o := range l.e.resolver.Resources {
		for _, c := range l.e.resolver.Claims(o) {
			if c.Sharers == "" {
				out[c.Thing.String()] = fmt.Sprint(o, " in version ", l.versions[o])
			}
		}
	}
	return holders{out, maps.Clone(l.n.set)}
}

func (l *rivals) fail(format string, args ...any) {
	l.t.Helper()
	l.t.Fatalf(format+"\nafter\n%s", append(args, strings.Join(l.log[max(0, len(l.log)-14):], "\n"))...)
}

// expectKept holds a process to what the one before said: an owner that is the same
// and still wants something has it.
func (l *rivals) expectKept(what string, before holders) {
	l.t.Helper()
	after := l.holders().of
	for resource, holder := range before.of {
		now := after[resource]
		port := netstate.Key{Kind: netstate.KindPublish, Name: strings.TrimPrefix(resource, "host port ")}
		switch {
		case now == holder, now == "":
			continue
		case before.firewall[port] != nil && before.firewall[port] == l.n.set[port]:
			// Killed before its record was written: the port leads where it led.
			continue
		}
		for o := range l.objects {
			if fmt.Sprint(o, " in version ", l.versions[o]) == holder && l.lost(o, resource) {
				l.fail("%s: %s was of %s, now of %s", what, resource, holder, now)
			}
		}
	}
}

// lost reports whether an owner is told that another has a resource.
func (l *rivals) lost(o netstate.Owner, resource string) bool {
	m := l.world.r.status[o].Ready.Message
	return strings.Contains(m, resource+" is taken by") || strings.Contains(m, resource+" stays with")
}

// expectIdle has a plan, and then a new process, find nothing to do.
func (l *rivals) expectIdle(keys map[netstate.Owner][]netstate.Key) {
	l.t.Helper()
	kept := l.holders()
	l.begin(keys)
	planned, err := l.e.Plan()
	if err != nil {
		l.t.Fatal(err)
	}
	for _, p := range planned {
		if len(p.Steps) > 0 {
			l.fail("a plan has %s of %s: %v", plan.Lines(p.Steps)[0].Sign(), p.Title, p.Steps)
		}
	}
	l.expectKept("a plan", kept)
	l.begin(keys)
	l.k.appErr = func(s plan.Step) error {
		l.fail("a new process changes %s", s.Key)
		return nil
	}
	l.e.Firewall = idleFirewall{l.n, l}
	l.settle()
	l.k.appErr, l.e.Firewall = nil, l.n
	l.expectKept("a new process", kept)
}

// idleFirewall is a firewall that nothing is to change.
type idleFirewall struct {
	*fakeFirewall
	l *rivals
}

func (n idleFirewall) Apply(steps []plan.Step) []error {
	n.l.fail("a new process changes the firewall: %v", steps)
	return make([]error, len(steps))
}

// TestHoldersKeep drives random histories of resources that want the same things: a
// holder keeps its thing while other resources are edited, through a restart, another
// apply and a kill before the records were written; a plan shows nothing where nothing is
// to be done.
func TestHoldersKeep(t *testing.T) {
	for seed := range uint64(40) {
		l := newRivals(t, seed)
		for range 40 {
			before := l.keys()
			kept := l.holders()
			switch l.r.IntN(4) {
			case 0:
				l.log = append(l.log, "edited while no process runs:")
				for range 1 + l.r.IntN(2) {
					l.edit()
				}
				l.begin(l.keys())
			case 1:
				// Killed before the records were written.
				l.tell(l.edit())
				l.turns(100)
				l.log = append(l.log, "killed")
				kept = l.holders()
				l.begin(l.keys())
			default:
				for range 1 + l.r.IntN(3) {
					l.tell(l.edit())
				}
			}
			l.settle()
			l.expectKept("after an edit", kept)
			l.expectIdle(pick(l, nil, before, l.keys()))
		}
	}
}
