package controlplane

import (
	"fmt"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/patchbay-dev/patchbay/api/v1alpha1"
)

// spreadOver waits until a publish has children on just these nodes, each bound.
func (l *lab) spreadOver(p *v1alpha1.PortPublish, nodes ...string) map[string]*v1alpha1.PortPublish {
	l.Helper()
	got := map[string]*v1alpha1.PortPublish{}
	l.until("children of "+p.Name, func() string {
		var list v1alpha1.PortPublishList
		if err := l.List(testContext(l.T), &list, client.InNamespace(l.name)); err != nil {
			return err.Error()
		}
		clear(got)
		for i, c := range list.Items {
			if v1alpha1.Parent(&c) == p.Name {
				got[c.Annotations[v1alpha1.AnnotationNodeName]] = &list.Items[i]
			}
		}
		for _, node := range nodes {
			if got[node] == nil || got[node].Status.NodeName != node || conditionsOf(got[node])["Accepted"] != "True Accepted" {
				return fmt.Sprintf("that on %s is %+v", node, got[node])
			}
		}
		if len(got) != len(nodes) {
			return fmt.Sprintf("%d, want %d", len(got), len(nodes))
		}
		return ""
	})
	return got
}

// TestControllerSpread: the publish of a parent has one child on each node where
// pods are, follows them, and sums its children up.
func TestControllerSpread(t *testing.T) {
	l := newLab(t, "spread")
	w1, w2 := l.node("w1").Name, l.node("w2").Name
	n := l.network("red")
	p := l.publish("web", "web")
	parent := l.selector("web", n.Name, "web")
	l.wants(p, "Accepted", "True Accepted")
	l.wants(p, "Ready", "False Pending")
	l.says(p, "Ready", "no pod of NamespaceAttachment spread/web is on a node; its spec.target.podSelector says which are meant")
	a, b := l.pod("a", w1, "web"), l.pod("b", w1, "web")
	only := l.spreadOver(p, w1)[w1]
	far := l.pod("c", w2, "web")
	children := l.spreadOver(p, w1, w2)
	if children[w1].UID != only.UID || only.Name != v1alpha1.ChildName("web", w1) {
		t.Errorf("%s on w1 was made anew as %s", only.Name, children[w1].Name)
	}
	if ref := metav1.GetControllerOf(only); ref.UID != p.UID || ref.Kind != "PortPublish" || *ref.BlockOwnerDeletion {
		t.Errorf("owner %+v", ref)
	}
	if diff := gocmp.Diff(p.Spec, only.Spec); diff != "" {
		t.Errorf("child's spec, want -, got +:\n%s", diff)
	}
	l.says(p, "Ready", "on 0 of 2 nodes, waiting for 2; the first is "+w1)
	l.agentOf(children[w1], "True", "Programmed")
	l.agentOf(children[w2], "False", "HostPortConflict")
	l.wants(p, "Ready", "False HostPortConflict")
	l.says(p, "Ready", w2+": because (on 1 of 2 nodes, 1 failing)")
	l.agentOf(children[w2], "True", "Programmed")
	l.wants(p, "Ready", "True Programmed")
	want := v1alpha1.PortPublishStatus{ObservedGeneration: 1, Summary: "2 nodes: *:80/TCP", Conditions: p.Status.Conditions}
	if diff := gocmp.Diff(want, p.Status); diff != "" || message(p, "Ready") != "on 2 nodes" {
		t.Errorf("%q, status want -, got +:\n%s", message(p, "Ready"), diff)
	}

	l.edit(p, func() { p.Spec.Ports[0].HostPort = 81 })
	l.until("edited", func() string {
		for node, c := range l.spreadOver(p, w1, w2) {
			if c.Spec.Ports[0].HostPort != 81 || c.UID != children[node].UID {
				return fmt.Sprint(c.Spec)
			}
		}
		return ""
	})
	l.end(far)
	l.end(a)
	l.spreadOver(p, w1)
	l.end(b)
	l.spreadOver(p)
	l.hasChildren(parent)
	l.pod("d", w2, "web")
	l.spreadOver(p, w2)
	l.edit(n, func() { n.Spec.Gateway.Mode = v1alpha1.GatewayNone })
	l.wants(p, "Accepted", "False Unsupported")
	l.wants(p, "Ready", "False Pending")
}

// TestControllerSpreadChanges: what publishes one attachment can come to publish
// many, and one again, and nothing of the former stays in its status.
func TestControllerSpreadChanges(t *testing.T) {
	l := newLab(t, "spreadch")
	w1 := l.node("w1").Name
	n := l.network("red")
	parent := l.selector("web", n.Name)
	l.attachment("one", w1, n.Name)
	l.hasChildren(parent, l.pod("a", w1))
	p := l.publish("pub", "one")
	l.bound(p, w1)
	agent := map[string]any{"observedGeneration": int64(1), "summary": "*:80", "published": []any{map[string]any{"hostPort": int64(80), "protocol": "TCP", "target": "10.68.0.2:80"}}}
	l.agent(p, agent, "True", "Programmed")
	l.edit(p, func() { p.Spec.Attachment = "web" })
	child := l.spreadOver(p, w1)[w1]
	l.wants(p, "Ready", "Unknown Pending")
	if p.Status.NodeName != "" || len(p.Status.Published) > 0 || p.Status.Summary != "" {
		t.Errorf("spread, and yet %+v", p.Status)
	}
	l.agentOf(child, "True", "Programmed")
	l.wants(p, "Ready", "True Programmed")
	if p.Status.Summary != "1 node: *:80/TCP" || message(p, "Ready") != "on 1 node" {
		t.Errorf("%s: %+v", message(p, "Ready"), p.Status)
	}
	l.remove(parent)
	for _, c := range l.children(parent) {
		l.remove(c) // as the garbage collector does
	}
	l.spreadOver(p)
	l.wants(p, "Accepted", "False AttachmentNotFound")
	l.wants(p, "Ready", "False Pending")
	l.edit(p, func() { p.Spec.Attachment = "one" })
	l.bound(p, w1)
	l.wants(p, "Ready", "Unknown Rebinding")
	want := v1alpha1.PortPublishStatus{NodeName: w1, Conditions: p.Status.Conditions}
	if diff := gocmp.Diff(want, p.Status); diff != "" {
		t.Errorf("bound again, want -, got +:\n%s", diff)
	}
}

// TestControllerSpreadNames: an annotation binds nothing that no publish
// controls, and an object with the name of a child is not taken over.
func TestControllerSpreadNames(t *testing.T) {
	l := newLab(t, "spreadnames")
	w1 := l.node("w1").Name
	n := l.network("red")
	parent := l.selector("web", n.Name)
	l.hasChildren(parent, l.pod("a", w1))
	taken := l.newPublish(v1alpha1.ChildName("pub", w1), "nobody")
	l.make(taken)
	annotated := l.newPublish("annotated", "web")
	annotated.Annotations = map[string]string{v1alpha1.AnnotationNodeName: w1}
	l.make(annotated)
	p := l.publish("pub", "web")
	l.wants(p, "Ready", "False NameConflict")
	l.says(p, "Ready", fmt.Sprintf("%s: PortPublish %s exists and was not made for it; delete that or give it another name (on 0 of 1 nodes, 1 failing)", w1, taken.Name))
	l.remove(taken)
	l.spreadOver(p, w1)
	l.spreadOver(annotated, w1)
	l.wants(annotated, "Ready", "Unknown Pending")
	if annotated.Status.NodeName != "" {
		t.Errorf("an annotation binds to %s", annotated.Status.NodeName)
	}
}

// TestControllerSpreadLost: a lost node is what a publish on several says first.
func TestControllerSpreadLost(t *testing.T) {
	l := newLab(t, "spreadlost")
	w1, w2 := l.node("w1"), l.node("w2")
	n := l.network("red")
	parent := l.selector("web", n.Name)
	p := l.publish("pub", "web")
	l.hasChildren(parent, l.pod("a", w1.Name), l.pod("b", w2.Name))
	for _, c := range l.spreadOver(p, w1.Name, w2.Name) {
		l.agentOf(c, "True", "Programmed")
	}
	l.wants(p, "Ready", "True Programmed")
	l.setReady(w2, corev1.ConditionFalse, metav1.Now().Time)
	l.wants(p, "Ready", "False NodeNotReady")
}

// TestControllerSpreadForged: a publish that names itself as what made it, or what
// is gone, is for no node.
func TestControllerSpreadForged(t *testing.T) {
	l := newLab(t, "spreadforged")
	w1 := l.node("w1").Name
	l.selector("web", l.network("red").Name, "web")
	l.pod("a", w1, "web")
	p := l.publish("web", "web")
	l.spreadOver(p, w1)
	forged := l.publish("forged", "web")
	l.wants(forged, "Accepted", "True Accepted")
	l.edit(forged, func() {
		owner := metav1.NewControllerRef(forged, v1alpha1.GroupVersion.WithKind("PortPublish"))
		forged.OwnerReferences = []metav1.OwnerReference{*owner}
		forged.Annotations = map[string]string{v1alpha1.AnnotationNodeName: w1}
	})
	l.wants(forged, "Accepted", "False Unsupported")
	if forged.Status.NodeName != "" {
		t.Errorf("it is bound to %s", forged.Status.NodeName)
	}
	l.edit(forged, func() { forged.OwnerReferences[0].UID, forged.OwnerReferences[0].Name = "gone", "gone" })
	l.wants(forged, "Accepted", "False Unsupported")
}
