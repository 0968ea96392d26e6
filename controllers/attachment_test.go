package controllers

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/event"

	"github.com/patchbay-dev/patchbay/api/v1alpha1"
)

func pod(change func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "web-0", Namespace: "lab", UID: "u", ResourceVersion: "7", Labels: map[string]string{"app": "web"}},
		Spec:       corev1.PodSpec{NodeName: "w1", HostNetwork: true},
		Status:     corev1.PodStatus{Phase: corev1.PodRunning},
	}
	if change != nil {
		change(p)
	}
	return p
}

func TestSlimPod(t *testing.T) {
	full := pod(func(p *corev1.Pod) {
		p.Annotations = map[string]string{"large": "x"}
		p.Spec.Containers = []corev1.Container{{Env: []corev1.EnvVar{{Name: "SECRET", Value: "x"}}}}
		p.Status.PodIP = "10.0.0.1"
	})
	slim, err := slimPod(full)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(pod(nil), slim); diff != "" {
		t.Errorf("want -, got +:\n%s", diff)
	}
}

func TestPodEvents(t *testing.T) {
	for _, c := range []struct {
		name            string
		old, now        func(*corev1.Pod)
		moved, selected bool
	}{
		{"resync", nil, nil, false, false},
		{"starts", func(p *corev1.Pod) { p.Status.Phase = corev1.PodPending }, nil, false, false},
		{"terminates", nil, func(p *corev1.Pod) { p.DeletionTimestamp = &metav1.Time{Time: noon} }, false, false},
		{"ends", nil, func(p *corev1.Pod) { p.Status.Phase = corev1.PodFailed }, false, true},
		{"placed", func(p *corev1.Pod) { p.Spec.NodeName = "" }, nil, true, false},
		{"labelled", nil, func(p *corev1.Pod) { p.Labels = map[string]string{"app": "db"} }, false, true},
		{"another", nil, func(p *corev1.Pod) { p.UID = "v" }, true, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := event.UpdateEvent{ObjectOld: pod(c.old), ObjectNew: pod(c.now)}
			if moved, selected := podMoved.Update(e), podSelected.Update(e); moved != c.moved || selected != c.selected {
				t.Errorf("moved %v, selected %v", moved, selected)
			}
		})
	}
}

func TestPodChild(t *testing.T) {
	yes, mtu := true, int32(1400)
	parent := &v1alpha1.NamespaceAttachment{
		ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "lab", UID: "x", Labels: map[string]string{"argocd.argoproj.io/instance": "web"}},
		Spec: v1alpha1.NamespaceAttachmentSpec{
			Target: v1alpha1.AttachmentTarget{PodSelector: &metav1.LabelSelector{}}, Network: "red", Interface: "data", MTU: &mtu, DefaultRoute: &yes,
			Routes: []v1alpha1.RouteSpec{{To: "10.0.0.0/8"}}, Bandwidth: &v1alpha1.Bandwidth{},
		},
	}
	got := podChild(parent, pod(nil))
	want := parent.DeepCopy().Spec
	want.Target = v1alpha1.AttachmentTarget{Pod: &v1alpha1.PodTarget{Name: "web-0"}}
	want.IPAM = &v1alpha1.AttachmentIPAM{Lifecycle: v1alpha1.IPAMEphemeral}
	if diff := cmp.Diff(want, got.Spec); diff != "" {
		t.Errorf("spec, want -, got +:\n%s", diff)
	}
	if diff := cmp.Diff(map[string]string{"patchbay.dev/pod-uid": "u"}, got.Labels); diff != "" || v1alpha1.Parent(got) != "web" {
		t.Errorf("child of %q, labels want -, got +:\n%s", v1alpha1.Parent(got), diff)
	}
	for name, change := range map[string]func(*v1alpha1.NamespaceAttachment){
		"another parent": func(a *v1alpha1.NamespaceAttachment) { a.OwnerReferences[0].UID = "y" },
		"another pod":    func(a *v1alpha1.NamespaceAttachment) { a.Labels = nil },
		"another target": func(a *v1alpha1.NamespaceAttachment) { a.Spec.Target.Pod.Name = "web-1" },
		"another by hand": func(a *v1alpha1.NamespaceAttachment) {
			a.Annotations = map[string]string{"patchbay.dev/node-name": "w1"}
		},
	} {
		other := got.DeepCopy()
		change(other)
		if madeAs(other, got) {
			t.Errorf("%s: taken for the child", name)
		}
	}
	edited := got.DeepCopy()
	edited.Spec.MTU = nil
	if !madeAs(edited, got) {
		t.Error("an edited child is not taken for the child")
	}
}
