package controlplane

import (
	"fmt"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/patchbay-dev/patchbay/api/v1alpha1"
	"github.com/patchbay-dev/patchbay/controllers"
)

// There is no scheduler and no kubelet here: tests bind pods, and write their phases.

func (l *lab) newPod(name string, labels ...string) *corev1.Pod {
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: l.name, Labels: map[string]string{}},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "main", Image: "none"}}},
	}
	for _, label := range labels {
		p.Labels[label] = "yes"
	}
	return p
}

// pod makes a pod, on a node if there is one.
func (l *lab) pod(name, node string, labels ...string) *corev1.Pod {
	l.Helper()
	p := l.newPod(name, labels...)
	p.Spec.NodeName = node
	l.make(p)
	return p
}

// schedule binds a pod as the scheduler does.
func (l *lab) schedule(p *corev1.Pod, node string) {
	l.Helper()
	b := &corev1.Binding{ObjectMeta: metav1.ObjectMeta{Name: p.Name, Namespace: p.Namespace}, Target: corev1.ObjectReference{Kind: "Node", Name: node}}
	if err := l.SubResource("binding").Create(testContext(l.T), p, b); err != nil {
		l.Fatalf("bind pod %s: %v", p.Name, err)
	}
}

// phase writes what becomes of a pod.
func (l *lab) phase(p *corev1.Pod, phase corev1.PodPhase) {
	l.Helper()
	body := client.RawPatch(types.MergePatchType, fmt.Appendf(nil, `{"status":{"phase":%q}}`, phase))
	if err := l.Status().Patch(testContext(l.T), p, body); err != nil {
		l.Fatalf("patch pod %s: %v", p.Name, err)
	}
}

// end removes a pod as its kubelet does when it has ended.
func (l *lab) end(p *corev1.Pod) {
	l.Helper()
	if err := l.Delete(testContext(l.T), p, client.GracePeriodSeconds(0)); err != nil {
		l.Fatalf("delete pod %s: %v", p.Name, err)
	}
}

func (l *lab) newPodAttachment(name, pod, network string) *v1alpha1.NamespaceAttachment {
	return &v1alpha1.NamespaceAttachment{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: l.name},
		Spec: v1alpha1.NamespaceAttachmentSpec{
			Target:  v1alpha1.AttachmentTarget{Pod: &v1alpha1.PodTarget{Name: pod}},
			Network: network,
		},
	}
}

func (l *lab) podAttachment(name, pod, network string) *v1alpha1.NamespaceAttachment {
	l.Helper()
	a := l.newPodAttachment(name, pod, network)
	l.make(a)
	return a
}

// boundTo waits until an attachment is accepted and bound to a pod.
func (l *lab) boundTo(a *v1alpha1.NamespaceAttachment, p *corev1.Pod, node string) {
	l.Helper()
	l.until(a.Name+" is bound to the pod", func() string {
		if err := l.Get(testContext(l.T), client.ObjectKeyFromObject(a), a); err != nil {
			return err.Error()
		}
		have := []string{conditionsOf(a)["Accepted"], a.Status.NodeName, a.Status.PodUID}
		return gocmp.Diff([]string{"True Accepted", node, string(p.UID)}, have)
	})
}

// says waits for the words of a condition.
func (l *lab) says(o client.Object, kind, want string) {
	l.Helper()
	l.until(o.GetName()+" says", func() string {
		if err := l.Get(testContext(l.T), client.ObjectKeyFromObject(o), o); err != nil {
			return err.Error()
		}
		return gocmp.Diff(want, message(o, kind))
	})
}

// TestControllerPod: an attachment waits for its pod and the pod's node, is bound
// by one write, and follows the pod as it goes and comes.
func TestControllerPod(t *testing.T) {
	l := newLab(t, "pod")
	w1, w2 := l.node("w1").Name, l.node("w2").Name
	n := l.network("red")
	a := l.podAttachment("net1", "web-0", n.Name)
	l.says(a, "Accepted", "waiting for pod pod/web-0, which does not exist")
	p := l.pod("web-0", "")
	l.says(a, "Accepted", "waiting for pod pod/web-0, which is not on a node yet")
	if diff := gocmp.Diff(map[string]string{"Accepted": "Unknown Pending", "Ready": "Unknown Pending"}, conditionsOf(a)); diff != "" {
		t.Errorf("while it waits, want -, got +:\n%s", diff)
	}
	l.schedule(p, w1)
	l.boundTo(a, p, w1)
	if got := l.writes.of("namespaceattachments/net1"); len(got) != 3 {
		t.Errorf("waited twice and bound by %v, want three writes", got)
	}
	agent := map[string]any{"observedGeneration": int64(1), "addresses": []any{"10.68.0.2/16"}, "interface": map[string]any{"name": "net1"}}
	l.agent(a, agent, "True", "Programmed")
	l.wants(a, "Ready", "True Programmed")

	l.end(p)
	again := l.pod("web-0", "")
	l.boundTo(a, &corev1.Pod{}, w1)
	l.schedule(again, w1)
	l.boundTo(a, again, w1)
	if len(a.Status.Addresses) != 1 || conditionsOf(a)["Ready"] != "True Programmed" {
		t.Errorf("another pod on the same node leaves of the agent's %+v", a.Status)
	}
	if got := l.writes.of("namespaceattachments/net1"); len(got) != 5 {
		t.Errorf("a pod that goes and another on the same node are written by %v, want two writes more", got)
	}

	l.end(again)
	far := l.pod("web-0", w2)
	l.boundTo(a, far, w2)
	if got := conditionsOf(a)["Ready"]; got != "Unknown Rebinding" || len(a.Status.Addresses) > 0 || a.Status.Interface != nil {
		t.Errorf("on another node Ready is %q, and of the former node's: %+v", got, a.Status)
	}
	if got := l.writes.of("namespaceattachments/net1"); len(got) > 7 {
		t.Errorf("rebound by %v, want two writes more at most", got)
	}
}

// TestControllerPodAtOnce: a pod and its attachment in one go cost one write, and
// what the pod becomes afterwards costs none.
func TestControllerPodAtOnce(t *testing.T) {
	l := newLab(t, "podonce", func(o *controllers.Options) { o.ReferenceGrace = deadline })
	w1 := l.node("w1").Name
	n := l.network("red")
	a := l.podAttachment("net1", "web-0", n.Name)
	p := l.pod("web-0", "")
	web := l.publish("web", "net1")
	l.schedule(p, w1)
	l.boundTo(a, p, w1)
	l.bound(web, w1)
	l.phase(p, corev1.PodRunning)
	l.phase(p, corev1.PodSucceeded)
	l.bound(l.attachment("sentinel", w1, n.Name), w1)
	l.wroteOnce("namespaceattachments/net1", "portpublishes/web")
}

// TestControllerPodRefused: an error that does not depend on the pod's node is told at
// once, one that does when the node is known, and a hostNetwork pod never fits.
func TestControllerPodRefused(t *testing.T) {
	l := newLab(t, "podrefused")
	w1 := l.node("w1")
	closed := l.newNetwork("closed")
	closed.Spec.AllowedNamespaces = nil
	l.make(closed)
	ssd := l.network("ssd", "ssd")
	l.wants(l.podAttachment("none", "nobody", "no-such"), "Accepted", "False NetworkNotFound")
	l.wants(l.podAttachment("closed", "nobody", closed.Name), "Accepted", "False NamespaceNotAllowed")
	elsewhere := l.podAttachment("elsewhere", "web-0", ssd.Name)
	p := l.pod("web-0", w1.Name)
	l.wants(elsewhere, "Accepted", "False NetworkNotFound")
	l.edit(w1, func() { w1.Labels["ssd"] = "yes" })
	l.boundTo(elsewhere, p, w1.Name)

	onHost := l.newPod("host")
	onHost.Spec.HostNetwork = true
	l.make(onHost)
	a := l.podAttachment("host", "host", ssd.Name)
	l.wants(a, "Accepted", "False Unsupported")
	if text := message(a, "Accepted"); !strings.Contains(text, "podrefused/host") || !strings.Contains(text, "hostNetwork") {
		t.Errorf("the message is %q", text)
	}
}

// TestControllerPodLost: an attachment of a pod says so when the node is lost, and when
// the node is back.
func TestControllerPodLost(t *testing.T) {
	l := newLab(t, "podlost")
	w1 := l.node("w1")
	n := l.network("red")
	a := l.podAttachment("net1", "web-0", n.Name)
	p := l.pod("web-0", w1.Name)
	l.boundTo(a, p, w1.Name)
	l.agent(a, nil, "True", "Programmed")
	l.setReady(w1, corev1.ConditionFalse, metav1.Now().Time)
	l.wants(a, "Ready", "Unknown NodeNotReady")
	l.setReady(w1, corev1.ConditionTrue, metav1.Now().Time)
	l.wants(a, "Ready", "Unknown Pending")
	l.boundTo(a, p, w1.Name)
}
