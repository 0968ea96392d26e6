package controlplane

import (
	"testing"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/admission/plugin/policy/validating"
	"k8s.io/apiserver/pkg/cel/openapi/resolver"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/patchbay-dev/patchbay/api/v1alpha1"
)

// TestAgentStatus: an agent writes the status of objects that are bound to its node, by
// server-side apply. A token of another node or of none may not, nor may its own when
// the object has been bound elsewhere.
func TestAgentStatus(t *testing.T) {
	deploy(t)
	w1, w2, nowhere := agentOn(t, "w1"), agentOn(t, "w2"), serviceAccount(t, "patchbay-agent", nil)
	status := map[string]any{"observedGeneration": int64(1), "conditions": []any{condition("Ready", "True", "Programmed")}}
	for _, kind := range []string{"NamespaceAttachment", "PortPublish"} {
		t.Run(kind, func(t *testing.T) {
			o := create(t, object(kind, namespaceOf(kind), "bound", minimal(kind)))
			checkRefused(t, writeAs(t, w1, o, status), `bound to node ""`)
			accept(t, o, "w1")
			checkRefused(t, writeAs(t, w2, o, status), `bound to node "w1"`, `token to node "w2"`, "only the agent of the node")
			checkRefused(t, writeAs(t, nowhere, o, status), "token names no node", "that the kubelet mounts")
			checkAccepted(t, writeAs(t, w1, o, status))
			checkConditions(t, "written", get(t, o), map[string]string{"Accepted": "True Accepted", "Ready": "True Programmed"})
			accept(t, o, "w2")
			checkRefused(t, writeAs(t, w1, o, status), `bound to node "w2"`, `token to node "w1"`)
			checkAccepted(t, writeAs(t, w2, o, status))
		})
	}
	t.Run("NodeBridge", func(t *testing.T) {
		o := create(t, object("NodeBridge", "", "red.w1", map[string]any{"spec": map[string]any{"network": "red", "nodeName": "w1"}}))
		checkRefused(t, writeAs(t, w2, o, status), `bound to node "w1"`, `token to node "w2"`)
		checkRefused(t, writeAs(t, nowhere, o, status), "token names no node")
		checkAccepted(t, writeAs(t, w1, o, status))
		checkConditions(t, "written", get(t, o), map[string]string{"Ready": "True Programmed"})
	})
}

func writeAs(t *testing.T, c client.Client, o *unstructured.Unstructured, status map[string]any) error {
	t.Helper()
	return tryApplyStatus(t, c, o, v1alpha1.FieldManagerAgent, status)
}

// accept writes what the controller does.
func accept(t *testing.T, o *unstructured.Unstructured, node string) {
	t.Helper()
	applyStatus(t, o, v1alpha1.FieldManagerController, map[string]any{
		"nodeName": node, "conditions": []any{condition("Accepted", "True", "Accepted")},
	})
}

// TestAgentLeavesOthersFields: what the controller writes of a status is not the
// agent's to write, though the object is bound to its node.
func TestAgentLeavesOthersFields(t *testing.T) {
	deploy(t)
	w1 := agentOn(t, "w1")
	const (
		accepted = `{"type": "Accepted", "status": "True", "reason": "Accepted", "message": "because", "observedGeneration": 1, "lastTransitionTime": "2026-01-02T03:04:05Z"}`
		changed  = `{"type": "Accepted", "status": "True", "reason": "Accepted", "message": "because", "observedGeneration": 2, "lastTransitionTime": "2026-01-02T03:04:05Z"}`
		ready    = `{"type": "Ready", "status": "True", "reason": "Programmed", "message": "", "lastTransitionTime": "2026-01-02T03:04:05Z"}`
		inUse    = `{"type": "InUse", "status": "True", "reason": "InUse", "message": "", "lastTransitionTime": "2026-01-02T03:04:05Z"}`
		nodeName = "status.nodeName is written by the controller"
		pods     = "status.podUID and status.pods are written by the controller"
		readOnly = "an agent writes Ready only"
	)
	for name, c := range map[string]struct{ kind, status, refused string }{
		"ready":            {"NamespaceAttachment", `{"conditions": [` + accepted + `, ` + ready + `]}`, ""},
		"ready removed":    {"NamespaceAttachment", `{"conditions": [` + accepted + `]}`, ""},
		"addresses":        {"NamespaceAttachment", `{"addresses": ["10.68.0.101/24"]}`, ""},
		"published":        {"PortPublish", `{"summary": "*:20000/TCP->10.68.0.101:80"}`, ""},
		"nodeName":         {"NamespaceAttachment", `{"nodeName": "w2"}`, nodeName},
		"no nodeName":      {"NamespaceAttachment", `{"nodeName": null}`, nodeName},
		"no status":        {"NamespaceAttachment", `null`, nodeName},
		"podUID":           {"NamespaceAttachment", `{"podUID": "0a1b"}`, pods},
		"pods":             {"NamespaceAttachment", `{"pods": {"matched": 1, "ready": 1}}`, pods},
		"publish nodeName": {"PortPublish", `{"nodeName": "w2"}`, nodeName},
		"accepted changed": {"NamespaceAttachment", `{"conditions": [` + changed + `, ` + ready + `]}`, readOnly},
		"accepted removed": {"NamespaceAttachment", `{"conditions": [` + ready + `]}`, readOnly},
		"no conditions":    {"PortPublish", `{"conditions": null}`, readOnly},
		"accepted added":   {"NodeBridge", `{"conditions": [` + accepted + `, ` + ready + `]}`, readOnly},
		"in use added":     {"NamespaceAttachment", `{"conditions": [` + accepted + `, ` + inUse + `]}`, readOnly},
	} {
		t.Run(name, func(t *testing.T) {
			o := create(t, object(c.kind, namespaceOf(c.kind), "bound", minimal(c.kind)))
			if c.kind != "NodeBridge" {
				accept(t, o, "w1")
			}
			err := patchStatus(t, w1, o, c.status)
			if c.refused == "" {
				checkAccepted(t, err)
				return
			}
			checkRefused(t, err, c.refused)
		})
	}
}

// TestAgentPolicyAlone: were an agent given every right, the policy would still
// keep it to its statuses.
func TestAgentPolicyAlone(t *testing.T) {
	deploy(t)
	mighty := impersonate(t, "system:serviceaccount:"+systemNamespace+":patchbay-agent", "w1", "system:masters")
	two := impersonate(t, "system:serviceaccount:"+systemNamespace+":patchbay-agent", "w1,w2", "system:masters")
	moved := impersonate(t, "system:serviceaccount:elsewhere:patchbay-agent", "w2", "system:masters")
	o := create(t, object("NodeBridge", "", "red.w1", minimal("NodeBridge")))
	checkRefused(t, patchStatus(t, moved, o, `{"mtu": 1400}`), "only the agent of the node")
	network := create(t, object("BridgeNetwork", "", "red", nil))
	ctx := testContext(t)
	checkAccepted(t, patchStatus(t, mighty, o, `{"mtu": 1400}`))
	checkRefused(t, patchStatus(t, two, o, `{"mtu": 1500}`), "token names no node")
	const only = "an agent writes only the status of"
	checkRefused(t, tryCreate(t, mighty, "PortPublish", minimal("PortPublish")), only, "CREATE of portpublishes")
	checkRefused(t, mighty.Delete(ctx, o), only, "DELETE of nodebridges")
	checkRefused(t, mighty.DeleteAllOf(ctx, o), only, "DELETE of nodebridges")
	checkRefused(t, mighty.Patch(ctx, o.DeepCopy(), mergePatch(`{"metadata": {"labels": {"a": "b"}}}`)), only, "UPDATE of nodebridges")
	checkRefused(t, patchStatus(t, mighty, network, `{"observedGeneration": 1}`), only, "UPDATE of bridgenetworks/status")
	checkAccepted(t, impersonate(t, "somebody", "", "system:masters").Delete(ctx, network, client.DryRunAll))
}

// TestPoliciesTypeCheck does what a controller of Kubernetes writes into the
// policies' status: a field that the schema does not have is a warning there and
// an error at every request. What an expression with wildcards meets is unknown
// to it, so agent.yaml is proved by its refusals alone.
func TestPoliciesTypeCheck(t *testing.T) {
	checker := validating.TypeChecker{
		SchemaResolver: &resolver.ClientDiscoveryResolver{Discovery: clientset(t).Discovery()},
		RestMapper:     api.RESTMapper(),
	}
	checked := 0
	for _, u := range manifests(t) {
		if u.GetKind() != "ValidatingAdmissionPolicy" {
			continue
		}
		checked++
		var p admissionregistrationv1.ValidatingAdmissionPolicy
		if err := runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, &p); err != nil {
			t.Fatal(err)
		}
		for _, w := range checker.Check(&p) {
			t.Errorf("%s: %s: %s", p.Name, w.FieldRef, w.Warning)
		}
	}
	if checked != 3 {
		t.Errorf("%d policies, want 3", checked)
	}
}
