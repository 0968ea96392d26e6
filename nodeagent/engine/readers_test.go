package engine

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/patchbay-dev/patchbay/api/v1alpha1"
	"github.com/patchbay-dev/patchbay/nodeagent/kernel"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
)

// TestExactlyReadersAreCompiled shows that after a change exactly the owners are compiled
// that it is about or that have read what changed.
func TestExactlyReadersAreCompiled(t *testing.T) {
	remove := func(o v1alpha1.Object) func(*world) { return func(w *world) { w.e.Remove(yes(InputOf(o))) } }
	set := func(o v1alpha1.Object) func(*world) { return func(w *world) { w.set(o) } }
	gone := func(k netstate.Key) func(*world) {
		return func(w *world) { w.k.remove(k); w.k.fn(kernel.Event{Key: k, Gone: true}) }
	}
	isolated := bnet("red", "10.0.0.0/24")
	isolated.Spec.Isolation.Ports = true
	moved := bnet("blue", "10.1.0.0/24")
	moved.Spec.Gateway.Addresses = []v1alpha1.IPAddress{"10.1.0.7"}
	sibling := nsa("b2", "blue")
	sibling.Spec.Target.Netns.Name, sibling.Spec.Interface = "b", "eth1"
	for name, c := range map[string]struct {
		change func(*world)
		want   string
	}{
		"an attachment more":                {set(nsa("new", "red")), "nsa:lab/new"},
		"an attachment less":                {remove(nsa("a2", "red")), ""},
		"the target of a publish less":      {remove(nsa("a", "red")), "pp:lab/web"},
		"a publish more":                    {set(pp("new", "a2", "", 90)), "pp:lab/new"},
		"a publish edited":                  {set(pp("web", "a", "", 91)), "pp:lab/web"},
		"a network edited":                  {set(isolated), "bnet:red nsa:lab/a nsa:lab/a2 nsa:lab/p0 nsa:lab/p1 pp:lab/children pp:lab/web"},
		"a named host address went":         {set(moved), "bnet:blue nsa:lab/b pp:lab/named"},
		"a sibling more":                    {set(sibling), "nsa:lab/b nsa:lab/b2"},
		"an address deleted by another":     {gone(netstate.Address{Netns: "b", Link: "eth0", Prefix: pfx("10.1.0.2/24")}.Key()), "nsa:lab/b"},
		"a child's pod ends":                {func(w *world) { w.e.SetPods(pods("p1")) }, "nsa:lab/p0 pp:lab/children"},
		"a pod of no attachment":            {func(w *world) { w.e.SetPods(pods("p0", "p1", "else")) }, ""},
		"a foreign interface more":          {func(w *world) { w.foreignLink("eth7") }, "bnet:blue bnet:red"},
		"the same foreign interfaces again": {func(w *world) { w.k.fn(kernel.Event{Key: netstate.Link{Name: "eth0"}.Key()}) }, ""},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.e.Synced(true)
			w.e.SetPods(pods("p0", "p1"))
			owned := true
			for _, o := range []v1alpha1.Object{bnet("red", "10.0.0.0/24"), bnet("blue", "10.1.0.0/24"), nsa("a", "red"), nsa("a2", "red"), nsa("b", "blue"),
				pp("web", "a", "", 80), pp("named", "b", "10.1.0.1", 80), pp("children", "all", "", 8080)} {
				w.set(o)
			}
			for i := range 2 {
				name := fmt.Sprint("p", i)
				a := podNSA(name, name, "red")
				a.OwnerReferences = []metav1.OwnerReference{{APIVersion: v1alpha1.GroupVersion.String(), Kind: "NamespaceAttachment", Name: "all", Controller: &owned}}
				w.k.set.Add(netstate.Netns{Name: name})
				w.set(a)
			}
			w.turns(20)
			w.later(nodePause)
			w.turns(20)
			h := newHistory(w)
			c.change(w)
			w.turns(20)
			if got := strings.Join(slices.Sorted(maps.Keys(h.compiled)), " "); got != c.want {
				t.Errorf("compiled are %q, want %q", got, c.want)
			}
			for o, n := range h.compiled {
				if n > 1 {
					t.Errorf("%s is compiled %d times", o, n)
				}
			}
		})
	}
}

func pods(names ...string) (list []Pod) {
	for _, name := range names {
		list = append(list, Pod{UID: name, Namespace: "lab", Name: name, Netns: name})
	}
	return list
}

// foreignLink gives the node an interface of another program.
func (w *world) foreignLink(name string) {
	w.k.node.Links[name] = netstate.NodeLink{Type: netstate.OtherLink, MTU: 1500}
	w.k.fn(kernel.Event{Key: netstate.Link{Name: name}.Key()})
}
