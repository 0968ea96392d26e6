package engine_test

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/patchbay-dev/patchbay/api/v1alpha1"
	"github.com/patchbay-dev/patchbay/nodeagent/engine"
	"github.com/patchbay-dev/patchbay/test/netlab"
	"github.com/patchbay-dev/patchbay/test/sandbox"
)

// podAttachment is for the pod with the attachment's name as UID.
func podAttachment(name, network string) engine.Input {
	in := attachment(name, network)
	in.Attachment.Spec.Target = v1alpha1.AttachmentTarget{Pod: &v1alpha1.PodTarget{Name: name}}
	in.Attachment.Status.PodUID = "uid-" + name
	return in
}

func pod(name, netns string) engine.Pod {
	return engine.Pod{UID: "uid-" + name, Namespace: "lab", Name: name, Netns: netns}
}

// podNetns makes a namespace as a container runtime does, with a first interface
// and its default route.
func podNetns(t *testing.T, name, address string) {
	t.Helper()
	netlab.Shell(t, fmt.Sprintf(`ip netns add %[1]s && ip -n %[1]s link set lo up
		ip link add cni%[2]s type veth peer name eth0 netns %[1]s && ip link set cni%[2]s up && ip -n %[1]s link set eth0 up
		ip -n %[1]s addr add %[3]s/24 dev eth0 && ip -n %[1]s route add default via 10.244.0.1 dev eth0`,
		name, strings.TrimPrefix(name, "cni-"), address))
}

// TestPods shows a pod's attachments through its life: not yet there, running,
// with another namespace, gone; and that what its runtime gave it stays.
func TestPods(t *testing.T) {
	if !sandbox.Enter(t) {
		return
	}
	n := newNode(t)
	second := podAttachment("web2", "blue")
	second.Attachment.Spec.Target.Pod.Name, second.Attachment.Status.PodUID = "web", "uid-web"
	inputs := []engine.Input{network("red", "10.1.0.0/24"), network("blue", "10.2.0.0/24"), podAttachment("web", "red"), second, publish("port", "web", 8001)}
	n.engine.SetPods(nil)
	got := n.once(inputs...)
	expect(t, got, "nsa:lab/web", v1alpha1.ReasonPodNotRunning, "pod lab/web does not run on node node1")
	expect(t, got, "pp:lab/port", v1alpha1.ReasonPending, "waits for")

	podNetns(t, "cni-1", "10.244.0.5")
	before := netlab.Shell(t, "ip -n cni-1 route; ip -n cni-1 addr show eth0")
	n.engine.SetPods([]engine.Pod{pod("web", "cni-1")})
	expectReady(t, n.once())
	first := netlab.Shell(t, "ip -n cni-1 -br -4 addr show net1 | tr -s ' ' | cut -d' ' -f3; ip -n cni-1 -br link show net1 | tr -s ' ' | cut -d' ' -f3")
	netlab.Shell(t, "ip netns exec cni-1 ping -c1 -W1 10.1.0.1 && ip netns exec cni-1 ping -c1 -W1 10.2.0.1 && ip -n cni-1 link show net2")
	if during := netlab.Shell(t, "ip -n cni-1 route | grep -v net; ip -n cni-1 addr show eth0"); during != before {
		t.Errorf("the pod's own interface was\n%s\nand is\n%s", before, during)
	}

	podNetns(t, "cni-2", "10.244.0.6")
	netlab.Shell(t, "ip netns del cni-1")
	n.engine.SetPods([]engine.Pod{pod("web", "cni-2")})
	expectReady(t, n.once())
	if again := netlab.Shell(t, "ip -n cni-2 -br -4 addr show net1 | tr -s ' ' | cut -d' ' -f3; ip -n cni-2 -br link show net1 | tr -s ' ' | cut -d' ' -f3"); again != first {
		t.Errorf("address and MAC were %s and are %s", first, again)
	}

	netlab.Shell(t, "ip netns del cni-2")
	n.engine.SetPods(nil)
	got = n.once()
	expect(t, got, "nsa:lab/web", v1alpha1.ReasonPodNotRunning, "")
	if left := netlab.Shell(t, "ip -o link show type veth | grep -c 'veth[0-9a-f]\\{8\\}' || true; nft list ruleset | grep -c 10.1.0. || true"); left != "0\n2\n" {
		t.Errorf("links and firewall lines left of a pod that is gone: %s", left)
	}
}

// TestForgedPod shows that the UID of a foreign pod, which the author of any pod can write
// into the annotation of a mirror pod, wires nothing to the foreign pod.
func TestForgedPod(t *testing.T) {
	if !sandbox.Enter(t) {
		return
	}
	n := newNode(t)
	podNetns(t, "cni-1", "10.244.0.5")
	for _, theirs := range []engine.Pod{
		{UID: "uid-web", Namespace: "victim", Name: "web", Netns: "cni-1"},
		{UID: "uid-web", Namespace: "lab", Name: "db", Netns: "cni-1"},
	} {
		n.engine.SetPods([]engine.Pod{theirs})
		got := n.once(network("red", "10.1.0.0/24"), podAttachment("web", "red"))
		expect(t, got, "nsa:lab/web", v1alpha1.ReasonPodNotRunning, "pod lab/web does not run on node node1")
	}
	if left := netlab.Shell(t, "ip -n cni-1 -br link show type veth | grep -c net1 || true"); left != "0\n" {
		t.Error("another's pod is wired")
	}
}

// TestPodDefaultRoute shows that a pod's own default route stands back behind Patchbay's
// while spec.defaultRoute asks for that, and no longer.
func TestPodDefaultRoute(t *testing.T) {
	if !sandbox.Enter(t) {
		return
	}
	n := newNode(t)
	podNetns(t, "cni-1", "10.244.0.5")
	before := netlab.Shell(t, "ip -n cni-1 route")
	n.engine.SetPods([]engine.Pod{pod("web", "cni-1")})
	a := podAttachment("web", "red")
	expectReady(t, n.once(network("red", "10.1.0.0/24"), a))
	way := func(want string) {
		t.Helper()
		if got := netlab.Shell(t, "ip -n cni-1 route get 192.0.2.1"); !strings.Contains(got, want) {
			t.Errorf("way out: %s, want %s", got, want)
		}
	}
	way("dev eth0")
	yes := true
	with := podAttachment("web", "red")
	with.Attachment.Spec.DefaultRoute = &yes
	expectReady(t, n.once(with))
	way("dev net1")
	writes := n.writes()
	expectReady(t, n.once(with))
	if n.writes() != writes {
		t.Errorf("%d writes with nothing to do", n.writes()-writes)
	}
	n.engine.Remove(with)
	n.once()
	way("dev eth0")
	if after := netlab.Shell(t, "ip -n cni-1 route"); after != before {
		t.Errorf("routes were\n%s\nand are\n%s", before, after)
	}
}

// TestPodDefaultRouteStaysFirst shows that our default route of a pod goes before
// other routes again when another program has put one before it, replaced or removed it.
func TestPodDefaultRouteStaysFirst(t *testing.T) {
	if !sandbox.Enter(t) {
		return
	}
	n := newNode(t)
	podNetns(t, "cni-1", "10.244.0.5")
	n.engine.SetPods([]engine.Pod{pod("web", "cni-1")})
	yes := true
	a := podAttachment("web", "red")
	a.Attachment.Spec.DefaultRoute = &yes
	n.engine.Update([]engine.Input{network("red", "10.1.0.0/24"), a}, nil)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() { ended <- n.engine.Run(ctx) }()
	first := func() bool {
		return strings.Contains(netlab.Shell(t, "ip -n cni-1 route get 192.0.2.1 || true"), "dev net1")
	}
	netlab.Until(t, 5*time.Second, "ours is the first", first)
	for _, command := range []string{
		"ip -n cni-1 route prepend default via 10.244.0.7 dev eth0",
		"ip -n cni-1 route replace default via 10.244.0.8 dev eth0",
		"ip -n cni-1 route del default dev net1",
	} {
		netlab.Shell(t, command)
		netlab.Until(t, 5*time.Second, "ours is the first after "+command, first)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
}

// TestPodsNotKnownYet shows that an agent which cannot ask the container runtime
// yet leaves alone what was built for pods, and gives their addresses to no other.
func TestPodsNotKnownYet(t *testing.T) {
	if !sandbox.Enter(t) {
		return
	}
	podNetns(t, "cni-1", "10.244.0.5")
	inputs := []engine.Input{network("red", "10.1.0.0/24"), podAttachment("web", "red"), publish("port", "web", 8001)}
	n := newNode(t)
	n.engine.SetPods([]engine.Pod{pod("web", "cni-1")})
	expectReady(t, n.once(inputs...))
	before := dumpOf(t, "cni-1")

	again := newNode(t)
	again.engine.Synced(true)
	got := again.once(inputs...)
	expect(t, got, "bnet:red", v1alpha1.ReasonProgrammed, "")
	if d := cmp.Diff(before, dumpOf(t, "cni-1")); d != "" || again.writes() > 0 {
		t.Errorf("%d writes; -before +after:\n%s", again.writes(), d)
	}
	got = again.once(attachment("other", "red", "10.1.0.2/24"))
	expect(t, got, "nsa:lab/other", v1alpha1.ReasonAddressConflict, "NamespaceAttachment lab/web")
	again.engine.Remove(attachment("other", "red"))
	again.engine.SetPods([]engine.Pod{pod("web", "cni-1")})
	expectReady(t, again.once())
	if d := cmp.Diff(before, dumpOf(t, "cni-1")); d != "" {
		t.Errorf("-before +after:\n%s", d)
	}
}

func dumpOf(t *testing.T, netns string) string {
	return netlab.Shell(t, "ip -o link; ip -4 addr; ip route; nft list ruleset; ip -n "+netns+" -o link; ip -n "+netns+" -4 addr; ip -n "+netns+" route")
}

// TestChurnLeavesNothing builds and removes the attachments of a hundred pods
// twenty times, with a publish each, and counts the objects before and after.
func TestChurnLeavesNothing(t *testing.T) {
	if !sandbox.Enter(t) {
		return
	}
	const pods, rounds = 100, 20
	n := newNode(t)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error)
	n.engine.SetPods(nil)
	n.engine.Synced(true)
	go func() { ended <- n.engine.Run(ctx) }()
	red := network("red", "10.1.0.0/16")
	n.engine.Update([]engine.Input{red}, nil)
	var before census
	for round := range rounds + 1 {
		churn(t, n, pods, round)
		if round == 0 {
			before = count(t)
		}
	}
	netlab.Until(t, 20*time.Second, fmt.Sprintf("as much as before: %+v", before), func() bool { return before.covers(count(t)) })
	cancel()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
}

// churn makes pods with attachments and publishes, waits until all are built, and
// takes them away, the pods first or last.
func churn(t *testing.T, n *node, pods, round int) {
	var up, down, inputs = "", "", []engine.Input{}
	var running []engine.Pod
	for i := range pods {
		name := fmt.Sprintf("p%d-%d", round, i)
		up += "netns add cni-" + name + "\n"
		down += "netns del cni-" + name + "\n"
		in := podAttachment(name, "red")
		in.Attachment.Spec.IPAM = &v1alpha1.AttachmentIPAM{Lifecycle: v1alpha1.IPAMEphemeral}
		inputs = append(inputs, in, publish(name, name, int32(20000+i)))
		running = append(running, pod(name, "cni-"+name))
	}
	batch(t, up)
	n.engine.Update(inputs, nil)
	n.engine.SetPods(running)
	netlab.Until(t, 20*time.Second, "all are built", func() bool { return strings.Count(netlab.Shell(t, "ip -o link show type veth"), "\n") == pods })
	if round%2 == 0 {
		batch(t, down)
		n.engine.SetPods(nil)
	}
	for _, in := range slices.Backward(inputs) {
		n.engine.Remove(in)
	}
	netlab.Until(t, 20*time.Second, "all are gone", func() bool {
		return !strings.Contains(netlab.Shell(t, "ip -o link show type veth; nft list ruleset"), "veth") && !strings.Contains(netlab.Shell(t, "nft list map inet patchbay any_ports4"), ":80")
	})
	if round%2 == 1 {
		batch(t, down)
		n.engine.SetPods(nil)
	}
}

func batch(t *testing.T, commands string) {
	t.Helper()
	netlab.Shell(t, "ip -batch - <<.\n"+commands+".")
}

// census is what must not grow.
type census struct{ links, addresses, firewall, namespaces, goroutines, descriptors int }

func count(t *testing.T) census {
	t.Helper()
	lines := func(command string) int { return strings.Count(netlab.Shell(t, command), "\n") }
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return census{lines("ip -o link"), lines("ip -o addr"), lines("nft list ruleset"), lines("ip netns list-id; ls /run/netns"), runtime.NumGoroutine(), len(fds)}
}

func (c census) covers(now census) bool {
	return now.links <= c.links && now.addresses <= c.addresses && now.firewall <= c.firewall &&
		now.namespaces <= c.namespaces && now.goroutines <= c.goroutines && now.descriptors <= c.descriptors
}
