package engine

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/patchbay-dev/patchbay/api/v1alpha1"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
	"github.com/patchbay-dev/patchbay/nodeagent/plan"
)

// child is an attachment made for a pod that the parent chose.
func child(name, parent, network string, addr ...string) *v1alpha1.NamespaceAttachment {
	a := nsa(name, network, addr...)
	yes := true
	a.OwnerReferences = []metav1.OwnerReference{{APIVersion: v1alpha1.GroupVersion.String(), Kind: "NamespaceAttachment", Name: parent, Controller: &yes}}
	return a
}

// expectTargets compares what a publish leads to, in its status and in the
// firewall.
func (w *world) expectTargets(what string, p *v1alpha1.PortPublish, want ...string) {
	w.t.Helper()
	var told []string
	for _, s := range w.r.status[own(p)].Publish.Published {
		told = append(told, s.Target)
	}
	key := netstate.Publish{Host: netip.IPv4Unspecified(), Proto: "tcp", HostPort: uint16(p.Spec.Ports[0].HostPort)}.Key()
	held, _ := w.n.set[key].(netstate.Publish)
	if !slices.Equal(told, want) || string(held.Targets) != strings.Join(want, ",") {
		w.t.Errorf("%s: the status says %v, the firewall holds %q, want %v", what, told, held.Targets, want)
	}
}

// TestChildren follows the children of a parent as they come, move, fail and go.
func TestChildren(t *testing.T) {
	w := newWorld(t)
	p := pp("web", "web", "", 80)
	w.set(bnet("red", "10.0.0.0/24"))
	w.set(p)
	w.turns(20)
	w.e.Synced(true)
	if c := w.r.status[own(p)].Ready; c.Reason != v1alpha1.ReasonPending || !strings.Contains(c.Message, "waits for attachment web") {
		t.Errorf("without children: %s %s", c.Reason, c.Message)
	}
	one, two, three := child("web-1", "web", "red", "10.0.0.11/24"), child("web-2", "web", "red", "10.0.0.12/24"), child("web-3", "web", "red", "10.0.0.13/24")
	w.set(one)
	w.set(child("other-1", "other", "red", "10.0.0.21/24"))
	w.turns(20)
	w.expectTargets("one child", p, "10.0.0.11:80")
	w.set(two)
	w.set(three)
	w.turns(20)
	w.expectTargets("three children", p, "10.0.0.11:80", "10.0.0.12:80", "10.0.0.13:80")
	if s := w.r.status[own(p)].Publish.Summary; s != "*:80/TCP->3 targets" {
		t.Errorf("the summary is %q", s)
	}
	w.set(child("web-2", "web", "red", "10.0.0.32/24"))
	w.turns(20)
	w.expectTargets("one moved", p, "10.0.0.11:80", "10.0.0.13:80", "10.0.0.32:80")
	w.e.Update(nil, []netstate.Owner{own(three)})
	w.turns(20)
	w.expectTargets("one gone", p, "10.0.0.11:80", "10.0.0.32:80")
	w.set(nsa("web", "red", "10.0.0.99/24"))
	w.turns(20)
	w.expectTargets("one of the very name", p, "10.0.0.99:80")
}

// TestFailingChildren shows that one who fails is left out as long as another
// does not.
func TestFailingChildren(t *testing.T) {
	w := newWorld(t)
	w.set(bnet("red", "10.0.0.0/24"))
	p := pp("web", "web", "", 80)
	w.set(p)
	w.set(child("web-1", "web", "red", "10.0.0.11/24"))
	w.set(child("web-2", "web", "red", "10.0.0.12/24"))
	failing := map[string]bool{"web-2": true}
	w.k.appErr = func(s plan.Step) error {
		if failing[s.Key.Netns] {
			return errors.New("no")
		}
		return nil
	}
	w.retry()
	w.expectTargets("one never built", p, "10.0.0.11:80")
	delete(failing, "web-2")
	w.retry()
	w.expectTargets("both built", p, "10.0.0.11:80", "10.0.0.12:80")

	failing["web-1"] = true
	delete(w.k.set, netstate.Netns{Name: "web-1"}.Key())
	w.e.everything()
	w.retry()
	w.expectTargets("one lost", p, "10.0.0.12:80")
	if c := w.r.status[own(p)].Ready; c.Status != "True" {
		t.Errorf("one lost: %s %s", c.Reason, c.Message)
	}
	failing["web-2"] = true
	delete(w.k.set, netstate.Netns{Name: "web-2"}.Key())
	w.e.everything()
	if n := w.retry(); n == 200 {
		t.Error("the publish of failing children is looked at without end")
	}
	clear(failing)
	w.retry()
	w.expectTargets("both back", p, "10.0.0.11:80", "10.0.0.12:80")
}

// retry has what pauses after an error tried at once, a few times.
func (w *world) retry() (turns int) {
	for range 4 {
		w.later(lastRetry)
		turns += w.turns(50)
	}
	return turns
}

func TestSummary(t *testing.T) {
	entry := func(address, target string, port int32) v1alpha1.PublishedStatus {
		return v1alpha1.PublishedStatus{Address: v1alpha1.IPAddress(address), Protocol: v1alpha1.TCP, HostPort: port, Target: target}
	}
	both := []v1alpha1.PublishedStatus{
		entry("", "10.0.0.1:80", 20080), entry("", "10.0.0.2:80", 20080), entry("", "10.0.0.3:80", 20080),
		entry("", "[fd00::1]:80", 20080), entry("", "[fd00::2]:80", 20080), entry("", "[fd00::3]:80", 20080),
		entry("2001:db8::1", "[fd00::1]:80", 20081),
	}
	var many []v1alpha1.PublishedStatus
	for i := range int32(9) {
		many = append(many, entry("", fmt.Sprintf("10.0.0.1:%d", i+1), 20000+i), entry("", fmt.Sprintf("10.0.0.2:%d", i+1), 20000+i))
	}
	ranged, other := entry("", "10.0.0.5:8000", 8000), entry("", "[fd00::5]:8000", 8000)
	ranged.HostPortEnd, other.HostPortEnd = 8010, 8010
	for _, c := range []struct {
		published []v1alpha1.PublishedStatus
		want      string
	}{
		{nil, ""},
		{[]v1alpha1.PublishedStatus{ranged, other, entry("127.0.0.1", "10.0.0.5:8000", 8000)},
			"*:8000-8010/TCP->10.0.0.5:8000, *:8000-8010/TCP->[fd00::5]:8000, 127.0.0.1:8000/TCP->10.0.0.5:8000"},
		{both[:1], "*:20080/TCP->10.0.0.1:80"},
		{both[:4], "*:20080/TCP->3 targets, *:20080/TCP->[fd00::1]:80"},
		{both, "*:20080/TCP->3 targets, [2001:db8::1]:20081/TCP->[fd00::1]:80"},
		{many, "*:20000/TCP->2 targets, *:20001/TCP->2 targets, *:20002/TCP->2 targets, *:20003/TCP->2 targets, *:20004/TCP->2 targets, +4"},
	} {
		if got := summary(c.published); got != c.want {
			t.Errorf("the summary is %q, want %q", got, c.want)
		}
	}
}
