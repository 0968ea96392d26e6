package controlplane

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/patchbay-dev/patchbay/api/v1alpha1"
	"github.com/patchbay-dev/patchbay/controllers"
)

// TestControllerBinds: what may be is accepted and bound by one write.
func TestControllerBinds(t *testing.T) {
	l := newLab(t, "binds")
	node := l.node("w1").Name
	n := l.network("red")
	a := l.attachment("net1", node, n.Name)
	p := l.publish("web", "net1")
	l.bound(a, node)
	l.bound(p, node)
	l.wants(n, "Accepted", "True Accepted")
	l.agent(a, map[string]any{"addresses": []any{"10.68.0.2/16"}}, "True", "Programmed")
	l.wants(a, "Ready", "True Programmed")
	l.wroteOnce("namespaceattachments/net1", "portpublishes/web")
}

// TestControllerReverse: users come before what they refer to, and no write is
// spent on that.
func TestControllerReverse(t *testing.T) {
	l := newLab(t, "reverse")
	node := l.node("w1").Name
	p := l.publish("web", "net1")
	a := l.attachment("net1", node, "reverse-red")
	l.attachment("sentinel", node, "")
	l.until("what came later is bound", func() string {
		if len(l.writes.of("namespaceattachments/sentinel")) == 0 {
			return "it is not"
		}
		return ""
	})
	if early := append(l.writes.of("namespaceattachments/net1"), l.writes.of("portpublishes/")...); len(early) > 0 {
		t.Errorf("written before the network is there: %v", early)
	}
	l.network("red")
	l.bound(a, node)
	l.bound(p, node)
	l.wroteOnce("namespaceattachments/net1", "portpublishes/web")
}

// TestControllerManyAtOnce: 300 attachments and 300 publishes, in any order.
func TestControllerManyAtOnce(t *testing.T) {
	l := newLab(t, "many", func(o *controllers.Options) { o.ReferenceGrace = deadline })
	node := l.node("w1").Name
	n := l.newNetwork("red")
	began := time.Now()
	var wg sync.WaitGroup
	for i := range 300 {
		wg.Go(func() { l.attachment(fmt.Sprintf("net%d", i), node, n.Name) })
		wg.Go(func() { l.publish(fmt.Sprintf("web%d", i), fmt.Sprintf("net%d", i)) })
		if i == 150 {
			wg.Go(func() { l.make(n) })
		}
	}
	wg.Wait()
	applied := time.Since(began)
	var a v1alpha1.NamespaceAttachmentList
	var p v1alpha1.PortPublishList
	l.until("300 of each are bound", func() string {
		if err := l.List(testContext(t), &a); err != nil {
			return err.Error()
		}
		if err := l.List(testContext(t), &p); err != nil {
			return err.Error()
		}
		count := 0
		for i := range a.Items {
			if nodeNameOf(&a.Items[i]) == node {
				count++
			}
		}
		for i := range p.Items {
			if nodeNameOf(&p.Items[i]) == node {
				count++
			}
		}
		if count < 600 {
			return fmt.Sprintf("%d are", count)
		}
		return ""
	})
	t.Logf("applied in %v, bound after %v", applied, time.Since(began))
	if a, p := len(l.writes.of("namespaceattachments/")), len(l.writes.of("portpublishes/")); a != 300 || p != 300 {
		t.Errorf("%d writes of attachments and %d of publishes, want 300 and 300", a, p)
	}
}

// TestControllerJudgesAgain: acceptance follows networks, labels and nodes as
// they come and go, and a bound object stays bound.
func TestControllerJudgesAgain(t *testing.T) {
	l := newLab(t, "judges")
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: l.name}}
	l.edit(namespace, func() { delete(namespace.Labels, "team") })
	w1 := l.node("w1")
	a := l.attachment("net1", w1.Name, "judges-red")
	p := l.publish("web", "net1")
	l.wants(a, "Accepted", "False NetworkNotFound")
	l.wants(p, "Accepted", "False AttachmentNotFound")
	n := l.newNetwork("red")
	n.Spec.AllowedNamespaces = &v1alpha1.AllowedNamespaces{From: v1alpha1.FromSelector, Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"team": "a"}}}
	l.make(n)
	l.wants(a, "Accepted", "False NamespaceNotAllowed")
	l.edit(namespace, func() { metav1.SetMetaDataLabel(&namespace.ObjectMeta, "team", "a") })
	l.bound(a, w1.Name)
	l.bound(p, w1.Name)

	l.edit(w1, func() { delete(w1.Labels, "lab") })
	l.wants(a, "Accepted", "False NetworkNotFound")
	l.wants(p, "Accepted", "False AttachmentNotFound")
	l.edit(w1, func() { metav1.SetMetaDataLabel(&w1.ObjectMeta, "lab", l.name) })
	l.bound(a, w1.Name)
	l.bound(p, w1.Name)

	l.edit(n, func() { n.Spec.Gateway.Mode = v1alpha1.GatewayNone })
	l.wants(p, "Accepted", "False Unsupported")
	l.edit(n, func() { n.Spec.Gateway.Mode = v1alpha1.GatewayBridge })
	l.bound(p, w1.Name)

	l.remove(w1)
	l.wants(a, "Accepted", "False NodeNotFound")
	l.wants(p, "Accepted", "False AttachmentNotFound")
	for _, o := range []client.Object{a, p} {
		if nodeNameOf(o) != w1.Name {
			t.Errorf("a node that vanished leaves %s bound to %q", o.GetName(), nodeNameOf(o))
		}
	}
	l.node("w1")
	l.bound(a, w1.Name)
	l.bound(p, w1.Name)
}

// TestControllerRebinds: a publish that is edited moves by one write, which
// leaves nothing of the former node's agent.
func TestControllerRebinds(t *testing.T) {
	l := newLab(t, "rebinds")
	w1, w2 := l.node("w1").Name, l.node("w2").Name
	n := l.network("red")
	l.attachment("net1", w1, n.Name)
	l.attachment("net2", w2, n.Name)
	p := l.publish("web", "net1")
	l.bound(p, w1)
	agent := map[string]any{"observedGeneration": int64(1), "summary": "*:80", "published": []any{map[string]any{"hostPort": int64(80), "protocol": "TCP", "target": "10.68.0.2:80"}}}
	l.agent(p, agent, "True", "Programmed")
	l.edit(p, func() { p.Spec.Attachment = "net2" })
	l.wants(p, "Ready", "Unknown Rebinding")
	want := v1alpha1.PortPublishStatus{NodeName: w2, Conditions: p.Status.Conditions}
	if diff := gocmp.Diff(want, p.Status); diff != "" {
		t.Errorf("rebound, want -, got +:\n%s", diff)
	}
	if text := message(p, "Ready"); !strings.Contains(text, w1) || !strings.Contains(text, w2) {
		t.Errorf("the message names not both nodes: %s", text)
	}
	if c := p.Status.Conditions[0]; c.Type != "Accepted" || c.Status != "True" || c.ObservedGeneration != p.Generation {
		t.Errorf("Accepted when rebound: %+v", c)
	}
	if got := l.writes.of("portpublishes/web"); len(got) != 2 {
		t.Errorf("bound and rebound by %v, want two writes", got)
	}

	l.agent(p, agent, "True", "Programmed")
	l.wants(p, "Ready", "True Programmed")
	l.edit(p, func() { p.Spec.Ports[0].HostPort = 81 })
	l.until("accepted again", func() string {
		_ = l.Get(testContext(t), client.ObjectKeyFromObject(p), p)
		if p.Status.Conditions[0].ObservedGeneration != p.Generation {
			return fmt.Sprint(p.Status.Conditions)
		}
		return ""
	})
	if p.Status.NodeName != w2 || len(p.Status.Published) != 1 || conditionsOf(p)["Ready"] != "True Programmed" {
		t.Errorf("the controller's write after that leaves %+v", p.Status)
	}
}

// TestControllerRecreated: an attachment that comes again on another node takes
// its publishes along.
func TestControllerRecreated(t *testing.T) {
	l := newLab(t, "recreated")
	w1, w2 := l.node("w1").Name, l.node("w2").Name
	n := l.network("red")
	a := l.attachment("net1", w1, n.Name)
	p := l.publish("web", "net1")
	l.bound(p, w1)
	l.remove(a)
	l.wants(p, "Accepted", "False AttachmentNotFound")
	b := l.attachment("net1", w2, n.Name)
	l.bound(b, w2)
	l.bound(p, w2)
	if got := conditionsOf(p)["Ready"]; got != "Unknown Rebinding" {
		t.Errorf("Ready is %q", got)
	}
}
