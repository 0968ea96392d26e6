package controlplane

import (
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/patchbay-dev/patchbay/test/netlab"
)

const (
	toAttach  = "needs the verb use-node-network on namespaceattachments.patchbay.dev in namespace lab: have it granted (ClusterRole patchbay-node-network-user)"
	toPublish = "needs the verb use-node-network on portpublishes.patchbay.dev in namespace lab: have it granted (ClusterRole patchbay-node-network-user), or use host ports 20000 to 29999 on all addresses"
)

// TestTenants: a tenant does not reach the node's own network, and a user with the verb
// in that namespace does.
func TestTenants(t *testing.T) {
	deploy(t)
	netns := func(name, lifecycle string) map[string]any {
		return map[string]any{"netns": map[string]any{"name": name, "nodeName": "w1", "lifecycle": lifecycle}}
	}
	pod := map[string]any{"pod": map[string]any{"name": "web-0"}}
	ports := func(hostPorts ...int64) (out []any) {
		for _, p := range hostPorts {
			out = append(out, map[string]any{"hostPort": p})
		}
		return out
	}
	publish := func(spec map[string]any) map[string]any {
		spec["attachment"] = "net1"
		return spec
	}
	tenant := user(t, tenantNamespace, "patchbay-editor")
	trusted := user(t, tenantNamespace, "patchbay-editor", "patchbay-node-network-user")
	admin := user(t, "", "patchbay-admin")
	for name, c := range map[string]struct {
		kind    string
		spec    map[string]any
		refused string // to a tenant
	}{
		"netns":     {"NamespaceAttachment", map[string]any{"target": netns("net1", "Managed"), "network": "red"}, "spec.target.netns " + toAttach},
		"cni netns": {"NamespaceAttachment", map[string]any{"target": netns("cni-0a1b", "External"), "network": "red"}, "spec.target.netns " + toAttach},
		"point to point": {"NamespaceAttachment", map[string]any{"target": netns("net1", "Managed"), "pointToPoint": map[string]any{"host": map[string]any{}}},
			"spec.target.netns, spec.pointToPoint " + toAttach},
		"pod":            {"NamespaceAttachment", map[string]any{"target": pod, "network": "red"}, ""},
		"pod, all of it": {"NamespaceAttachment", map[string]any{"target": pod, "network": "red", "ipam": map[string]any{}, "bandwidth": map[string]any{"egressRate": "1M"}, "hostInterface": "veth1"}, ""},
		"pod with floating addresses": {"NamespaceAttachment", map[string]any{"target": pod, "network": "red", "allowedAddresses": []any{"10.68.0.100"}, "allowedMACAddresses": []any{"00:00:5e:00:01:33"}},
			"spec.allowedAddresses, spec.allowedMACAddresses " + toAttach},
		"pods with floating addresses": {"NamespaceAttachment", map[string]any{"target": map[string]any{"podSelector": map[string]any{}}, "network": "red", "allowedAddresses": []any{"10.68.0.100"}},
			"spec.allowedAddresses " + toAttach},
		"pod with no floating addresses": {"NamespaceAttachment", map[string]any{"target": pod, "network": "red", "allowedAddresses": []any{}, "allowedMACAddresses": []any{}}, ""},
		"pods":                           {"NamespaceAttachment", map[string]any{"target": map[string]any{"podSelector": map[string]any{}}, "network": "red"}, ""},
		"pod to the host": {"NamespaceAttachment", map[string]any{"target": pod, "pointToPoint": map[string]any{"host": map[string]any{}}},
			"spec.pointToPoint " + toAttach},
		"pod to a netns": {"NamespaceAttachment", map[string]any{"target": pod, "pointToPoint": map[string]any{"netns": map[string]any{"name": "ns2"}}},
			"spec.pointToPoint " + toAttach},
		"first and last port": {"PortPublish", publish(map[string]any{"ports": ports(20000, 29999)}), ""},
		"no host addresses":   {"PortPublish", publish(map[string]any{"ports": ports(20000), "hostAddresses": []any{}}), ""},
		"ports below":         {"PortPublish", publish(map[string]any{"ports": ports(80, 20000, 19999)}), "spec.ports hostPort 80, spec.ports hostPort 19999 " + toPublish},
		"port above":          {"PortPublish", publish(map[string]any{"ports": ports(30000)}), "spec.ports hostPort 30000 " + toPublish},
		"range":               {"PortPublish", publish(map[string]any{"ports": []any{map[string]any{"hostPort": int64(20000), "hostPortEnd": int64(29999)}}}), ""},
		"range that begins below": {"PortPublish", publish(map[string]any{"ports": []any{map[string]any{"hostPort": int64(19999), "hostPortEnd": int64(20001)}}}),
			"spec.ports hostPort 19999-20001 " + toPublish},
		"range that ends above": {"PortPublish", publish(map[string]any{"ports": []any{map[string]any{"hostPort": int64(29990), "hostPortEnd": int64(30000)}}}),
			"spec.ports hostPort 29990-30000 " + toPublish},
		"loopback":      {"PortPublish", publish(map[string]any{"ports": ports(20000), "loopback": true}), "spec.loopback " + toPublish},
		"no loopback":   {"PortPublish", publish(map[string]any{"ports": ports(20000), "loopback": false}), ""},
		"source ranges": {"PortPublish", publish(map[string]any{"ports": ports(20000), "sourceRanges": []any{"10.0.0.0/8"}}), ""},
		"loopback, address and range": {"PortPublish", publish(map[string]any{"ports": []any{map[string]any{"hostPort": int64(80), "hostPortEnd": int64(90)}}, "loopback": true, "hostAddresses": []any{"192.0.2.10"}}),
			"spec.hostAddresses, spec.loopback, spec.ports hostPort 80-90 " + toPublish},
		"host address": {"PortPublish", publish(map[string]any{"ports": ports(20000), "hostAddresses": []any{"192.0.2.10"}}), "spec.hostAddresses " + toPublish},
	} {
		t.Run(name, func(t *testing.T) {
			content := map[string]any{"spec": c.spec}
			checkAccepted(t, tryCreate(t, trusted, c.kind, content))
			checkAccepted(t, tryCreate(t, admin, c.kind, content))
			if err := tryCreate(t, tenant, c.kind, content); c.refused == "" {
				checkAccepted(t, err)
			} else {
				checkRefused(t, err, c.refused)
			}
		})
	}
}

// TestTenantsElsewhere: the verb counts in the namespace and for the resource it
// was granted for.
func TestTenantsElsewhere(t *testing.T) {
	deploy(t)
	ensureNamespace(t, "elsewhere")
	const name = "trusted-elsewhere"
	grant(t, name, tenantNamespace, "patchbay-editor")
	grant(t, name, "elsewhere", "patchbay-node-network-user")
	checkRefused(t, tryCreate(t, impersonate(t, name, ""), "NamespaceAttachment", minimal("NamespaceAttachment")), toAttach)
	clusterRole(t, "publishes-only", rule("patchbay.dev", "portpublishes", "use-node-network"))
	half := user(t, tenantNamespace, "patchbay-editor", "publishes-only")
	checkAccepted(t, tryCreate(t, half, "PortPublish", minimal("PortPublish")))
	checkRefused(t, tryCreate(t, half, "NamespaceAttachment", minimal("NamespaceAttachment")), toAttach)
}

// TestTenantsChange: who changes a spec answers for all of it; who changes
// something else, for nothing.
func TestTenantsChange(t *testing.T) {
	deploy(t)
	tenant := user(t, tenantNamespace, "patchbay-editor")
	attachment := create(t, object("NamespaceAttachment", tenantNamespace, "net1", map[string]any{
		"spec": map[string]any{"target": map[string]any{"netns": map[string]any{"name": "net1"}}, "network": "red"},
	}))
	own := create(t, object("PortPublish", tenantNamespace, "own", map[string]any{
		"spec": map[string]any{"attachment": "net1", "ports": []any{map[string]any{"hostPort": int64(20000)}}},
	}))
	given := create(t, object("PortPublish", tenantNamespace, "given", minimal("PortPublish")))
	patch := func(o *unstructured.Unstructured, text string) error {
		return tenant.Patch(testContext(t), o.DeepCopy(), mergePatch(text), client.DryRunAll)
	}
	const label = `{"metadata": {"labels": {"a": "b"}}}`
	checkAccepted(t, patch(attachment, label))
	checkRefused(t, patch(attachment, `{"spec": {"mtu": 1400}}`), "spec.target.netns "+toAttach)
	checkAccepted(t, patch(own, `{"spec": {"ports": [{"hostPort": 20001}]}}`))
	checkRefused(t, patch(own, `{"spec": {"ports": [{"hostPort": 443}]}}`), "spec.ports hostPort 443 "+toPublish)
	checkAccepted(t, patch(given, label))
	checkRefused(t, patch(given, `{"spec": {"attachment": "net2"}}`), "spec.ports hostPort 80 "+toPublish)
	checkAccepted(t, patch(given, `{"spec": {"ports": [{"hostPort": 20080}]}}`))
	checkAccepted(t, tenant.Delete(testContext(t), given.DeepCopy(), client.DryRunAll))
}

// TestTenantsAfterReinstall: a policy that was uninstalled and installed again is in
// force again, with another range as well. A range in a ConfigMap would not be.
func TestTenantsAfterReinstall(t *testing.T) {
	deploy(t)
	tenant := user(t, tenantNamespace, "patchbay-editor")
	publish := func(port int64) error {
		return tryCreate(t, tenant, "PortPublish", map[string]any{"spec": map[string]any{"attachment": "net1", "ports": []any{map[string]any{"hostPort": port}}}})
	}
	checkRefused(t, publish(80), toPublish)
	for _, o := range documents(t, "../../config/policy/tenancy.yaml") {
		checkAccepted(t, api.Delete(testContext(t), o))
	}
	netlab.Until(t, deadline, "the policy is gone", func() bool { return publish(80) == nil })
	deploy(t)
	checkRefused(t, publish(80), toPublish)
	checkAccepted(t, publish(20000))
	setRange := func(low, high string) {
		p := documents(t, "../../config/policy/tenancy.yaml")[2]
		variables, _, _ := unstructured.NestedSlice(p.Object, "spec", "variables")
		variables[0] = map[string]any{"name": "hostPortMin", "expression": low}
		variables[1] = map[string]any{"name": "hostPortMax", "expression": high}
		checkAccepted(t, unstructured.SetNestedSlice(p.Object, variables, "spec", "variables"))
		apply(t, p)
	}
	setRange("31000", "31000")
	netlab.Until(t, deadline, "the new range holds", func() bool { return publish(31000) == nil })
	checkRefused(t, publish(20000), "spec.ports hostPort 20000", "or use host ports 31000 to 31000")
	setRange("20000", "29999")
	netlab.Until(t, deadline, "the old range holds", func() bool { return publish(20000) == nil })
}
