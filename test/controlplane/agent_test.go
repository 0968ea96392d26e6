package controlplane

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/patchbay-dev/patchbay/api/v1alpha1"
	"github.com/patchbay-dev/patchbay/test/netlab"
)

// TestAgentBuilds: objects that are bound to a node are built there, become Ready by
// one write each, and leave nothing behind when they are deleted.
func TestAgentBuilds(t *testing.T) {
	h := newHost(t, "builds-1")
	h.agent()
	l := newRig(t, "builds", h.name)
	l.allReady()
	l.ping(h)
	if l.publish.Status.Summary != "*:8001/TCP->"+address(l.one)+":8001" || l.bridge.Status.Bridge != "br-builds" || l.one.Status.NodeName != h.name {
		t.Errorf("status: %+v\n%+v\n%+v", l.publish.Status, l.bridge.Status, l.one.Status)
	}
	for _, o := range []client.Object{l.publish, l.two, l.one, l.bridge} {
		if err := api.Delete(testContext(t), o); err != nil {
			t.Fatal(err)
		}
	}
	h.clean()
}

// TestAgentRestart: an agent that starts anew writes nothing to the API server,
// and knows the objects that were deleted and made meanwhile.
func TestAgentRestart(t *testing.T) {
	h := newHost(t, "restart-1")
	first := h.agent()
	l := newRig(t, "restart", h.name)
	l.allReady()
	first.stop()
	versions := l.versions()
	if err := api.Delete(testContext(t), l.publish); err != nil {
		t.Fatal(err)
	}
	third := create(t, &v1alpha1.NamespaceAttachment{ObjectMeta: metav1.ObjectMeta{Name: "restart-3", Namespace: metav1.NamespaceDefault}, Spec: v1alpha1.NamespaceAttachmentSpec{
		Network: l.network.Name, Target: v1alpha1.AttachmentTarget{Netns: &v1alpha1.NetnsTarget{Name: "restart-3", NodeName: h.name}},
	}})
	l.bind(third, h.name)
	l.ping(h)
	h.agent()
	l.ready(third)
	if got := address(third); got == address(l.one) || got == address(l.two) || got == "" {
		t.Errorf("the new attachment has %s beside %s and %s", got, address(l.one), address(l.two))
	}
	h.closed("8001")
	if now := l.versions(); now != versions {
		t.Errorf("resource versions were %s, and are %s after a restart", versions, now)
	}
}

func (l *rig) versions() string {
	var all []string
	for _, o := range []client.Object{l.bridge, l.one, l.two} {
		l.refresh(o)
		all = append(all, o.GetName()+"="+o.GetResourceVersion())
	}
	return strings.Join(all, " ")
}

// TestAgentKeepsWhatWasJudged: while the verdict on an edit is out, the state of
// the last one stays, also over a restart; refused, it goes.
func TestAgentKeepsWhatWasJudged(t *testing.T) {
	h := newHost(t, "lag-1")
	first := h.agent()
	l := newRig(t, "lag", h.name)
	l.allReady()
	l.edit(l.publish, func() { l.publish.Spec.Ports[0].HostPort = 8002 })
	l.edit(l.two, func() { l.two.Spec.Routes = []v1alpha1.RouteSpec{{To: "10.99.0.0/16", Via: "10.68.0.1"}} })
	l.edit(l.one, func() { l.one.Spec.Routes = []v1alpha1.RouteSpec{{To: "10.98.0.0/16", Via: "10.68.0.1"}} })
	l.bind(l.one, h.name)
	l.ready(l.one)
	l.unchanged(h)
	first.stop()
	h.agent()
	// A verdict on another object shows that the agent is at work.
	l.edit(l.one, func() { l.one.Spec.Routes = nil })
	l.bind(l.one, h.name)
	l.ready(l.one)
	l.unchanged(h)
	l.judge(l.publish, metav1.ConditionFalse, map[string]any{"nodeName": h.name})
	l.waitFor(l.publish, metav1.ConditionFalse, v1alpha1.ReasonPending)
	l.bind(l.two, h.name)
	h.closed("8001")
	l.bind(l.publish, h.name)
	l.allReady()
	if routes := h.run("ip", "netns", "exec", "lag-2", "ip", "route"); !strings.Contains(routes, "10.99.0.0/16 via 10.68.0.1") {
		t.Errorf("accepted, and not there: %s", routes)
	}
}

func (l *rig) unchanged(h *host) {
	l.t.Helper()
	l.ping(h)
	if !h.publishes("8001") || h.publishes("8002") {
		l.t.Errorf("an edit that nobody judged changed the rules")
	}
}

func (l *rig) edit(o client.Object, change func()) {
	l.t.Helper()
	netlab.Eventually(l.t, deadline, "edit "+o.GetName(), func() error {
		l.refresh(o)
		change()
		err := api.Update(testContext(l.t), o)
		if err != nil && !apierrors.IsConflict(err) {
			l.t.Fatal(err)
		}
		return err
	})
}

// TestAgentRebinding: an object that is bound to another node is gone from the
// first, and nothing of the first is left in its status.
func TestAgentRebinding(t *testing.T) {
	h1, h2 := newHost(t, "rebind-1"), newHost(t, "rebind-2")
	h1.agent()
	h2.agent()
	l := newRig(t, "rebind", h1.name)
	l.allReady()
	create(t, &v1alpha1.NodeBridge{ObjectMeta: metav1.ObjectMeta{Name: "rebind." + h2.name}, Spec: v1alpha1.NodeBridgeSpec{Network: "rebind", NodeName: h2.name}})
	for _, o := range []client.Object{l.one, l.two, l.publish} {
		l.rebind(o, h2.name)
	}
	if err := api.Delete(testContext(t), l.bridge); err != nil {
		t.Fatal(err)
	}
	for _, o := range []client.Object{l.one, l.two, l.publish} {
		l.ready(o)
	}
	l.ping(h2)
	h1.clean()
	if l.one.Status.NodeName != h2.name {
		t.Errorf("bound to %s", l.one.Status.NodeName)
	}
}

// rebind is the controller's one write for it.
func (l *rig) rebind(o client.Object, node string) {
	l.t.Helper()
	netlab.Eventually(l.t, deadline, "rebind "+o.GetName(), func() error {
		l.refresh(o)
		before, _ := o.DeepCopyObject().(client.Object)
		conditions := []metav1.Condition{
			{Type: "Accepted", Status: "True", Reason: "Accepted", ObservedGeneration: o.GetGeneration(), LastTransitionTime: metav1.Now()},
			{Type: "Ready", Status: "Unknown", Reason: v1alpha1.ReasonRebinding, ObservedGeneration: o.GetGeneration(), LastTransitionTime: metav1.Now()},
		}
		switch o := o.(type) {
		case *v1alpha1.NamespaceAttachment:
			o.Status = v1alpha1.NamespaceAttachmentStatus{NodeName: node, Conditions: conditions}
		case *v1alpha1.PortPublish:
			o.Status = v1alpha1.PortPublishStatus{NodeName: node, Conditions: conditions}
		}
		return api.Status().Patch(testContext(l.t), o, client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{}), client.FieldOwner(v1alpha1.FieldManagerController))
	})
}

// TestAgentLeavesNodeNotReady: what the controller says of a node that is not
// Ready stands until the controller takes it back.
func TestAgentLeavesNodeNotReady(t *testing.T) {
	h := newHost(t, "notready-1")
	first := h.agent()
	l := newRig(t, "notready", h.name)
	l.allReady()
	l.say(l.one, v1alpha1.ReasonNodeNotReady)
	// Drift that is repaired makes the agent look at its status again.
	h.run("ip", "netns", "exec", "notready-1", "ip", "route", "del", "default")
	netlab.Eventually(t, deadline, "drift repaired", func() error {
		out, err := h.try("ip", "netns", "exec", "notready-1", "ip", "route", "get", "192.0.2.1")
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	})
	first.stop()
	h.agent()
	l.edit(l.two, func() { l.two.Spec.Routes = []v1alpha1.RouteSpec{{To: "10.99.0.0/16", Via: "10.68.0.1"}} })
	l.bind(l.two, h.name)
	l.ready(l.two)
	l.refresh(l.one)
	if c := readyOf(l.one); c.Reason != v1alpha1.ReasonNodeNotReady {
		t.Errorf("the agent wrote %s over NodeNotReady", c.Reason)
	}
	l.say(l.one, v1alpha1.ReasonPending)
	l.ready(l.one)
}

// say writes Ready=Unknown as the controller does.
func (l *rig) say(o *v1alpha1.NamespaceAttachment, reason string) {
	l.t.Helper()
	netlab.Eventually(l.t, deadline, reason+" on "+o.Name, func() error {
		l.refresh(o)
		before := o.DeepCopy()
		meta.SetStatusCondition(&o.Status.Conditions, metav1.Condition{Type: "Ready", Status: "Unknown", Reason: reason, ObservedGeneration: o.Generation})
		return api.Status().Patch(testContext(l.t), o, client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{}), client.FieldOwner(v1alpha1.FieldManagerController))
	})
}

// TestAgentWithoutAPIServer: drift is repaired while the API server is away; what
// happened meanwhile is caught up with.
func TestAgentWithoutAPIServer(t *testing.T) {
	h := newHost(t, "away-1")
	h.agent()
	l := newRig(t, "away", h.name)
	l.allReady()
	h.disconnect()
	h.run("ip", "link", "delete", "br-away")
	netlab.Eventually(t, deadline, "bridge repaired", func() error {
		_, err := h.try("ip", "netns", "exec", "away-1", "ping", "-c", "1", "-W", "1", address(l.two))
		return err
	})
	l.edit(l.two, func() { l.two.Spec.Routes = []v1alpha1.RouteSpec{{To: "10.99.0.0/16", Via: "10.68.0.1"}} })
	l.bind(l.two, h.name)
	if err := api.Delete(testContext(t), l.publish); err != nil {
		t.Fatal(err)
	}
	h.connect()
	l.ready(l.two)
	h.closed("8001")
	l.ready(l.one)
}

// TestStatusAndDeleteAll: on a node whose cluster is gone, status says what the
// cluster has left, and delete --all takes it away; while the agent runs, it
// refuses.
func TestStatusAndDeleteAll(t *testing.T) {
	h := newHost(t, "gone-1")
	a := h.agent()
	l := newRig(t, "gone", h.name)
	l.allReady()
	if out, err := h.patchbay("delete", "--all"); err == nil || !strings.Contains(out, "managed by a running agent of a cluster") {
		t.Errorf("beside the agent: %v, %s", err, out)
	}
	a.stop()
	out, err := h.patchbay("status")
	if err != nil || !strings.Contains(out, "NamespaceAttachment default/gone-1") || strings.Contains(out, "Nothing of Patchbay") {
		t.Errorf("status: %v\n%s", err, out)
	}
	if out, err := h.patchbay("delete", "--all"); err != nil {
		t.Errorf("delete --all: %v\n%s", err, out)
	}
	h.clean()
	if out, err := h.patchbay("status"); err != nil || !strings.Contains(out, "Nothing of Patchbay is on this node.") {
		t.Errorf("status: %v\n%s", err, out)
	}
}

// TestAgentStartsBeforeTheAPIServer: an agent that comes up first waits, leaves the
// kernel alone, and begins when the API server is back.
func TestAgentStartsBeforeTheAPIServer(t *testing.T) {
	h := newHost(t, "early-1")
	first := h.agent()
	l := newRig(t, "early", h.name)
	l.allReady()
	first.stop()
	h.disconnect()
	second := h.agent()
	netlab.Eventually(t, deadline, "the agent tries", func() error {
		if !strings.Contains(second.Log(), "attempt=2") {
			return errors.New("no second attempt in its log")
		}
		return nil
	})
	l.ping(h)
	h.connect()
	l.edit(l.one, func() { l.one.Spec.Routes = []v1alpha1.RouteSpec{{To: "10.99.0.0/16", Via: "10.68.0.1"}} })
	l.bind(l.one, h.name)
	l.ready(l.one)
}

// TestSecondAgentWaits: of two agents on one node, say by two installations, one
// works and the other says that it waits, until the first ends.
func TestSecondAgentWaits(t *testing.T) {
	h := newHost(t, "second-1")
	first := h.agent()
	l := newRig(t, "second", h.name)
	l.allReady()
	second := h.agent()
	netlab.Eventually(t, deadline, "the second waits", func() error {
		if said := second.Log(); !strings.Contains(said, "waiting for another process to end") {
			return errors.New(said)
		}
		return nil
	})
	first.stop()
	l.edit(l.one, func() { l.one.Spec.Routes = []v1alpha1.RouteSpec{{To: "10.99.0.0/16", Via: "10.68.0.1"}} })
	l.bind(l.one, h.name)
	l.ready(l.one)
}

// TestAgentReservesUnjudged: the address that an attachment has on the node, or
// after a reboot by its record alone, is given to no other, though the verdict on the
// attachment is out when the agent starts.
func TestAgentReservesUnjudged(t *testing.T) {
	for _, name := range []string{"restarted", "rebooted"} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t, name+"-host")
			first := h.agent()
			l := newRig(t, name, h.name)
			l.allReady()
			has := address(l.two)
			first.stop()
			if name == "rebooted" {
				if out, err := h.patchbay("delete", "--all"); err != nil {
					t.Fatalf("%v: %s", err, out)
				}
			}
			l.edit(l.two, func() { l.two.Spec.Routes = []v1alpha1.RouteSpec{{To: "10.99.0.0/16", Via: "10.68.0.1"}} })
			third := create(t, &v1alpha1.NamespaceAttachment{ObjectMeta: metav1.ObjectMeta{Name: name + "-3", Namespace: metav1.NamespaceDefault}, Spec: v1alpha1.NamespaceAttachmentSpec{
				Network: name, Target: v1alpha1.AttachmentTarget{Netns: &v1alpha1.NetnsTarget{Name: v1alpha1.NetnsName(name + "-3"), NodeName: h.name}},
			}})
			l.bind(third, h.name)
			h.agent()
			l.ready(third)
			if got := address(third); got == has || got == "" {
				t.Errorf("the new attachment has %s, which is %s's", got, l.two.Name)
			}
			l.bind(l.two, h.name)
			l.ready(l.two)
			if got := address(l.two); got != has {
				t.Errorf("%s had %s, and has %s", l.two.Name, has, got)
			}
		})
	}
}

// TestAgentNetworkReturns: an attachment has its address again when its network
// left the node and came back.
func TestAgentNetworkReturns(t *testing.T) {
	h := newHost(t, "flap-1")
	h.agent()
	l := newRig(t, "flap", h.name)
	l.allReady()
	has := address(l.two)
	for _, o := range []client.Object{l.publish, l.one} {
		if err := api.Delete(testContext(t), o); err != nil {
			t.Fatal(err)
		}
	}
	h.closed("8001")
	if err := api.Delete(testContext(t), l.bridge); err != nil {
		t.Fatal(err)
	}
	l.waitFor(l.two, metav1.ConditionFalse, v1alpha1.ReasonPending)
	l.ready(create(t, &v1alpha1.NodeBridge{ObjectMeta: metav1.ObjectMeta{Name: l.bridge.Name}, Spec: l.bridge.Spec}))
	l.ready(l.two)
	if now := address(l.two); now != has {
		t.Errorf("it had %s, and has %s", has, now)
	}
}
