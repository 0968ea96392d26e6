package controlplane

import (
	"strings"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// TestControllerNodeNotReady: objects that are bound to a lost node say so until its
// agent speaks again.
func TestControllerNodeNotReady(t *testing.T) {
	l := newLab(t, "lost")
	w1, w2 := l.node("w1"), l.node("w2")
	n := l.network("red")
	b := l.builtOn(n, w1.Name, w2.Name)
	a, p, far := l.attachment("net1", w1.Name, n.Name), l.publish("web", "net1"), l.attachment("net2", w2.Name, n.Name)
	l.bound(far, w2.Name)
	l.agent(far, nil, "True", "Programmed")
	onW1 := []client.Object{a, p, b[w1.Name]}
	for _, o := range onW1 {
		if nodeNameOf(o) != "" {
			l.bound(o, w1.Name)
		}
		l.agent(o, map[string]any{"observedGeneration": int64(1)}, "True", "Programmed")
	}
	l.bridgeReady(b[w2.Name], 1, "True", "Programmed")
	l.wants(n, "Ready", "True Programmed")

	since := time.Now()
	l.setReady(w1, corev1.ConditionFalse, since)
	for _, o := range onW1 {
		l.wants(o, "Ready", "Unknown NodeNotReady")
		if text := message(o, "Ready"); !strings.Contains(text, w1.Name) || !strings.Contains(text, since.UTC().Format(time.RFC3339)) {
			t.Errorf("%s says %q", o.GetName(), text)
		}
	}
	if waited := time.Since(since.Truncate(time.Second)); waited < quick.NodeGrace {
		t.Errorf("NodeNotReady after %v, want %v", waited, quick.NodeGrace)
	}
	l.wants(n, "Ready", "False NodeNotReady")
	if n.Status.Nodes.Ready != 1 || len(n.Status.FailingNodes) != 1 || n.Status.FailingNodes[0].Node != w1.Name {
		t.Errorf("rollup: %+v", n.Status)
	}
	l.wants(far, "Ready", "True Programmed")

	for _, o := range onW1 {
		l.agent(o, map[string]any{"observedGeneration": int64(1)}, "False", "KernelError")
		l.wants(o, "Ready", "Unknown NodeNotReady")
	}
	if a.Status.ObservedGeneration != 1 || conditionsOf(a)["Accepted"] != "True Accepted" || a.Status.NodeName != w1.Name {
		t.Errorf("NodeNotReady leaves %+v", a.Status)
	}

	l.setReady(w1, corev1.ConditionTrue, time.Now())
	for _, o := range onW1 {
		l.wants(o, "Ready", "Unknown Pending")
		l.agent(o, map[string]any{"observedGeneration": int64(1)}, "True", "Programmed")
		l.wants(o, "Ready", "True Programmed")
	}
	l.wants(n, "Ready", "True Programmed")
	for _, part := range []string{"namespaceattachments/net1", "portpublishes/web"} {
		// Bound, NodeNotReady, overruled again, back.
		if got := l.writes.of(part); len(got) != 4 {
			t.Errorf("%d writes, want 4: %v", len(got), got)
		}
	}
	l.wroteOnce("namespaceattachments/net2")
}

// TestControllerSilentNode: a kubelet that fell silent long ago is not waited
// for again, nor is a node that is gone.
func TestControllerSilentNode(t *testing.T) {
	l := newLab(t, "silent")
	w1 := l.node("w1")
	a := l.attachment("net1", w1.Name, "")
	l.bound(a, w1.Name)
	l.agent(a, nil, "True", "Programmed")
	began := time.Now()
	l.setReady(w1, corev1.ConditionUnknown, time.Now().Add(-quick.NodeGrace))
	l.wants(a, "Ready", "Unknown NodeNotReady")
	if waited := time.Since(began); waited > quick.NodeGrace {
		t.Errorf("NodeNotReady after %v", waited)
	}
	l.remove(w1)
	l.until("gone", func() string {
		_ = l.Get(testContext(t), client.ObjectKeyFromObject(a), a)
		return gocmp.Diff("node silent-w1 was deleted", message(a, "Ready"))
	})
	l.wants(a, "Accepted", "False NodeNotFound")
	l.node("w1")
	l.wants(a, "Accepted", "True Accepted")
	l.wants(a, "Ready", "Unknown Pending")
}
