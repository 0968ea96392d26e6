package controlplane

import (
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/patchbay-dev/patchbay/api/v1alpha1"
)

var kinds = []string{"BridgeNetwork", "NodeBridge", "NamespaceAttachment", "PortPublish"}

// TestAgentRights: an agent reads the four kinds and writes nothing but status.
func TestAgentRights(t *testing.T) {
	deploy(t)
	w1, ctx := agentOn(t, "w1"), testContext(t)
	for _, kind := range kinds {
		checkAccepted(t, w1.List(ctx, emptyList(kind)))
		o := object(kind, namespaceOf(kind), "try", minimal(kind))
		checkForbidden(t, "create", w1.Create(ctx, o))
		checkForbidden(t, "update", w1.Update(ctx, o))
		checkForbidden(t, "patch", w1.Patch(ctx, o, mergePatch(`{"spec": {}}`)))
		checkForbidden(t, "patch", w1.Patch(ctx, o, mergePatch(`{"metadata": {"finalizers": []}}`)))
		checkForbidden(t, "delete", w1.Delete(ctx, o))
		checkForbidden(t, "deletecollection", w1.DeleteAllOf(ctx, o))
		checkForbidden(t, "update", w1.Status().Update(ctx, o))
	}
	checkForbidden(t, "patch", patchStatus(t, w1, object("BridgeNetwork", "", "try", nil), `{"observedGeneration": 1}`))
	checkReadsNothingElse(t, w1, "Secret", "Pod", "Node", "Namespace", "ConfigMap", "ServiceAccount")
	checkForbidden(t, "create", w1.Create(ctx, event()))
}

// checkReadsNothingElse is about kinds of the core group.
func checkReadsNothingElse(t *testing.T, c client.Client, kinds ...string) {
	t.Helper()
	for _, kind := range kinds {
		list := &unstructured.UnstructuredList{}
		list.SetGroupVersionKind(schema.GroupVersionKind{Version: "v1", Kind: kind + "List"})
		checkForbidden(t, "list", c.List(testContext(t), list))
	}
}

func event() *unstructured.Unstructured {
	return other("events.k8s.io/v1", "Event", metav1.NamespaceDefault, "try", map[string]any{
		"eventTime": "2026-01-02T03:04:05.000000Z", "action": "Report", "reason": "Ready", "type": "Normal", "note": "all is there",
		"reportingController": "patchbay-controller", "reportingInstance": "patchbay-controller-0",
		"regarding": map[string]any{"kind": "BridgeNetwork", "name": "red", "apiVersion": v1alpha1.GroupVersion.String()},
	})
}

// TestControllerRights does by the controller's token what the controller does.
func TestControllerRights(t *testing.T) {
	deploy(t)
	c, ctx := serviceAccount(t, "patchbay-controller", nil), testContext(t)
	for _, kind := range kinds {
		checkAccepted(t, c.List(ctx, emptyList(kind)))
	}
	for _, kind := range []string{"Node", "Namespace", "Pod"} {
		list := &unstructured.UnstructuredList{}
		list.SetGroupVersionKind(schema.GroupVersionKind{Version: "v1", Kind: kind + "List"})
		checkAccepted(t, c.List(ctx, list))
	}
	network := create(t, object("BridgeNetwork", "", "red", nil))
	checkAccepted(t, c.Patch(ctx, network.DeepCopy(), mergePatch(`{"metadata": {"finalizers": ["patchbay.dev/in-use"]}}`)))
	checkAccepted(t, c.Patch(ctx, network.DeepCopy(), mergePatch(`{"metadata": {"finalizers": null}}`)))
	checkForbidden(t, "update", c.Update(ctx, get(t, network)))
	bridge := object("NodeBridge", "", "red.w1", minimal("NodeBridge"))
	yes := true
	bridge.SetOwnerReferences([]metav1.OwnerReference{{
		APIVersion: network.GetAPIVersion(), Kind: network.GetKind(), Name: network.GetName(), UID: network.GetUID(), Controller: &yes,
	}})
	checkAccepted(t, c.Create(ctx, bridge))
	// Objects that only a user with the verb may write.
	children := map[string]string{
		"NamespaceAttachment": `{"spec": {"network": "blue"}}`,
		"PortPublish":         `{"spec": {"ports": [{"hostPort": 443}]}}`,
	}
	for _, kind := range []string{"NamespaceAttachment", "PortPublish"} {
		o := create(t, object(kind, namespaceOf(kind), "bound", minimal(kind)))
		checkAccepted(t, patchStatus(t, c, o, `{"nodeName": "w1"}`))
		checkForbidden(t, "update", c.Update(ctx, get(t, o)))
		child := object(kind, namespaceOf(kind), "bound-child", minimal(kind))
		checkAccepted(t, c.Create(ctx, child))
		removeAfter(t, child.DeepCopy())
		checkAccepted(t, c.Patch(ctx, child.DeepCopy(), mergePatch(children[kind])))
		checkAccepted(t, c.Delete(ctx, child))
	}
	checkAccepted(t, patchStatus(t, c, network, `{"nodes": {"selected": 1, "ready": 0}}`))
	checkAccepted(t, patchStatus(t, c, bridge, `{"mtu": 1500}`))
	checkAccepted(t, c.Delete(ctx, bridge))
	checkForbidden(t, "delete", c.Delete(ctx, network.DeepCopy()))
	checkAccepted(t, c.Create(ctx, event()))
	checkReadsNothingElse(t, c, "Secret", "ConfigMap", "ServiceAccount")
}

// TestLeaderElection: the lease is the controller's own, and no other.
func TestLeaderElection(t *testing.T) {
	deploy(t)
	c, ctx := serviceAccount(t, "patchbay-controller", nil), testContext(t)
	lease := func(name string) *unstructured.Unstructured {
		return other("coordination.k8s.io/v1", "Lease", systemNamespace, name, nil)
	}
	own := lease("patchbay-controller")
	checkAccepted(t, c.Create(ctx, own))
	removeAfter(t, own.DeepCopy())
	checkAccepted(t, c.Get(ctx, client.ObjectKeyFromObject(own), own))
	checkAccepted(t, c.Update(ctx, own))
	foreign := lease("somebody-elses")
	checkAccepted(t, api.Create(ctx, foreign))
	removeAfter(t, foreign.DeepCopy())
	checkForbidden(t, "update", c.Update(ctx, foreign))
	elsewhere := lease("patchbay-controller")
	elsewhere.SetNamespace(metav1.NamespaceDefault)
	checkForbidden(t, "create", c.Create(ctx, elsewhere))
}

// TestPeoplesRights: who may view a namespace sees Patchbay's objects, and who
// may edit it sees no more than that: writing is granted on its own.
func TestPeoplesRights(t *testing.T) {
	deploy(t)
	ctx := testContext(t)
	for _, role := range []string{"view", "edit", "admin"} {
		t.Run(role, func(t *testing.T) {
			clusterRole(t, "aggregated-"+role, aggregated(t, role)...)
			c := user(t, tenantNamespace, "aggregated-"+role)
			for _, kind := range []string{"NamespaceAttachment", "PortPublish"} {
				checkAccepted(t, c.List(ctx, emptyList(kind), client.InNamespace(tenantNamespace)))
				checkForbidden(t, "create", tryCreate(t, c, kind, minimal(kind)))
				checkForbidden(t, "delete", c.Delete(ctx, object(kind, tenantNamespace, "try", nil)))
			}
		})
	}
	viewer, editor, admin := user(t, "", "patchbay-viewer"), user(t, "", "patchbay-editor"), user(t, "", "patchbay-admin")
	for _, kind := range kinds {
		for _, c := range []client.Client{viewer, editor, admin} {
			checkAccepted(t, c.List(ctx, emptyList(kind)))
		}
		checkForbidden(t, "create", viewer.Create(ctx, object(kind, namespaceOf(kind), "try", minimal(kind))))
	}
	for _, kind := range []string{"BridgeNetwork", "NodeBridge"} {
		checkForbidden(t, "create", editor.Create(ctx, object(kind, "", "try", minimal(kind))))
	}
	checkForbidden(t, "create", admin.Create(ctx, object("NodeBridge", "", "try", minimal("NodeBridge"))))
	network := object("BridgeNetwork", "", "try", nil)
	checkAccepted(t, admin.Create(ctx, network))
	checkAccepted(t, admin.Delete(ctx, network))
}

// aggregated are the rules that kube-controller-manager, which is not here, would
// give a role by the labels of other roles.
func aggregated(t *testing.T, role string) []rbacv1.PolicyRule {
	t.Helper()
	roles := clientset(t).RbacV1().ClusterRoles()
	r, err := roles.Get(testContext(t), role, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if r.AggregationRule == nil {
		return r.Rules
	}
	var out []rbacv1.PolicyRule
	for _, selector := range r.AggregationRule.ClusterRoleSelectors {
		list, err := roles.List(testContext(t), metav1.ListOptions{LabelSelector: metav1.FormatLabelSelector(&selector)})
		if err != nil {
			t.Fatal(err)
		}
		for _, member := range list.Items {
			out = append(out, aggregated(t, member.Name)...)
		}
	}
	return out
}
