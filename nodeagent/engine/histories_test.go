package engine

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/patchbay-dev/patchbay/api/v1alpha1"
	"github.com/patchbay-dev/patchbay/nodeagent/compile"
	"github.com/patchbay-dev/patchbay/nodeagent/kernel"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
	"github.com/patchbay-dev/patchbay/nodeagent/plan"
)

// history records what a world does: for each action the owners that were compiled, the
// steps that were taken and the conditions that changed.
type history struct {
	*world
	compiled map[string]int
	steps    []string
	ready    map[netstate.Owner]string
	text     strings.Builder
}

// historyLog is a log handler that counts compiled owners.
type historyLog struct {
	slog.Handler
	h *history
}

func (l historyLog) Enabled(context.Context, slog.Level) bool { return true }
func (l historyLog) Handle(_ context.Context, r slog.Record) error {
	if r.Message == "compile" {
		r.Attrs(func(a slog.Attr) bool { l.h.compiled[a.Value.String()]++; return true })
	}
	return nil
}

// historyFirewall is a firewall whose steps are recorded.
type historyFirewall struct {
	*fakeFirewall
	h *history
}

func (n historyFirewall) Apply(steps []plan.Step) []error {
	n.h.note(steps...)
	return n.fakeFirewall.Apply(steps)
}

func newHistory(w *world) *history {
	h := &history{world: w, compiled: map[string]int{}, ready: map[netstate.Owner]string{}}
	h.attach()
	return h
}

// attach has the present process recorded.
func (h *history) attach() {
	h.e.Log = slog.New(historyLog{slog.DiscardHandler, h})
	h.e.resolver.Log = h.e.Log
	h.e.Firewall = historyFirewall{h.n, h}
	h.k.appErr = func(s plan.Step) error { h.note(s); return nil }
}

func (h *history) note(steps ...plan.Step) {
	for _, s := range steps {
		text := fmt.Sprintf("%s %s %s", s.Op, s.Key.Kind, plan.Describe(s.Key))
		if s.New != nil {
			text += ": " + s.New.String()
		}
		h.steps = append(h.steps, text)
	}
}

// after lets the world settle and writes what happened since the last call.
func (h *history) after(action string) {
	h.t.Helper()
	turns := h.turns(100)
	if turns == 100 {
		h.t.Fatalf("no rest after %s", action)
	}
	fmt.Fprintf(&h.text, "# %s\n", action)
	for _, o := range slices.Sorted(maps.Keys(h.compiled)) {
		fmt.Fprintf(&h.text, "compiled %s x%d\n", o, h.compiled[o])
	}
	slices.Sort(h.steps)
	for _, s := range h.steps {
		fmt.Fprintf(&h.text, "step %s\n", s)
	}
	for _, o := range slices.SortedFunc(maps.Keys(h.r.status), netstate.Owner.Compare) {
		s := h.r.status[o]
		text := fmt.Sprintf("%s %s: %s", s.Ready.Status, s.Ready.Reason, s.Ready.Message)
		if s.Attachment != nil {
			text += fmt.Sprintf(" %v %v %v", s.Attachment.Addresses, s.Attachment.Interface, s.Attachment.HostInterface)
		}
		if s.Publish != nil {
			text += " " + s.Publish.Summary
		}
		if h.ready[o] != text {
			h.ready[o] = text
			fmt.Fprintf(&h.text, "status %s %s\n", o, text)
		}
	}
	h.compiled, h.steps = map[string]int{}, nil
}

// compare holds a history to its golden, which PATCHBAY_UPDATE=1 writes.
func (h *history) compare(name string) {
	h.t.Helper()
	file := filepath.Join("testdata", name+".txt")
	if os.Getenv("PATCHBAY_UPDATE") != "" {
		if err := os.MkdirAll("testdata", 0o777); err != nil {
			h.t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(h.text.String()), 0o666); err != nil {
			h.t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		h.t.Fatal(err)
	}
	if d := cmp.Diff(strings.Split(string(want), "\n"), strings.Split(h.text.String(), "\n")); d != "" {
		h.t.Errorf("%s (-want +got):\n%s", file, d)
	}
}

// TestHistoryOfHolders replays resources that want the same few things.
func TestHistoryOfHolders(t *testing.T) {
	l := newRivals(t, 1)
	h := newHistory(l.world)
	for i := range 60 {
		if i%12 == 11 {
			l.begin(l.keys())
			h.attach()
			h.after("another process")
			continue
		}
		o := l.edit()
		l.tell(o)
		h.after(l.log[len(l.log)-1])
		l.settle()
		h.compiled = map[string]int{}
	}
	h.compare("holders")
}

// TestHistoryOfLeases replays attachments, pods and a network that come and go.
func TestHistoryOfLeases(t *testing.T) {
	l := newLab(t, 7)
	h := newHistory(l.world)
	h.after("begin")
	for range 60 {
		name := fmt.Sprint("a", l.r.IntN(6))
		acts := []func(string) string{l.create, l.create, l.create, l.remove, l.startPod, l.startPod, l.stopPod, l.deletePod, func(string) string { return l.toggleNetwork() }}
		what := acts[l.r.IntN(len(acts))](name)
		if what == "nothing" {
			continue
		}
		h.after(what)
		l.settle()
		h.compiled = map[string]int{}
	}
	h.compare("leases")
}

// TestHistoryOfADay replays what an agent meets: building, edits, drift, siblings,
// children of a parent, the node's own changes.
func TestHistoryOfADay(t *testing.T) {
	w := newWorld(t)
	h := newHistory(w)
	w.e.SetPods(nil)
	w.e.Synced(true)
	w.set(bnet("red", "10.0.0.0/24"))
	w.set(bnet("blue", "10.1.0.0/24"))
	for _, name := range []string{"a", "b", "c"} {
		w.set(nsa(name, "red"))
	}
	w.set(nsa("z", "blue"))
	w.set(pp("web", "a", "", 80))
	w.set(pp("dns", "b", "", 53))
	w.set(pp("lost", "c", "", 80))
	h.after("build")
	w.set(nsa("d", "red"))
	h.after("one attachment more")
	w.e.Remove(yes(InputOf(nsa("d", "red"))))
	h.after("one attachment less")
	w.set(pp("dns", "b", "", 54))
	h.after("a publish is edited")
	w.e.Remove(yes(InputOf(pp("web", "a", "", 80))))
	h.after("the holder of a port goes")
	wide := bnet("red", "10.0.0.0/24")
	wide.Spec.Isolation.Ports = true
	w.set(wide)
	h.after("a network is edited")
	second := nsa("a2", "red")
	second.Spec.Target.Netns.Name, second.Spec.Interface = "a", "eth1"
	w.set(second)
	h.after("a sibling comes")
	w.e.Remove(yes(InputOf(second)))
	h.after("a sibling goes")
	h.drift(netstate.Link{Name: "br-blue"}.Key())
	h.drift(netstate.Address{Netns: "b", Link: "eth0", Prefix: pfx("10.0.0.3/24")}.Key())
	clear(w.n.set)
	w.e.firewallChanged()
	h.after("the firewall is flushed")
	for k := range w.n.set {
		if k.Kind == netstate.KindPortFilter && k.Link == compile.HostInterfaceName(nsa("c", "red")) {
			delete(w.n.set, k)
		}
	}
	w.e.firewallChanged()
	h.after("one port filter is damaged")
	w.k.node.Links["eth1"] = netstate.NodeLink{Type: netstate.OtherLink, MTU: 1500}
	w.k.fn(kernel.Event{Key: netstate.Link{Name: "eth1"}.Key()})
	h.after("an interface comes")
	w.children(h)
	h.compare("day")
}

// drift removes an object behind the agent's back.
func (h *history) drift(k netstate.Key) {
	h.k.remove(k)
	h.k.fn(kernel.Event{Key: k, Gone: true})
	h.after("removed by another: " + k.String())
}

// children replays a parent's children, which come and fail one by one.
func (w *world) children(h *history) {
	yes := true
	w.set(pp("port", "all", "", 8080))
	h.after("a publish of a parent")
	var running []Pod
	for i := range 3 {
		name := fmt.Sprint("p", i)
		a := podNSA(name, name, "blue")
		a.OwnerReferences = []metav1.OwnerReference{{APIVersion: v1alpha1.GroupVersion.String(), Kind: "NamespaceAttachment", Name: "all", Controller: &yes}}
		w.set(a)
		h.after("a child comes")
		w.k.set.Add(netstate.Netns{Name: name})
		running = append(running, Pod{UID: name, Namespace: "lab", Name: name, Netns: name})
		w.e.SetPods(running)
		h.after("its pod runs")
	}
	w.e.SetPods(running[1:])
	h.after("a pod ends")
	gateway := bnet("blue", "10.1.0.0/24")
	gateway.Spec.Gateway.Mode = v1alpha1.GatewayNone
	w.set(gateway)
	h.after("a network loses its gateway")
}
