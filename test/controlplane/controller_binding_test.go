package controlplane

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/patchbay-dev/patchbay/api/v1alpha1"
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
	for _, part := range []string{"namespaceattachments/net1", "portpublishes/web"} {
		if got := l.writes.of(part); len(got) != 1 {
			t.Errorf("bound by %v, want one write", got)
		}
	}
}

// TestControllerManyAtOnce: 300 attachments and 300 publishes, in any order.
func TestControllerManyAtOnce(t *testing.T) {
	l := newLab(t, "many")
	node := l.node("w1").Name
	l.publish("first", "net0")
	l.attachment("before", node, "many-red")
	n := l.newNetwork("red")
	began := time.Now()
	var wg sync.WaitGroup
	wg.Go(func() { l.make(n) })
	for i := range 300 {
		wg.Go(func() { l.attachment(fmt.Sprintf("net%d", i), node, n.Name) })
		wg.Go(func() { l.publish(fmt.Sprintf("web%d", i), fmt.Sprintf("net%d", i)) })
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
		if count < 602 {
			return fmt.Sprintf("%d are", count)
		}
		return ""
	})
	t.Logf("applied in %v, bound after %v", applied, time.Since(began))
	if a, p := len(l.writes.of("namespaceattachments/")), len(l.writes.of("portpublishes/")); a != 301 || p != 301 {
		t.Errorf("%d writes of attachments and %d of publishes, want 301 and 301", a, p)
	}
}
