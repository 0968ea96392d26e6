package controlplane

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/patchbay-dev/patchbay/api/v1alpha1"
	"github.com/patchbay-dev/patchbay/test/netlab"
)

// The controller is played here: these tests are of the agent alone.

// rig is a network, two attachments and a publish, each under its test's name.
type rig struct {
	t        *testing.T
	network  *v1alpha1.BridgeNetwork
	one, two *v1alpha1.NamespaceAttachment
	publish  *v1alpha1.PortPublish
	bridge   *v1alpha1.NodeBridge
}

func newRig(t *testing.T, name, node string) *rig {
	l := &rig{t: t}
	ns := metav1.NamespaceDefault
	l.network = create(t, &v1alpha1.BridgeNetwork{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: v1alpha1.BridgeNetworkSpec{Subnets: []v1alpha1.Subnet{"10.68.0.0/24"}}})
	attach := func(suffix string) *v1alpha1.NamespaceAttachment {
		return create(t, &v1alpha1.NamespaceAttachment{ObjectMeta: metav1.ObjectMeta{Name: name + suffix, Namespace: ns}, Spec: v1alpha1.NamespaceAttachmentSpec{
			Network: name, Target: v1alpha1.AttachmentTarget{Netns: &v1alpha1.NetnsTarget{Name: v1alpha1.NetnsName(name + suffix), NodeName: node}},
		}})
	}
	l.one, l.two = attach("-1"), attach("-2")
	l.publish = create(t, &v1alpha1.PortPublish{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: ns}, Spec: v1alpha1.PortPublishSpec{
		Attachment: l.one.Name, Ports: []v1alpha1.PublishedPort{{HostPort: 8001}},
	}})
	l.accept(l.network, metav1.ConditionTrue)
	l.bridge = create(t, &v1alpha1.NodeBridge{ObjectMeta: metav1.ObjectMeta{Name: name + "." + node}, Spec: v1alpha1.NodeBridgeSpec{Network: name, NodeName: node}})
	for _, o := range []client.Object{l.one, l.two, l.publish} {
		l.bind(o, node)
	}
	return l
}

func (l *rig) untyped(o client.Object) *unstructured.Unstructured {
	l.t.Helper()
	kinds, _, err := api.Scheme().ObjectKinds(o)
	if err != nil {
		l.t.Fatal(err)
	}
	return untyped(kinds[0].Kind, o)
}

func (l *rig) refresh(o client.Object) {
	l.t.Helper()
	if err := api.Get(testContext(l.t), client.ObjectKeyFromObject(o), o); err != nil {
		l.t.Fatal(err)
	}
}

// accept writes the controller's verdict on the object's current generation.
func (l *rig) accept(o client.Object, status metav1.ConditionStatus) {
	l.t.Helper()
	l.judge(o, status, nil)
}

// bind accepts an object on a node.
func (l *rig) bind(o client.Object, node string) {
	l.t.Helper()
	l.judge(o, metav1.ConditionTrue, map[string]any{"nodeName": node})
}

func (l *rig) judge(o client.Object, status metav1.ConditionStatus, fields map[string]any) {
	l.t.Helper()
	l.refresh(o)
	c := condition("Accepted", string(status), "Judged")
	c["observedGeneration"] = o.GetGeneration()
	all := map[string]any{"conditions": []any{c}}
	for k, v := range fields {
		all[k] = v
	}
	applyStatus(l.t, l.untyped(o), v1alpha1.FieldManagerController, all)
}

// ready waits until the agent says so of the object's current generation.
func (l *rig) ready(o client.Object) {
	l.t.Helper()
	l.waitFor(o, metav1.ConditionTrue, v1alpha1.ReasonProgrammed)
}

func (l *rig) waitFor(o client.Object, status metav1.ConditionStatus, reason string) {
	l.t.Helper()
	netlab.Eventually(l.t, deadline, o.GetName()+" "+reason, func() error {
		l.refresh(o)
		c := readyOf(o)
		if c.Status != status || c.Reason != reason {
			return fmt.Errorf("Ready=%s %s: %s", c.Status, c.Reason, c.Message)
		}
		if _, is := o.(*v1alpha1.NodeBridge); !is && c.ObservedGeneration != o.GetGeneration() {
			return fmt.Errorf("of generation %d, not %d", c.ObservedGeneration, o.GetGeneration())
		}
		return nil
	})
}

func readyOf(o client.Object) metav1.Condition {
	if c := meta.FindStatusCondition(v1alpha1.ConditionsOf(o), v1alpha1.ConditionReady); c != nil {
		return *c
	}
	return metav1.Condition{}
}

func (l *rig) allReady() {
	l.t.Helper()
	for _, o := range []client.Object{l.bridge, l.one, l.two, l.publish} {
		l.ready(o)
	}
}

func address(a *v1alpha1.NamespaceAttachment) string {
	if len(a.Status.Addresses) == 0 {
		return ""
	}
	ip, _, _ := strings.Cut(string(a.Status.Addresses[0]), "/")
	return ip
}

func (l *rig) ping(h *host) {
	l.t.Helper()
	h.run("ip", "netns", "exec", l.one.Name, "ping", "-c", "1", "-W", "2", address(l.two))
}

// publishes says whether a host port leads anywhere.
func (h *host) publishes(port string) bool {
	h.t.Helper()
	return strings.Contains(h.run("nft", "list", "ruleset"), "tcp . "+port+" comment")
}

// closed waits until it does not.
func (h *host) closed(port string) {
	h.t.Helper()
	netlab.Eventually(h.t, deadline, "port "+port+" closed", func() error {
		if h.publishes(port) {
			return errors.New("still published")
		}
		return nil
	})
}

// clean waits until no object of Patchbay is on the host.
func (h *host) clean() {
	h.t.Helper()
	netlab.Eventually(h.t, deadline, h.name+" clean", func() error {
		links, _ := h.try("ip", "-br", "link")
		netns, _ := h.try("ip", "netns", "list")
		rules, _ := h.try("nft", "list", "ruleset")
		if left := strings.TrimSpace(links); strings.Count(left, "\n") > 0 || netns != "" || strings.Contains(rules, "cluster") {
			return fmt.Errorf("left:\n%s\n%s\n%s", links, netns, rules)
		}
		return nil
	})
}
