package controlplane

import (
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/patchbay-dev/patchbay/api/v1alpha1"
)

// minimal is the least that is accepted of a kind.
func minimal(kind string) map[string]any {
	spec := map[string]map[string]any{
		"BridgeNetwork":       {},
		"NamespaceAttachment": {"target": map[string]any{"netns": map[string]any{"name": "ns1"}}},
		"PortPublish":         {"attachment": "net1", "ports": []any{map[string]any{"hostPort": int64(80)}}},
		"NodeBridge":          {"network": "red", "nodeName": "w1"},
	}
	return map[string]any{"spec": spec[kind]}
}

var firstConditions = map[string]map[string]string{
	"BridgeNetwork":       {"Accepted": "Unknown Pending", "Ready": "Unknown Pending"},
	"NamespaceAttachment": {"Accepted": "Unknown Pending", "Ready": "Unknown Pending"},
	"PortPublish":         {"Accepted": "Unknown Pending", "Ready": "Unknown Pending"},
	"NodeBridge":          {"Ready": "Unknown Pending"},
}

// TestFirstConditions: a new object says that it waits, also where it is read before a
// status was written; a status sent along is dropped.
func TestFirstConditions(t *testing.T) {
	for kind, want := range firstConditions {
		t.Run(kind, func(t *testing.T) {
			content := minimal(kind)
			content["status"] = map[string]any{"conditions": []any{condition("Ready", "True", "Programmed")}}
			o := create(t, object(kind, namespaceOf(kind), "new", content))
			checkConditions(t, "created", o, want)
			checkConditions(t, "read", get(t, o), want)
			list := emptyList(kind)
			if err := api.List(testContext(t), list, client.MatchingFields{"metadata.name": "new"}); err != nil || len(list.Items) != 1 {
				t.Fatalf("%d listed: %v", len(list.Items), err)
			}
			checkConditions(t, "listed", &list.Items[0], want)
		})
	}
}

// TestTwoFieldManagers: controller and agent each write their condition and
// their fields by server-side apply, and keep the other's.
func TestTwoFieldManagers(t *testing.T) {
	o := create(t, object("NamespaceAttachment", metav1.NamespaceDefault, "shared", minimal("NamespaceAttachment")))
	applyStatus(t, o, v1alpha1.FieldManagerController, map[string]any{
		"nodeName": "w1", "conditions": []any{condition("Accepted", "True", "Accepted")},
	})
	checkConditions(t, "accepted", get(t, o), map[string]string{"Accepted": "True Accepted", "Ready": "Unknown Pending"})
	agent := map[string]any{
		"observedGeneration": int64(1), "addresses": []any{"10.68.0.101/24"},
		"conditions": []any{condition("Ready", "True", "Programmed")},
	}
	applyStatus(t, o, v1alpha1.FieldManagerAgent, agent)
	both := map[string]string{"Accepted": "True Accepted", "Ready": "True Programmed"}
	ready := get(t, o)
	checkConditions(t, "ready", ready, both)
	if node, _, _ := unstructured.NestedString(ready.Object, "status", "nodeName"); node != "w1" {
		t.Errorf("the agent's write leaves nodeName %q", node)
	}
	applyStatus(t, o, v1alpha1.FieldManagerAgent, agent)
	if again := get(t, o); again.GetResourceVersion() != ready.GetResourceVersion() {
		t.Error("the same status written again changes the object")
	}
	if ready.GetGeneration() != 1 {
		t.Errorf("writing a status makes generation %d", ready.GetGeneration())
	}
}

// TestRebinding: in one write the controller binds anew, takes over Ready and
// clears what the old node's agent left. Server-side apply can empty a list of
// another manager but not remove an object such as status.interface; a merge
// patch can, and with the resourceVersion it loses no other writer's condition.
func TestRebinding(t *testing.T) {
	o := create(t, object("NamespaceAttachment", metav1.NamespaceDefault, "rebound", minimal("NamespaceAttachment")))
	applyStatus(t, o, v1alpha1.FieldManagerController, map[string]any{"nodeName": "w1", "conditions": []any{condition("Accepted", "True", "Accepted")}})
	agent := map[string]any{
		"observedGeneration": int64(1), "addresses": []any{"10.68.0.101/24"}, "macAddress": "02:42:0a:44:00:65",
		"interface": map[string]any{"name": "eth0"}, "conditions": []any{condition("Ready", "True", "Programmed")},
	}
	applyStatus(t, o, v1alpha1.FieldManagerAgent, agent)
	conditions := []any{condition("Accepted", "True", "Accepted"), condition("Ready", "Unknown", "Rebinding")}
	before := get(t, o)
	after := before.DeepCopy()
	after.Object["status"] = map[string]any{"nodeName": "w2", "conditions": conditions}
	err := api.Status().Patch(testContext(t), after, client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{}), client.FieldOwner(v1alpha1.FieldManagerController))
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]any{"nodeName": "w2", "conditions": conditions}
	if diff := gocmp.Diff(want, get(t, o).Object["status"]); diff != "" {
		t.Errorf("rebound, want -, got +:\n%s", diff)
	}
	applyStatus(t, o, v1alpha1.FieldManagerAgent, agent)
	checkConditions(t, "ready again", get(t, o), map[string]string{"Accepted": "True Accepted", "Ready": "True Programmed"})
}

// TestStatusIsWhole: every status field of the Go types is in the schema.
func TestStatusIsWhole(t *testing.T) {
	for _, o := range fullObjects() {
		t.Run(o.GetKind(), func(t *testing.T) {
			want := o.DeepCopy().Object["status"]
			write(t, o)
			if diff := gocmp.Diff(want, get(t, o).Object["status"]); diff != "" {
				t.Errorf("written -, read +:\n%s", diff)
			}
		})
	}
}

// TestTypedClient: the zero values that Go types send do not stand in the way of
// the defaults.
func TestTypedClient(t *testing.T) {
	meta := metav1.ObjectMeta{Name: "typed"}
	bridge := create(t, &v1alpha1.NodeBridge{ObjectMeta: meta, Spec: v1alpha1.NodeBridgeSpec{Network: "red", NodeName: "w1"}})
	if len(bridge.Status.Conditions) != 1 || bridge.Status.Conditions[0].Reason != v1alpha1.ReasonPending {
		t.Errorf("conditions of a new NodeBridge: %v", bridge.Status.Conditions)
	}
	bare := untyped("NodeBridge", &v1alpha1.NodeBridge{ObjectMeta: meta, Status: v1alpha1.NodeBridgeStatus{Bridge: "br-red"}})
	status, _ := bare.Object["status"].(map[string]any)
	applyStatus(t, bare, v1alpha1.FieldManagerAgent, status)
	network := create(t, &v1alpha1.BridgeNetwork{ObjectMeta: meta})
	plain := object("BridgeNetwork", "", "plain", nil)
	var want v1alpha1.BridgeNetwork
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(create(t, plain).Object, &want); err != nil {
		t.Fatal(err)
	}
	if diff := gocmp.Diff(want.Spec, network.Spec); diff != "" {
		t.Errorf("spec left out -, sent as Go's zero +:\n%s", diff)
	}
}

// fullObjects are one of each kind, with every field of status set.
func fullObjects() []*unstructured.Unstructured {
	meta := metav1.ObjectMeta{Name: "columns"}
	inDefault := metav1.ObjectMeta{Name: "columns", Namespace: metav1.NamespaceDefault}
	now := metav1.NewTime(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC))
	conditions := func(types ...string) (out []metav1.Condition) {
		for _, c := range types {
			out = append(out, metav1.Condition{Type: c, Status: metav1.ConditionTrue, Reason: "Programmed", Message: "all is there", ObservedGeneration: 1, LastTransitionTime: now})
		}
		return out
	}
	return []*unstructured.Unstructured{
		untyped("BridgeNetwork", &v1alpha1.BridgeNetwork{
			ObjectMeta: meta,
			Spec:       v1alpha1.BridgeNetworkSpec{Bridge: v1alpha1.BridgeSpec{Name: "br-columns"}, Subnets: []v1alpha1.Subnet{"10.68.0.0/24", "fd00::/64"}},
			Status: v1alpha1.BridgeNetworkStatus{
				ObservedGeneration: 1, Nodes: v1alpha1.NodeCounts{Selected: 3, Ready: 2},
				FailingNodes: []v1alpha1.FailingNode{{Node: "w3", Reason: "UplinkNotFound", Message: "no eth1"}},
				Conditions:   conditions("Accepted", "Ready"),
			},
		}),
		untyped("NamespaceAttachment", &v1alpha1.NamespaceAttachment{
			ObjectMeta: inDefault,
			Spec:       v1alpha1.NamespaceAttachmentSpec{Network: "red", Target: v1alpha1.AttachmentTarget{Netns: &v1alpha1.NetnsTarget{Name: "ns1"}}},
			Status: v1alpha1.NamespaceAttachmentStatus{
				ObservedGeneration: 1, NodeName: "w1", PodUID: "0a1b", Pods: &v1alpha1.PodCounts{Matched: 2, Ready: 1},
				Interface:     &v1alpha1.InterfaceStatus{Netns: "ns1", Name: "eth0", Index: 2},
				HostInterface: &v1alpha1.InterfaceStatus{Name: "veth1", Index: 7},
				Addresses:     []v1alpha1.Subnet{"10.68.0.101/24", "fd00::65/64"},
				Gateways:      []v1alpha1.IPAddress{"10.68.0.1", "fd00::1"},
				MACAddress:    "02:42:0a:44:00:65",
				Conditions:    conditions("Accepted", "Ready"),
			},
		}),
		untyped("PortPublish", &v1alpha1.PortPublish{
			ObjectMeta: inDefault,
			Spec:       v1alpha1.PortPublishSpec{Attachment: "net1", Ports: []v1alpha1.PublishedPort{{HostPort: 8001, TargetPort: 80}, {HostPort: 8002}}},
			Status: v1alpha1.PortPublishStatus{
				ObservedGeneration: 1, NodeName: "w1",
				Published: []v1alpha1.PublishedStatus{
					{Address: "192.0.2.1", Protocol: v1alpha1.TCP, HostPort: 8001, Target: "10.68.0.101:80"},
					{Address: "192.0.2.1", Protocol: v1alpha1.TCP, HostPort: 8002, Target: "10.68.0.101:8002"},
				},
				Summary:    "*:8001/TCP->10.68.0.101:80, +1",
				Conditions: conditions("Accepted", "Ready"),
			},
		}),
		untyped("NodeBridge", &v1alpha1.NodeBridge{
			ObjectMeta: metav1.ObjectMeta{Name: "columns.w1"},
			Spec:       v1alpha1.NodeBridgeSpec{Network: "columns", NodeName: "w1"},
			Status: v1alpha1.NodeBridgeStatus{
				ObservedGeneration: 1, Bridge: "br-columns", Addresses: []v1alpha1.Subnet{"10.68.0.1/24"}, MTU: 1500,
				Conditions: conditions("Ready"),
			},
		}),
	}
}

func untyped(kind string, o runtime.Object) *unstructured.Unstructured {
	content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(o)
	if err != nil {
		panic(err)
	}
	u := &unstructured.Unstructured{Object: content}
	u.SetGroupVersionKind(v1alpha1.GroupVersion.WithKind(kind))
	return u
}

// write creates an object and then writes its status, both strictly.
func write(t *testing.T, o *unstructured.Unstructured) {
	t.Helper()
	strict := client.FieldValidation(metav1.FieldValidationStrict)
	created := create(t, o.DeepCopy(), strict)
	o.SetResourceVersion(created.GetResourceVersion())
	if err := client.WithFieldValidation(api, metav1.FieldValidationStrict).Status().Update(testContext(t), o); err != nil {
		t.Fatalf("write status of %s/%s: %v", o.GetKind(), o.GetName(), err)
	}
}

// applyStatus writes a status as controller and agent do.
func applyStatus(t *testing.T, o *unstructured.Unstructured, manager string, status map[string]any) {
	t.Helper()
	if err := tryApplyStatus(t, api, o, manager, status); err != nil {
		t.Fatalf("apply status of %s/%s as %s: %v", o.GetKind(), o.GetName(), manager, err)
	}
}

func tryApplyStatus(t *testing.T, c client.Client, o *unstructured.Unstructured, manager string, status map[string]any) error {
	t.Helper()
	u := object(o.GetKind(), o.GetNamespace(), o.GetName(), map[string]any{"status": runtime.DeepCopyJSON(status)})
	return client.WithFieldValidation(c, metav1.FieldValidationStrict).Status().
		Apply(testContext(t), client.ApplyConfigurationFromUnstructured(u), client.FieldOwner(manager), client.ForceOwnership)
}

func condition(name, status, reason string) map[string]any {
	return map[string]any{
		"type": name, "status": status, "reason": reason, "message": "because", "observedGeneration": int64(1),
		"lastTransitionTime": "2026-01-02T03:04:05Z",
	}
}

func get(t *testing.T, o *unstructured.Unstructured) *unstructured.Unstructured {
	t.Helper()
	got := &unstructured.Unstructured{}
	got.SetGroupVersionKind(o.GroupVersionKind())
	if err := api.Get(testContext(t), client.ObjectKeyFromObject(o), got); err != nil {
		t.Fatal(err)
	}
	return got
}

// checkConditions compares type: "status reason".
func checkConditions(t *testing.T, when string, o *unstructured.Unstructured, want map[string]string) {
	t.Helper()
	list, _, err := unstructured.NestedSlice(o.Object, "status", "conditions")
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, c := range list {
		fields, _ := c.(map[string]any)
		name, _ := fields["type"].(string)
		status, _ := fields["status"].(string)
		reason, _ := fields["reason"].(string)
		got[name] = status + " " + reason
	}
	if diff := gocmp.Diff(want, got); diff != "" {
		t.Errorf("conditions of %s when %s, want -, got +:\n%s", o.GetName(), when, diff)
	}
}

func namespaceOf(kind string) string {
	if kind == "BridgeNetwork" || kind == "NodeBridge" {
		return ""
	}
	return metav1.NamespaceDefault
}
