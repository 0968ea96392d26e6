package controlplane

import (
	"fmt"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
)

// TestControllerRestart: a controller that comes back to what it left, ready,
// refused, lost and in use, writes nothing at all, not even an Event.
func TestControllerRestart(t *testing.T) {
	l := newLab(t, "restart")
	w1, w2 := l.node("w1"), l.node("w2")
	n, used := l.network("red"), l.network("blue")
	b := l.builtOn(n, w1.Name, w2.Name)
	l.builtOn(used, w1.Name, w2.Name)
	a, lost, user := l.attachment("net1", w1.Name, n.Name), l.attachment("net2", w2.Name, n.Name), l.attachment("net3", w1.Name, used.Name)
	refused := l.publish("web", "nothing")
	l.bound(a, w1.Name)
	l.bound(lost, w2.Name)
	l.bound(user, w1.Name)
	l.wants(refused, "Accepted", "False AttachmentNotFound")
	l.agent(a, nil, "True", "Programmed")
	l.bridgeReady(b[w1.Name], 1, "True", "Programmed")
	l.setReady(w2, corev1.ConditionFalse, time.Now().Add(-time.Minute))
	l.wants(lost, "Ready", "Unknown NodeNotReady")
	l.remove(used)
	l.wants(used, "InUse", "True InUse")
	l.wants(n, "Ready", "False NodeNotReady")
	l.wants(used, "Ready", "False NodeNotReady")

	l.restart()
	l.during(2*quick.RollupInterval, "a restart writes nothing", func() string {
		if got := l.writes.all(); len(got) > 0 {
			return fmt.Sprint(got)
		}
		return ""
	})
	late := l.attachment("net4", w1.Name, n.Name)
	l.bound(late, w1.Name)
	if got := l.writes.all(); len(got) != 1 {
		t.Errorf("one more attachment is bound by %v", got)
	}
}

// TestControllerRestartChildren: children are as they were left, and what pods did
// meanwhile is made up for.
func TestControllerRestartChildren(t *testing.T) {
	l := newLab(t, "restartch")
	w1, w2 := l.node("w1").Name, l.node("w2").Name
	n := l.network("red")
	parent, p := l.selector("web", n.Name, "web"), l.publish("web", "web")
	gone, kept, moves := l.pod("a", w1, "web"), l.pod("b", w1, "web"), l.pod("c", w1, "web")
	named := l.podAttachment("named", "c", n.Name)
	l.boundTo(named, moves, w1)
	l.attached(l.hasChildren(parent, gone, kept, moves))
	for _, c := range l.spreadOver(p, w1) {
		l.agentOf(c, "True", "Programmed")
	}
	l.wants(parent, "Ready", "True Programmed")
	l.wants(p, "Ready", "True Programmed")
	l.wants(n, "Ready", "Unknown Pending")
	l.restart()
	l.during(2*quick.RollupInterval, "a restart writes nothing", func() string {
		if got := l.writes.all(); len(got) > 0 {
			return fmt.Sprint(got)
		}
		return ""
	})

	l.stop()
	l.end(gone)
	l.end(moves)
	moves, more := l.pod("c", w2, "web"), l.pod("d", w2, "web")
	l.restart()
	l.hasChildren(parent, kept, moves, more)
	l.boundTo(named, moves, w2)
	l.spreadOver(p, w1, w2)
}

// TestControllerEvents: transitions are told once, waiting never.
func TestControllerEvents(t *testing.T) {
	l := newLab(t, "events")
	w1 := l.node("w1")
	a := l.attachment("net1", w1.Name, "events-red")
	l.wants(a, "Accepted", "False NetworkNotFound")
	n := l.network("red")
	l.bound(a, w1.Name)
	l.agent(a, nil, "True", "Programmed")
	l.bridgeReady(l.builtOn(n, w1.Name)[w1.Name], 1, "True", "Programmed")
	l.wants(n, "Ready", "True Programmed")
	l.agent(a, nil, "False", "AddressConflict")
	l.agent(a, nil, "False", "AddressConflict")
	l.agent(a, nil, "True", "Programmed")
	want := []string{"Normal Accepted", "Normal Programmed", "Normal Programmed", "Warning AddressConflict", "Warning NetworkNotFound"}
	l.until("Events of an attachment", func() string { return gocmp.Diff(want, l.events(a)) })
	l.until("Events of a network", func() string { return gocmp.Diff([]string{"Normal Programmed"}, l.events(n)) })
	b := l.builtOn(n, w1.Name)[w1.Name]
	l.until("Events of a NodeBridge", func() string { return gocmp.Diff([]string{"Normal Programmed"}, l.events(b)) })
}
