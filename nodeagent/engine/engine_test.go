package engine_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/patchbay-dev/patchbay/api/v1alpha1"
	"github.com/patchbay-dev/patchbay/nodeagent/engine"
	"github.com/patchbay-dev/patchbay/nodeagent/firewall"
	"github.com/patchbay-dev/patchbay/nodeagent/firewall/nfnl"
	"github.com/patchbay-dev/patchbay/nodeagent/kernel"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
	"github.com/patchbay-dev/patchbay/nodeagent/plan"
	"github.com/patchbay-dev/patchbay/test/netlab"
	"github.com/patchbay-dev/patchbay/test/sandbox"
)

// node is an engine on the sandbox's kernel, with what it reported.
type node struct {
	t      *testing.T
	engine *engine.Engine
	kernel *kernel.Kernel
	nat    *firewall.Firewall
	drift  int
	braked int
	gone   map[netstate.Owner]bool
}

func (n *node) Report(engine.Status)         {}
func (n *node) Removed(o netstate.Owner)     { n.gone[o] = true }
func (n *node) Braked(_, _ int, _ time.Time) { n.braked++ }

func (n *node) Keep(netstate.Owner, []netstate.Key) {}

func (n *node) Changed(_ netstate.Owner, _ plan.Line, drift bool) {
	if drift {
		n.drift++
	}
}

func newNode(t *testing.T, tune ...func(*engine.Options)) *node {
	t.Helper()
	n := &node{t: t, gone: map[netstate.Owner]bool{}}
	var err error
	if n.kernel, err = kernel.Open(kernel.Options{Source: netstate.SourceLocal, NodeName: "node1", RunDir: "/run"}); err != nil {
		t.Fatal(err)
	}
	if n.nat, err = firewall.New("nftables", firewall.Options{Source: netstate.SourceLocal}); err != nil {
		t.Fatal(err)
	}
	o := engine.Options{Source: netstate.SourceLocal, Kernel: n.kernel, Firewall: n.nat, Reporter: n, Log: slog.New(slog.NewTextHandler(io.Discard, nil))}
	for _, f := range tune {
		f(&o)
	}
	n.engine = engine.New(o)
	return n
}

// once runs the engine until it is settled and returns the Ready conditions by
// owner.
func (n *node) once(inputs ...engine.Input) map[string]metav1.Condition {
	n.t.Helper()
	n.engine.Update(inputs, nil)
	statuses, err := n.engine.RunOnce(context.Background(), 5*time.Second, nil)
	if err != nil {
		n.t.Fatal(err)
	}
	ready := map[string]metav1.Condition{}
	for _, s := range statuses {
		ready[s.Owner.String()] = s.Ready
	}
	return ready
}

func (n *node) writes() uint64 { return n.kernel.Writes() + n.nat.Transactions() }

var accepted = metav1.Condition{Type: v1alpha1.ConditionAccepted, Status: metav1.ConditionTrue}

func network(name, subnet string) engine.Input {
	return engine.Input{Accepted: accepted, Network: &v1alpha1.BridgeNetwork{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       v1alpha1.BridgeNetworkSpec{Subnets: []v1alpha1.Subnet{v1alpha1.Subnet(subnet)}},
	}}
}

func attachment(name, network string, addresses ...v1alpha1.Subnet) engine.Input {
	return engine.Input{Accepted: accepted, Attachment: &v1alpha1.NamespaceAttachment{
		ObjectMeta: metav1.ObjectMeta{Namespace: "lab", Name: name},
		Spec: v1alpha1.NamespaceAttachmentSpec{
			Target:  v1alpha1.AttachmentTarget{Netns: &v1alpha1.NetnsTarget{Name: v1alpha1.NetnsName(name), Lifecycle: v1alpha1.Managed}},
			Network: network, Addresses: addresses,
		},
	}}
}

func publish(name, attachment string, hostPort int32) engine.Input {
	return engine.Input{Accepted: accepted, Publish: &v1alpha1.PortPublish{
		ObjectMeta: metav1.ObjectMeta{Namespace: "lab", Name: name},
		Spec:       v1alpha1.PortPublishSpec{Attachment: attachment, Ports: []v1alpha1.PublishedPort{{Protocol: v1alpha1.TCP, HostPort: hostPort, TargetPort: 80}}},
	}}
}

func quickstart() []engine.Input {
	return []engine.Input{network("red", "192.168.1.0/24"), attachment("net1", "red"), attachment("net2", "red"), publish("web", "net1", 8001)}
}

func dump(t *testing.T) string {
	return netlab.Shell(t, "ip -o link; ip addr; ip route show table all; ip -6 route show table all; nft list ruleset; for n in net1 net2; do ip -n $n -o link; ip -n $n addr; ip -n $n route; done; find /proc/sys/net/ipv4/conf -name forwarding | xargs cat")
}

// TestQuiet shows that a second run, a resync and a new process on an
// unchanged node write nothing, and that a connection through a publish and one
// through masquerade live on.
func TestQuiet(t *testing.T) {
	if !sandbox.Enter(t) {
		return
	}
	n := newNode(t)
	expectReady(t, n.once(quickstart()...))
	if n.writes() == 0 {
		t.Fatal("building wrote nothing: the counter does not count")
	}
	// Without link-local addresses, which would come while it is compared.
	netlab.Shell(t, "ip link add lan0 type veth peer name lan1 && ip link set lan0 addrgenmode none && ip link set lan1 addrgenmode none && ip addr add 203.0.113.1/24 dev lan0 && ip link set lan0 up && ip link set lan1 up")
	netlab.Until(t, 5*time.Second, "the kernel notices the carriers", func() bool { return !strings.Contains(dump(t), "LOWERLAYERDOWN") })
	talk := connect(t)
	before, gen, writes := dump(t), generation(t), n.writes()

	expectReady(t, n.once(quickstart()...))
	talk()
	again := newNode(t)
	expectReady(t, again.once(quickstart()...))
	again.engine.Synced(true)
	again.once()
	talk()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error)
	resynced := newNode(t, func(o *engine.Options) { o.Resync = 20 * time.Millisecond })
	resynced.engine.Update(quickstart(), nil)
	resynced.engine.Synced(true)
	go func() { ended <- resynced.engine.Run(ctx) }()
	<-time.After(300 * time.Millisecond)
	cancel()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	talk()
	for name, c := range map[string]uint64{"second run": n.writes() - writes, "new process": again.writes(), "resync": resynced.writes()} {
		if c != 0 {
			t.Errorf("%s: %d writes, want none", name, c)
		}
	}
	if g := generation(t); g != gen {
		t.Errorf("nft generation went from %d to %d", gen, g)
	}
	if d := cmp.Diff(before, dump(t)); d != "" {
		t.Errorf("the node changed (-before +after):\n%s", d)
	}
}

func generation(t *testing.T) uint32 {
	t.Helper()
	g, err := nfnl.Generation()
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// connect opens a connection from the node through its published port into
// net1 and returns a function that proves it alive.
func connect(t *testing.T) func() {
	t.Helper()
	client, server, err := netlab.Join(netlab.Node, "net1", ":80", "203.0.113.1:8001")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	go func() { _, _ = io.Copy(server, server) }()
	return func() {
		t.Helper()
		_ = client.SetDeadline(time.Now().Add(netlab.Stretched(2 * time.Second)))
		_, err := client.Write([]byte("ping"))
		if err == nil {
			_, err = io.ReadFull(client, make([]byte, 4))
		}
		if err != nil {
			t.Fatalf("the connection is dead: %v", err)
		}
	}
}

func expectReady(t *testing.T, got map[string]metav1.Condition) {
	t.Helper()
	for o, c := range got {
		if c.Status != metav1.ConditionTrue {
			t.Fatalf("%s: %s: %s", o, c.Reason, c.Message)
		}
	}
}

func expect(t *testing.T, got map[string]metav1.Condition, owner, reason, message string) {
	t.Helper()
	if c := got[owner]; c.Reason != reason || !strings.Contains(c.Message, message) {
		t.Errorf("%s: %s: %q, want %s: ...%s...", owner, c.Reason, c.Message, reason, message)
	}
}

// TestConflicts shows that of two that want one thing the first keeps it, that
// the second says who has it and takes over when the first goes, and that
// no other resource changes.
func TestConflicts(t *testing.T) {
	if !sandbox.Enter(t) {
		return
	}
	n := newNode(t)
	inputs := append(quickstart(),
		network("blue", "192.168.0.0/23"),
		attachment("other", "red"), attachment("static", "red", "192.168.1.2/24"),
		publish("same", "other", 8001))
	expectReady(t, n.once(quickstart()...))
	got := n.once(inputs...)
	expect(t, got, "bnet:blue", v1alpha1.ReasonSubnetOverlap, "BridgeNetwork red")
	expect(t, got, "nsa:lab/static", v1alpha1.ReasonAddressConflict, "NamespaceAttachment lab/net1")
	expect(t, got, "pp:lab/same", v1alpha1.ReasonHostPortConflict, "PortPublish lab/web")
	for _, o := range []string{"bnet:red", "nsa:lab/net1", "nsa:lab/other", "pp:lab/web"} {
		expect(t, got, o, v1alpha1.ReasonProgrammed, "")
	}
	n.engine.Remove(publish("web", "net1", 8001))
	n.engine.Remove(attachment("net1", "red"))
	got = n.once()
	expect(t, got, "nsa:lab/static", v1alpha1.ReasonProgrammed, "")
	expect(t, got, "pp:lab/same", v1alpha1.ReasonProgrammed, "")
}

// TestAddressesKeptByMarks shows that a process without memory keeps addresses by the
// kernel's marks alone.
func TestAddressesKeptByMarks(t *testing.T) {
	if !sandbox.Enter(t) {
		return
	}
	var inputs []engine.Input
	for i := range 5 {
		inputs = append(inputs, attachment(fmt.Sprint("a", i), "red"))
	}
	inputs = append(inputs, network("red", "10.0.0.0/24"))
	expectReady(t, newNode(t).once(inputs...))
	before := netlab.Shell(t, "for i in 0 1 2 3 4; do ip -n a$i -o -4 addr show eth0; done")
	// The one that sorts first is new: it must not get another's address.
	n := newNode(t)
	expectReady(t, n.once(append(inputs, attachment("a", "red"))...))
	if after := netlab.Shell(t, "for i in 0 1 2 3 4; do ip -n a$i -o -4 addr show eth0; done"); after != before {
		t.Errorf("addresses changed from\n%s\nto\n%s", before, after)
	}
	if n.drift != 0 {
		t.Errorf("%d objects called drift", n.drift)
	}
}

// TestSweep shows what a source that lost its objects means: few are removed
// at once, too many wait.
func TestSweep(t *testing.T) {
	if !sandbox.Enter(t) {
		return
	}
	inputs := []engine.Input{network("red", "10.0.0.0/24")}
	for i := range 11 {
		inputs = append(inputs, attachment(fmt.Sprint("a", i), "red"))
	}
	expectReady(t, newNode(t).once(inputs...))

	n := newNode(t, func(o *engine.Options) { o.SweepDelay = time.Second })
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error)
	n.engine.Update(inputs[:9], nil)
	go func() { ended <- n.engine.Run(ctx) }()
	there := func(want int) func() bool {
		return func() bool { return strings.Count(netlab.Shell(t, "ls /run/netns"), "a") == want }
	}
	netlab.Stays(t, 300*time.Millisecond, "nothing is swept before the source is in sync", there(11))
	n.engine.Synced(true)
	netlab.Until(t, 3*time.Second, "what nobody wants is swept", there(8))
	// 1 of 9 owners stays, but nine are too few for the brake.
	n.engine.Update(inputs[9:], nil)
	netlab.Until(t, 3*time.Second, "built again", there(11))
	var gone []netstate.Owner
	for _, in := range inputs {
		gone = append(gone, in.Owner())
	}
	n.engine.Update(nil, gone)
	netlab.Stays(t, 500*time.Millisecond, "the sweep of most waits", there(11))
	netlab.Until(t, 5*time.Second, "the delay is over", there(0))
	cancel()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	if n.braked != 1 {
		t.Errorf("braked %d times, want once", n.braked)
	}
}
