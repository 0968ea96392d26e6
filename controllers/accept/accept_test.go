package accept

import (
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/yaml"

	"github.com/patchbay-dev/patchbay/api/v1alpha1"
)

// The objects here bear the defaults that the CRDs would have filled in.
func object[T any](t *testing.T, text string) *T {
	t.Helper()
	var o T
	if err := yaml.UnmarshalStrict([]byte(text), &o); err != nil {
		t.Fatalf("%v in %s", err, text)
	}
	return &o
}

func network(t *testing.T, spec string) *v1alpha1.BridgeNetwork {
	n := object[v1alpha1.BridgeNetwork](t, "{metadata: {name: red, generation: 3}, spec: "+spec+"}")
	if n.Spec.Gateway.Mode == "" {
		n.Spec.Gateway.Mode = v1alpha1.GatewayBridge
	}
	return n
}

func attach(t *testing.T, spec string) *v1alpha1.NamespaceAttachment {
	return object[v1alpha1.NamespaceAttachment](t, "{metadata: {name: net1, namespace: lab, generation: 3}, spec: "+spec+"}")
}

// cluster has the nodes w1 (labelled disk: ssd) and w2, and one network.
func cluster(n *v1alpha1.BridgeNetwork, a ...*v1alpha1.NamespaceAttachment) World {
	w := Local("", []*v1alpha1.BridgeNetwork{n}, a)
	nodes := map[string]map[string]string{"w1": {"disk": "ssd"}, "w2": {}}
	w.Standalone = false
	w.NodeLabels = func(name string) (map[string]string, bool) {
		labels, ok := nodes[name]
		return labels, ok
	}
	w.NamespaceLabels = func(name string) map[string]string {
		return map[string]string{"kubernetes.io/metadata.name": name, "team": "a"}
	}
	return w
}

func expect(t *testing.T, got metav1.Condition, reason, message string) {
	t.Helper()
	want := metav1.Condition{Type: "Accepted", Status: metav1.ConditionFalse, ObservedGeneration: 3, Reason: reason, Message: message}
	if reason == v1alpha1.ReasonAccepted {
		want.Status = metav1.ConditionTrue
	}
	if got != want {
		t.Errorf("\n got %+v\nwant %+v", got, want)
	}
}

const accepted = v1alpha1.ReasonAccepted

func TestNetwork(t *testing.T) {
	fine := "the network may be built on the nodes that it selects"
	for _, c := range []struct{ name, spec, reason, message string }{
		{"empty", `{}`, accepted, fine},
		{"all", `{subnets: [10.68.0.0/24, "fd00::/64"], gateway: {addresses: [10.68.0.254]}, ipam: {exclude: [10.68.0.0/28, 10.68.0.77, "fd00::1-fd00::ff"]}, egress: {sourceAddress: 192.0.2.1}}`, accepted, fine},
		{"gateway is the network", `{subnets: [10.68.0.0/24], gateway: {addresses: [10.68.0.0]}}`, "AddressConflict",
			"spec.gateway.addresses: 10.68.0.0 is the network address of 10.68.0.0/24; choose another address of the subnet"},
		{"gateway is the broadcast address", `{subnets: [10.68.0.0/23], gateway: {addresses: [10.68.1.255]}}`, "AddressConflict",
			"spec.gateway.addresses: 10.68.1.255 is the broadcast address of 10.68.0.0/23; choose another address of the subnet"},
		{"last of IPv6", `{subnets: ["fd00::/120"], gateway: {addresses: ["fd00::ff"]}}`, accepted, fine},
		{"backward range", `{subnets: [10.68.0.0/24], ipam: {exclude: [10.68.0.9-10.68.0.1]}}`, "Unsupported",
			"spec.ipam.exclude: 10.68.0.9-10.68.0.1 must go from a lower to a higher address of one family"},
		{"range of two families", `{subnets: [10.68.0.0/24], ipam: {exclude: ["10.68.0.9-fd00::1"]}}`, "Unsupported",
			"spec.ipam.exclude: 10.68.0.9-fd00::1 must go from a lower to a higher address of one family"},
		{"exclude more", `{subnets: [10.68.0.0/24], ipam: {exclude: [10.0.0.0/8]}}`, accepted, fine},
		{"source of another family", `{subnets: [10.68.0.0/24], egress: {sourceAddress: "2001:db8::1"}}`, "Unsupported",
			"spec.egress.sourceAddress: 2001:db8::1 has no subnet of its family in spec.subnets; leave it out or add the subnet"},
		{"node selector", `{nodeSelector: {matchExpressions: [{key: a, operator: Is}]}}`, "Unsupported",
			`spec.nodeSelector: "Is" is not a valid label selector operator; correct the selector`},
		{"namespace selector", `{allowedNamespaces: {from: Selector, selector: {matchExpressions: [{key: a, operator: In}]}}}`, "Unsupported",
			`spec.allowedNamespaces.selector: values: Invalid value: null: for 'in', 'notin' operators, values set can't be empty; correct the selector`},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := network(t, c.spec)
			expect(t, Network(n, cluster(n)), c.reason, c.message)
		})
	}
}

const (
	open = `{allowedNamespaces: {from: All}, subnets: [10.68.0.0/24, "fd00::/64"], gateway: {addresses: [10.68.0.1]}}`
	on   = `{target: {netns: {name: n1, nodeName: w1}}, network: red, `
)

func TestAttachment(t *testing.T) {
	fine := "bound to node w1"
	for _, c := range []struct{ name, network, spec, reason, message string }{
		{"allocated", open, on + `}`, accepted, fine},
		{"static", open, on + `addresses: [10.68.0.9/24, "fd00::9/64"], defaultRoute: true, routes: [{to: 10.0.0.0/8, via: 10.68.0.1}, {to: "fd01::/64", via: "fe80::1"}, {to: 10.9.0.0/16}]}`, accepted, fine},
		{"floating addresses", open, on + `allowedAddresses: [10.68.0.100, 10.70.0.0/24, "fd00::100", "fe80::100"], allowedMACAddresses: ["00:00:5e:00:01:33"]}`, accepted, fine},
		{"floating gateway", open, on + `allowedAddresses: [10.68.0.100, 10.68.0.1]}`, "AddressConflict",
			"spec.allowedAddresses: 10.68.0.1/32 is of the gateway 10.68.0.1, which the node has on BridgeNetwork red; choose others"},
		{"floating range with the gateway", open, on + `allowedAddresses: ["fd00::/64"]}`, "AddressConflict",
			"spec.allowedAddresses: fd00::/64 is of the gateway fd00::1, which the node has on BridgeNetwork red; choose others"},
		{"floating router", `{allowedNamespaces: {from: All}, subnets: [10.68.0.0/24], gateway: {mode: External, addresses: [10.68.0.1]}}`, on + `addresses: [10.68.0.9/24], allowedAddresses: [10.68.0.1]}`, accepted, fine},
		{"loopback only", open, `{target: {netns: {name: n1, nodeName: w1}}}`, accepted, fine},
		{"no node", open, `{target: {netns: {name: n1}}}`, "NodeNotFound",
			"spec.target.netns.nodeName must name the node that the namespace is on"},
		{"unknown node", open, `{target: {netns: {name: n1, nodeName: w9}}}`, "NodeNotFound",
			"node w9 does not exist; correct spec.target.netns.nodeName"},
		{"no network", open, `{target: {netns: {name: n1, nodeName: w1}}, network: blue}`, "NetworkNotFound",
			"BridgeNetwork blue does not exist; create it or correct spec.network"},
		{"bad network", `{subnets: [10.68.0.0/24], gateway: {addresses: [10.68.0.0]}}`, on + `}`, "NetworkNotFound",
			"BridgeNetwork red is not accepted: spec.gateway.addresses: 10.68.0.0 is the network address of 10.68.0.0/24; choose another address of the subnet"},
		{"selected", `{nodeSelector: {matchLabels: {disk: ssd}}, allowedNamespaces: {from: All}}`, on + `}`, accepted, fine},
		{"not selected", `{nodeSelector: {matchLabels: {disk: hdd}}, allowedNamespaces: {from: All}}`, on + `}`, "NetworkNotFound",
			"BridgeNetwork red does not select node w1; change its spec.nodeSelector or label the node"},
		{"no tenants", `{}`, on + `}`, "NamespaceNotAllowed",
			"BridgeNetwork red does not let namespace lab attach; include it in the network's spec.allowedNamespaces"},
		{"tenants by label", `{allowedNamespaces: {from: Selector, selector: {matchLabels: {team: a}}}}`, on + `}`, accepted, fine},
		{"tenants by another label", `{allowedNamespaces: {from: Selector, selector: {matchLabels: {team: b}}}}`, on + `}`, "NamespaceNotAllowed",
			"BridgeNetwork red does not let namespace lab attach; include it in the network's spec.allowedNamespaces"},
		{"address elsewhere", open, on + `addresses: [10.69.0.9/24]}`, "AddressConflict",
			"spec.addresses: 10.69.0.9/24 is not an address of BridgeNetwork red; choose one of 10.68.0.0/24, fd00::/64, with that prefix length"},
		{"prefix length", open, on + `addresses: [10.68.0.9/16]}`, "AddressConflict",
			"spec.addresses: 10.68.0.9/16 is not an address of BridgeNetwork red; choose one of 10.68.0.0/24, fd00::/64, with that prefix length"},
		{"network address", open, on + `addresses: [10.68.0.0/24]}`, "AddressConflict",
			"spec.addresses: 10.68.0.0/24 is the network address of 10.68.0.0/24 on BridgeNetwork red; choose another address"},
		{"broadcast address", open, on + `addresses: [10.68.0.255/24]}`, "AddressConflict",
			"spec.addresses: 10.68.0.255/24 is the broadcast address of 10.68.0.0/24 on BridgeNetwork red; choose another address"},
		{"gateway's address", open, on + `addresses: [10.68.0.1/24]}`, "AddressConflict",
			"spec.addresses: 10.68.0.1/24 is the gateway address of 10.68.0.0/24 on BridgeNetwork red; choose another address"},
		{"implied gateway's address", open, on + `addresses: ["fd00::1/64"]}`, "AddressConflict",
			"spec.addresses: fd00::1/64 is the gateway address of fd00::/64 on BridgeNetwork red; choose another address"},
		{"no gateway, no conflict", `{allowedNamespaces: {from: All}, subnets: [10.68.0.0/24], gateway: {mode: None}}`, on + `addresses: [10.68.0.1/24]}`, accepted, fine},
		{"layer 2", `{allowedNamespaces: {from: All}, gateway: {mode: None}}`, on + `addresses: [192.168.1.1/24]}`, accepted, fine},
		{"uplink", `{allowedNamespaces: {from: All}, subnets: [10.68.0.0/24], gateway: {mode: External, addresses: [10.68.0.1]}, uplink: {interface: eth1}}`, on + `}`, "Unsupported",
			"BridgeNetwork red has an uplink, where no addresses are allocated; set spec.addresses to a free one of 10.68.0.0/24"},
		{"default route to nowhere", `{allowedNamespaces: {from: All}, subnets: [10.68.0.0/24], gateway: {mode: External}}`, on + `defaultRoute: true}`, "Unsupported",
			"spec.defaultRoute: BridgeNetwork red has no gateway address; set its spec.gateway.addresses or leave defaultRoute out"},
		{"IPv6 on a small MTU", open, on + `mtu: 1000}`, "Unsupported",
			"spec.mtu: BridgeNetwork red has the IPv6 subnet fd00::/64, which needs at least 1280"},
		{"route via a stranger", open, on + `routes: [{to: 10.0.0.0/8, via: 10.69.0.1}]}`, "Unsupported",
			"spec.routes: 10.0.0.0/8 cannot go via 10.69.0.1, which is not on the link; choose a next hop in 10.68.0.0/24, fd00::/64"},
		{"route without address", `{allowedNamespaces: {from: All}}`, on + `routes: [{to: 10.0.0.0/8, via: 10.69.0.1}]}`, "Unsupported",
			"spec.routes: 10.0.0.0/8 cannot go via 10.69.0.1, for the attachment has no address; set spec.addresses"},
		{"route via the peer", open, `{target: {netns: {name: n1, nodeName: w1}}, addresses: [10.1.0.1/32], pointToPoint: {host: {addresses: [10.2.0.1/32]}}, routes: [{to: 10.0.0.0/8, via: 10.2.0.1}]}`, accepted, fine},
		{"route past the peer", open, `{target: {netns: {name: n1, nodeName: w1}}, addresses: [10.1.0.1/32], pointToPoint: {netns: {name: n2, addresses: [10.2.0.1/24]}}, routes: [{to: 10.0.0.0/8, via: 10.2.0.2}]}`, "Unsupported",
			"spec.routes: 10.0.0.0/8 cannot go via 10.2.0.2, which is not on the link; choose a next hop in 10.1.0.1/32, 10.2.0.1/32"},
	} {
		t.Run(c.name, func(t *testing.T) {
			expect(t, Attachment(attach(t, c.spec), cluster(network(t, c.network))), c.reason, c.message)
		})
	}
}

// TestDeletedNetwork: it keeps what it accepted, of whatever generation, and
// takes nothing new.
func TestDeletedNetwork(t *testing.T) {
	n := network(t, open)
	n.DeletionTimestamp = &metav1.Time{Time: time.Unix(1, 0)}
	for _, c := range []struct{ name, conditions, reason, message string }{
		{"new", `[]`, "NetworkNotFound", "BridgeNetwork red is being deleted; name another in spec.network, or create it anew when it is gone"},
		{"refused before", `[{type: Accepted, status: "False", observedGeneration: 3}]`, "NetworkNotFound",
			"BridgeNetwork red is being deleted; name another in spec.network, or create it anew when it is gone"},
		{"accepted", `[{type: Accepted, status: "True", observedGeneration: 3}]`, accepted, "bound to node w1"},
		{"accepted, then edited", `[{type: Accepted, status: "True", observedGeneration: 2}]`, accepted, "bound to node w1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := object[v1alpha1.NamespaceAttachment](t, "{metadata: {name: net1, namespace: lab, generation: 3}, spec: "+on+"}, status: {conditions: "+c.conditions+"}}")
			expect(t, Attachment(a, cluster(n)), c.reason, c.message)
		})
	}
}

func TestStandalone(t *testing.T) {
	for _, c := range []struct{ name, network, spec, reason, message string }{
		{"no node, no tenants", `{}`, `{target: {netns: {name: n1}}, network: red}`, accepted, "bound to node here"},
		{"this node", `{nodeSelector: {matchLabels: {kubernetes.io/hostname: here}}}`, `{target: {netns: {name: n1, nodeName: here}}, network: red}`, accepted, "bound to node here"},
		{"another node", `{}`, `{target: {netns: {name: n1, nodeName: there}}, network: red}`, "NodeNotFound",
			"spec.target.netns.nodeName is there, but this node is here; correct it or leave it out"},
		{"another node's network", `{nodeSelector: {matchLabels: {kubernetes.io/hostname: there}}}`, `{target: {netns: {name: n1}}, network: red}`, "NetworkNotFound",
			"BridgeNetwork red does not select node here; change its spec.nodeSelector or label the node"},
		{"namespace by name", `{allowedNamespaces: {from: Selector, selector: {matchLabels: {kubernetes.io/metadata.name: lab}}}}`, `{target: {netns: {name: n1}}, network: red}`, accepted, "bound to node here"},
		{"namespace by label", `{allowedNamespaces: {from: Selector, selector: {matchLabels: {team: a}}}}`, `{target: {netns: {name: n1}}, network: red}`, "NamespaceNotAllowed",
			"BridgeNetwork red does not let namespace lab attach; include it in the network's spec.allowedNamespaces"},
		{"nobody", `{allowedNamespaces: {from: None}}`, `{target: {netns: {name: n1}}, network: red}`, "NamespaceNotAllowed",
			"BridgeNetwork red does not let namespace lab attach; include it in the network's spec.allowedNamespaces"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := Local("here", []*v1alpha1.BridgeNetwork{network(t, c.network)}, nil)
			expect(t, Attachment(attach(t, c.spec), w), c.reason, c.message)
		})
	}
}

func TestPublish(t *testing.T) {
	p2p := `{target: {netns: {name: n1, nodeName: w1}}, addresses: [10.1.0.1/24], pointToPoint: `
	fine := "leads to NamespaceAttachment lab/net1"
	for _, c := range []struct{ name, network, spec, hosts, reason, message string }{
		{"both families", open, on + `}`, `[192.0.2.1, "2001:db8::1"]`, accepted, fine},
		{"point to point", open, p2p + `{host: {addresses: [10.1.0.2/24]}}}`, `[192.0.2.1]`, accepted, fine},
		{"not accepted", `{}`, on + `}`, `[]`, "AttachmentNotFound",
			"NamespaceAttachment lab/net1 is not accepted: BridgeNetwork red does not let namespace lab attach; include it in the network's spec.allowedNamespaces"},
		{"loopback only", open, `{target: {netns: {name: n1, nodeName: w1}}}`, `[]`, "Unsupported",
			"NamespaceAttachment lab/net1 has only its loopback; set its spec.network or spec.pointToPoint"},
		{"between namespaces", open, p2p + `{netns: {name: n2}}}`, `[]`, "Unsupported",
			"NamespaceAttachment lab/net1 joins two namespaces and has no end on the host; publish an attachment to a network or to the host"},
		{"host without address", open, p2p + `{host: {}}}`, `[]`, "Unsupported",
			"NamespaceAttachment lab/net1 has no address in common with the host; set its spec.addresses and spec.pointToPoint.host.addresses"},
		{"no gateway", `{allowedNamespaces: {from: All}, subnets: [10.68.0.0/24], gateway: {mode: None}}`, on + `}`, `[]`, "Unsupported",
			"NamespaceAttachment lab/net1 is on BridgeNetwork red, which the host cannot reach; set the network's spec.gateway.mode to Bridge"},
		{"no subnets", `{allowedNamespaces: {from: All}}`, on + `addresses: [10.1.0.1/24]}`, `[]`, "Unsupported",
			"NamespaceAttachment lab/net1 is on BridgeNetwork red, which the host cannot reach; set the network's spec.subnets"},
		{"no address", `{allowedNamespaces: {from: All}, gateway: {mode: External}}`, on + `}`, `[]`, "Unsupported",
			"NamespaceAttachment lab/net1 has no address: BridgeNetwork red has no subnets; set spec.addresses of the attachment"},
		{"other family", open, on + `addresses: [10.68.0.9/24]}`, `[192.0.2.1, "2001:db8::1"]`, "Unsupported",
			"spec.hostAddresses: 2001:db8::1 cannot lead to NamespaceAttachment lab/net1, which has no address of its family; leave it out"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := cluster(network(t, c.network), attach(t, c.spec))
			p := object[v1alpha1.PortPublish](t, "{metadata: {name: web, namespace: lab, generation: 3}, spec: {attachment: net1, hostAddresses: "+c.hosts+"}}")
			expect(t, Publish(p, w), c.reason, c.message)
			w.Attachment = func(types.NamespacedName) *v1alpha1.NamespaceAttachment { return nil }
			expect(t, Publish(p, w), "AttachmentNotFound", "NamespaceAttachment lab/net1 does not exist; create it or correct spec.attachment")
		})
	}
}
