package accept

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/patchbay-dev/patchbay/api/v1alpha1"
)

// withPod is a world in which lab/web-0 is as the text says.
func withPod(t *testing.T, w World, text string) World {
	t.Helper()
	w.Pod = func(name types.NamespacedName) *corev1.Pod {
		if text == "" || name != (types.NamespacedName{Namespace: "lab", Name: "web-0"}) {
			return nil
		}
		return object[corev1.Pod](t, text)
	}
	return w
}

func judged(t *testing.T, c metav1.Condition, status metav1.ConditionStatus, reason, message string) {
	t.Helper()
	want := metav1.Condition{Type: "Accepted", Status: status, ObservedGeneration: 3, Reason: reason, Message: message}
	if c != want {
		t.Errorf("\n got %+v\nwant %+v", c, want)
	}
}

const (
	pod      = `{target: {pod: {name: web-0}}, network: red, `
	noPod    = ``
	unplaced = `{metadata: {name: web-0, namespace: lab, uid: u1}}`
	placed1  = `{metadata: {name: web-0, namespace: lab, uid: u1}, spec: {nodeName: w1}}`
	static   = `{metadata: {name: web-0, namespace: lab, uid: u1, annotations: {kubernetes.io/config.mirror: u7}}, spec: {nodeName: w1}}`
	onHost   = `{metadata: {name: web-0, namespace: lab, uid: u1}, spec: {hostNetwork: true}}`
)

func TestPod(t *testing.T) {
	bound := Binding{"w1", "u0"}
	for _, c := range []struct {
		name, network, spec, pod string
		was, binding             Binding
		status                   metav1.ConditionStatus
		reason, message          string
	}{
		{"no pod", open, pod + `}`, noPod, Binding{}, Binding{}, "Unknown", "Pending", "waiting for pod lab/web-0, which does not exist"},
		{"no node", open, pod + `}`, unplaced, Binding{}, Binding{}, "Unknown", "Pending", "waiting for pod lab/web-0, which is not on a node yet"},
		{"on a node", open, pod + `}`, placed1, Binding{}, Binding{"w1", "u1"}, "True", accepted, "bound to node w1"},
		{"static", open, pod + `}`, static, Binding{}, Binding{"w1", "u7"}, "True", accepted, "bound to node w1"},
		{"gone", open, pod + `}`, noPod, bound, Binding{Node: "w1"}, "True", accepted, "bound to node w1"},
		{"again without node", open, pod + `}`, unplaced, bound, Binding{Node: "w1"}, "True", accepted, "bound to node w1"},
		{"again", open, pod + `}`, placed1, bound, Binding{"w1", "u1"}, "True", accepted, "bound to node w1"},
		{"again elsewhere", open, pod + `}`, placed1, Binding{"w2", "u0"}, Binding{"w1", "u1"}, "True", accepted, "bound to node w1"},
		{"in the node's network", open, pod + `}`, onHost, Binding{}, Binding{}, "False", "Unsupported",
			"pod lab/web-0 is in the node's own network, which nothing is wired to; make the pod without spec.hostNetwork"},
		{"refused without a pod", `{}`, pod + `}`, noPod, Binding{}, Binding{}, "False", "NamespaceNotAllowed",
			"BridgeNetwork red does not let namespace lab attach; include it in the network's spec.allowedNamespaces"},
		{"node not known to select", `{nodeSelector: {matchLabels: {disk: hdd}}, allowedNamespaces: {from: All}}`, pod + `}`, unplaced, Binding{}, Binding{}, "Unknown", "Pending",
			"waiting for pod lab/web-0, which is not on a node yet"},
		{"node not selected", `{nodeSelector: {matchLabels: {disk: hdd}}, allowedNamespaces: {from: All}}`, pod + `}`, placed1, Binding{}, Binding{"w1", "u1"}, "False", "NetworkNotFound",
			"BridgeNetwork red does not select node w1; change its spec.nodeSelector or label the node"},
		{"node gone", open, pod + `}`, noPod, Binding{"w9", "u0"}, Binding{Node: "w9"}, "False", "NodeNotFound",
			"node w9 of pod lab/web-0 does not exist; bring it back or delete the pod"},
		{"route without a pod", open, pod + `routes: [{to: 10.0.0.0/8, via: 10.69.0.1}]}`, noPod, Binding{}, Binding{}, "False", "Unsupported",
			"spec.routes: 10.0.0.0/8 cannot go via 10.69.0.1, which is not on the link; choose a next hop in 10.68.0.0/24, fd00::/64"},
		{"to the host", open, `{target: {pod: {name: web-0}}, pointToPoint: {host: {}}}`, placed1, Binding{}, Binding{"w1", "u1"}, "True", accepted, "bound to node w1"},
		{"another pod", open, `{target: {pod: {name: web-1}}, network: red}`, placed1, Binding{}, Binding{}, "Unknown", "Pending",
			"waiting for pod lab/web-1, which does not exist"},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := attach(t, c.spec)
			a.Status.NodeName, a.Status.PodUID = c.was.Node, c.was.PodUID
			w := withPod(t, cluster(network(t, c.network)), c.pod)
			judged(t, Attachment(a, w), c.status, c.reason, c.message)
			if got := BindingOf(a, w); got != c.binding {
				t.Errorf("bound to %+v, want %+v", got, c.binding)
			}
		})
	}
}

// TestChild: a child is for the pod that it was made for, and never for a later
// one of the name; a label that was written by hand means nothing.
func TestChild(t *testing.T) {
	const owner = `ownerReferences: [{apiVersion: patchbay.dev/v1alpha1, kind: NamespaceAttachment, name: web, uid: x, controller: true}]`
	w := withPod(t, cluster(network(t, open)), placed1)
	for _, c := range []struct {
		name, meta, was string
		want            Binding
	}{
		{"its pod", owner + `, labels: {patchbay.dev/pod-uid: u1}`, "", Binding{"w1", "u1"}},
		{"a later pod", owner + `, labels: {patchbay.dev/pod-uid: u0}`, "", Binding{}},
		{"a later pod elsewhere", owner + `, labels: {patchbay.dev/pod-uid: u0}`, "w2", Binding{Node: "w2"}},
		{"no label", owner, "", Binding{}},
		{"no child", `labels: {patchbay.dev/pod-uid: u0}`, "", Binding{"w1", "u1"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := object[v1alpha1.NamespaceAttachment](t, "{metadata: {name: web-1, namespace: lab, generation: 3, "+c.meta+"}, spec: "+pod+"}}")
			if c.was != "" {
				a.Status.NodeName, a.Status.PodUID = c.was, "u0"
			}
			if got := BindingOf(a, w); got != c.want {
				t.Errorf("bound to %+v, want %+v", got, c.want)
			}
			if status := Attachment(a, w).Status; (status == metav1.ConditionTrue) != (c.want != Binding{}) {
				t.Errorf("Accepted=%s", status)
			}
		})
	}
}

func TestSelector(t *testing.T) {
	const web = `{target: {podSelector: {matchLabels: {app: web}}}, network: red, `
	fine := "each pod that spec.target.podSelector selects gets an attachment of its own"
	for _, c := range []struct{ name, network, spec, reason, message string }{
		{"of any node", open, web + `}`, accepted, fine},
		{"on selected nodes", `{nodeSelector: {matchLabels: {disk: hdd}}, allowedNamespaces: {from: All}}`, web + `}`, accepted, fine},
		{"bad selector", open, `{target: {podSelector: {matchExpressions: [{key: a, operator: Is}]}}, network: red}`, "Unsupported",
			`spec.target.podSelector: "Is" is not a valid label selector operator; create the attachment anew with a correct selector`},
		{"no tenants", `{}`, web + `}`, "NamespaceNotAllowed",
			"BridgeNetwork red does not let namespace lab attach; include it in the network's spec.allowedNamespaces"},
		{"no network", open, `{target: {podSelector: {}}, network: blue}`, "NetworkNotFound",
			"BridgeNetwork blue does not exist; create it or correct spec.network"},
		{"IPv6 on a small MTU", open, web + `mtu: 1000}`, "Unsupported",
			"spec.mtu: BridgeNetwork red has the IPv6 subnet fd00::/64, which needs at least 1280"},
		{"uplink", `{allowedNamespaces: {from: All}, subnets: [10.68.0.0/24], gateway: {mode: External, addresses: [10.68.0.1]}, uplink: {interface: eth1}}`, web + `}`, "Unsupported",
			"BridgeNetwork red has an uplink, where no addresses are allocated; give each pod an attachment with spec.target.pod and spec.addresses"},
	} {
		t.Run(c.name, func(t *testing.T) {
			a, w := attach(t, c.spec), cluster(network(t, c.network))
			expect(t, Attachment(a, w), c.reason, c.message)
			if got := BindingOf(a, w); got != (Binding{}) {
				t.Errorf("a parent is bound to %+v", got)
			}
		})
	}
}

func TestSelectsPod(t *testing.T) {
	web, all := attach(t, `{target: {podSelector: {matchLabels: {app: web}}}}`), attach(t, `{target: {podSelector: {}}}`)
	bad := attach(t, `{target: {podSelector: {matchExpressions: [{key: a, operator: Is}]}}}`)
	for _, c := range []struct {
		name, pod     string
		byWeb, byEach bool
	}{
		{"labelled", `{metadata: {namespace: lab, labels: {app: web}}}`, true, true},
		{"not labelled", `{metadata: {namespace: lab}, status: {phase: Running}}`, false, true},
		{"elsewhere", `{metadata: {namespace: other, labels: {app: web}}}`, false, false},
		{"succeeded", `{metadata: {namespace: lab, labels: {app: web}}, status: {phase: Succeeded}}`, false, false},
		{"failed", `{metadata: {namespace: lab, labels: {app: web}}, status: {phase: Failed}}`, false, false},
	} {
		p := object[corev1.Pod](t, c.pod)
		if SelectsPod(web, p) != c.byWeb || SelectsPod(all, p) != c.byEach || SelectsPod(bad, p) || SelectsPod(attach(t, pod+"}"), p) {
			t.Errorf("%s: selected by app=web %v, by all %v", c.name, SelectsPod(web, p), SelectsPod(all, p))
		}
	}
}

func TestPodsStandalone(t *testing.T) {
	for _, c := range []struct{ spec, message string }{
		{pod + `}`, "spec.target.pod: there are no pods without a cluster; name the pod's network namespace in spec.target.netns, with lifecycle External"},
		{`{target: {podSelector: {}}, network: red}`,
			"spec.target.podSelector: there are no pods without a cluster; name each pod's network namespace in spec.target.netns of its own attachment, with lifecycle External"},
	} {
		w := Local("here", []*v1alpha1.BridgeNetwork{network(t, `{}`)}, nil)
		expect(t, Attachment(attach(t, c.spec), w), "Unsupported", c.message)
	}
}

func TestPublishPods(t *testing.T) {
	const ports = "{metadata: {name: web, namespace: lab, generation: 3}, spec: {attachment: net1, hostAddresses: ["
	for _, c := range []struct {
		name, spec, pod, hosts string
		status                 metav1.ConditionStatus
		reason, message        string
	}{
		{"pod", pod + `}`, placed1, ``, "True", accepted, "leads to NamespaceAttachment lab/net1"},
		{"pod without node", pod + `}`, unplaced, ``, "Unknown", "Pending",
			"NamespaceAttachment lab/net1 is waiting for pod lab/web-0, which is not on a node yet"},
		{"pods", `{target: {podSelector: {}}, network: red}`, noPod, `10.0.0.1, "fd01::1"`, "True", accepted, "leads to NamespaceAttachment lab/net1"},
		{"pods on no network", `{target: {podSelector: {}}, network: blue}`, noPod, ``, "False", "AttachmentNotFound",
			"NamespaceAttachment lab/net1 is not accepted: BridgeNetwork blue does not exist; create it or correct spec.network"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := withPod(t, cluster(network(t, open), attach(t, c.spec)), c.pod)
			p := object[v1alpha1.PortPublish](t, ports+c.hosts+"]}}")
			judged(t, Publish(p, w), c.status, c.reason, c.message)
		})
	}
}
