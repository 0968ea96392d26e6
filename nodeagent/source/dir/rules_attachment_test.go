package dir

import "strings"

const (
	interfaceNameRule = `must be an interface name: at most 15 of letters, digits, '_', '.', '-', beginning with a letter or digit, and not lo, all or default`
	netnsNameRule     = `must be the name of a network namespace under /run/netns: letters, digits, '_', '.', '-', beginning with a letter or digit`
)

var attachmentRules = []ruleCase{
	{name: "loopback only", spec: `{target: {netns: {name: ns1}}}`},
	{name: "everything", spec: `{target: {netns: {name: ns1, nodeName: w1, lifecycle: External}}, network: red, interface: eth7, hostInterface: veth1_p,
	  addresses: [10.68.0.101/24, "fd00::65/64"], macAddress: "02:42:0a:44:00:65", mtu: 1400, defaultRoute: true,
	  routes: [{to: 10.0.0.0/8, via: 10.68.0.1}, {to: "fd01::/64", via: "fd00::1"}, {to: 10.9.0.0/16}]}`},
	{name: "to the host", spec: `{target: {netns: {name: ns1}}, hostInterface: veth1_p, addresses: [10.20.30.41/24], defaultRoute: true, pointToPoint: {host: {addresses: [10.20.30.40/24]}}}`},
	{name: "to a netns", spec: `{target: {netns: {name: ns1}}, addresses: [192.168.1.1/24], defaultRoute: true, pointToPoint: {netns: {name: ns2, interface: veth-m, addresses: [192.168.1.2/24]}}}`},
	{name: "both ends in one netns", spec: `{target: {netns: {name: ns1}}, interface: a, pointToPoint: {netns: {name: ns1, interface: b}}}`},
	{name: "runtime's netns", spec: `{target: {netns: {name: cni-1, lifecycle: External}}}`},

	{name: "no target", spec: `{target: {}}`, want: []string{
		`spec.target.netns: must be set: it names the network namespace to wire`}},
	{name: "no spec.target", spec: `{}`, want: []string{
		`spec.target: must be set`}},
	{name: "pod", spec: `{target: {pod: {name: web-0}}}`, want: []string{
		`spec.target.pod: unknown field: not supported in this version; leave it out`,
		`spec.target.netns: must be set: it names the network namespace to wire`}},
	{name: "later fields", spec: `{target: {netns: {name: ns1}, podSelector: {}}, ipam: {lifecycle: Persistent}, bandwidth: {burst: 1M}}`, want: []string{
		`spec.bandwidth: unknown field: not supported in this version; leave it out`,
		`spec.ipam: unknown field: not supported in this version; leave it out`,
		`spec.target.podSelector: unknown field: not supported in this version; leave it out`}},
	{name: "netns is a path", spec: `{target: {netns: {name: ../net/ns}}}`, want: []string{
		`spec.target.netns.name: ` + netnsNameRule + ` (is "../net/ns")`}},
	{name: "managed netns of a runtime", spec: `{target: {netns: {name: cni-1}}}`, want: []string{
		`spec.target.netns.name: must not begin with cni- unless lifecycle is External: such a namespace belongs to a container runtime`}},
	{name: "managed far netns of a runtime", spec: `{target: {netns: {name: ns1}}, pointToPoint: {netns: {name: cni-1}}}`, want: []string{
		`spec.pointToPoint.netns.name: must not begin with cni- unless lifecycle is External: such a namespace belongs to a container runtime`}},

	{name: "network and point to point", spec: `{target: {netns: {name: ns1}}, network: red, pointToPoint: {host: {}}}`, want: []string{
		`spec.pointToPoint: spec.network and spec.pointToPoint exclude each other: name one, or neither for a namespace with its loopback and nothing else`}},
	{name: "interface of nothing", spec: `{target: {netns: {name: ns1}}, interface: eth0}`, want: []string{
		`spec: without spec.network and spec.pointToPoint there is no interface: leave out interface, hostInterface, addresses, macAddress, mtu, defaultRoute and routes, or name a network`}},
	{name: "host interface between namespaces", spec: `{target: {netns: {name: ns1}}, hostInterface: veth1, pointToPoint: {netns: {name: ns2}}}`, want: []string{
		`spec.hostInterface: cannot be set between two namespaces: such a link has no end on the host`}},
	{name: "two far ends", spec: `{target: {netns: {name: ns1}}, pointToPoint: {host: {}, netns: {name: ns2}}}`, want: []string{
		`spec.pointToPoint: must name exactly one of host, netns`}},
	{name: "no far end", spec: `{target: {netns: {name: ns1}}, pointToPoint: {}}`, want: []string{
		`spec.pointToPoint: must name exactly one of host, netns`}},
	{name: "one name for both ends", spec: `{target: {netns: {name: ns1}}, pointToPoint: {netns: {name: ns1}}}`, want: []string{
		`spec.pointToPoint.netns.interface: must differ from spec.interface where both ends are in one namespace`}},
	{name: "two lifecycles of one netns", spec: `{target: {netns: {name: ns1}}, interface: a, pointToPoint: {netns: {name: ns1, lifecycle: External}}}`, want: []string{
		`spec.pointToPoint.netns.lifecycle: must be that of spec.target.netns where both ends are in one namespace`}},

	{name: "interface", spec: `{target: {netns: {name: ns1}}, network: red, interface: lo}`, want: []string{
		`spec.interface: ` + interfaceNameRule + ` (is "lo")`}},
	{name: "host interface", spec: `{target: {netns: {name: ns1}}, network: red, hostInterface: eth0}`, want: []string{
		`spec.hostInterface: must begin with "veth" and be at most 15 of letters, digits, '_', '.', '-' (is "eth0")`}},
	{name: "host interface too long", spec: `{target: {netns: {name: ns1}}, network: red, hostInterface: veth0123456789ab}`, want: []string{
		`spec.hostInterface: must begin with "veth" and be at most 15 of letters, digits, '_', '.', '-' (is "veth0123456789ab")`}},
	{name: "address without prefix", spec: `{target: {netns: {name: ns1}}, network: red, addresses: [10.68.0.101]}`, want: []string{
		`spec.addresses: must be addresses with a prefix length, such as 10.68.0.101/24, and not loopback, multicast or unspecified`}},
	{name: "multicast address", spec: `{target: {netns: {name: ns1}}, network: red, addresses: [239.0.0.1/24]}`, want: []string{
		`spec.addresses: must be addresses with a prefix length, such as 10.68.0.101/24, and not loopback, multicast or unspecified`}},
	{name: "address twice", spec: `{target: {netns: {name: ns1}}, network: red, addresses: ["fd00::1/64", "fd00:0::1/64"]}`, want: []string{
		`spec.addresses: must not name an address twice`}},
	{name: "no addresses", spec: `{target: {netns: {name: ns1}}, network: red, addresses: []}`, want: []string{
		`spec.addresses: should have at least 1 items (is 0)`}},
	{name: "host's address without prefix", spec: `{target: {netns: {name: ns1}}, pointToPoint: {host: {addresses: [10.0.0.1]}}}`, want: []string{
		`spec.pointToPoint.host.addresses: must be addresses with a prefix length, such as 10.20.30.40/24, and not loopback, multicast or unspecified`}},
	{name: "host's address twice", spec: `{target: {netns: {name: ns1}}, pointToPoint: {host: {addresses: [10.0.0.1/24, 10.0.0.1/8]}}}`, want: []string{
		`spec.pointToPoint.host.addresses: must not name an address twice`}},
	{name: "host's address is the target's", spec: `{target: {netns: {name: ns1}}, addresses: [10.0.0.1/24], pointToPoint: {host: {addresses: [10.0.0.1/8]}}}`, want: []string{
		`spec.pointToPoint.host.addresses: must not repeat one of spec.addresses: each end needs an address of its own`}},
	{name: "far address without prefix", spec: `{target: {netns: {name: ns1}}, pointToPoint: {netns: {name: ns2, addresses: [10.0.0.1]}}}`, want: []string{
		`spec.pointToPoint.netns.addresses: must be addresses with a prefix length, such as 192.168.1.2/24, and not loopback, multicast or unspecified`}},
	{name: "far address twice", spec: `{target: {netns: {name: ns1}}, pointToPoint: {netns: {name: ns2, addresses: [10.0.0.1/24, 10.0.0.1/8]}}}`, want: []string{
		`spec.pointToPoint.netns.addresses: must not name an address twice`}},
	{name: "far address is the target's", spec: `{target: {netns: {name: ns1}}, addresses: [10.0.0.1/24], pointToPoint: {netns: {name: ns2, addresses: [10.0.0.1/8]}}}`, want: []string{
		`spec.pointToPoint.netns.addresses: must not repeat one of spec.addresses: each end needs an address of its own`}},

	{name: "MAC address", spec: `{target: {netns: {name: ns1}}, network: red, macAddress: "03:42:0a:44:00:65"}`, want: []string{
		`spec.macAddress: must be a unicast MAC address such as 02:42:0a:44:00:65 (is "03:42:0a:44:00:65")`}},
	{name: "MTU below IPv6", spec: `{target: {netns: {name: ns1}}, network: red, mtu: 1000, addresses: ["fd00::1/64"]}`, want: []string{
		`spec.mtu: must be at least 1280 with an IPv6 address: the kernel turns IPv6 off below`}},
	{name: "default route without peer", spec: `{target: {netns: {name: ns1}}, addresses: [10.0.0.1/24], defaultRoute: true, pointToPoint: {host: {}}}`, want: []string{
		`spec.defaultRoute: on a point-to-point link needs spec.addresses and addresses of the other end: the route leads via the peer's address`}},
	{name: "default route without address", spec: `{target: {netns: {name: ns1}}, defaultRoute: true, pointToPoint: {netns: {name: ns2, addresses: [10.0.0.1/24]}}}`, want: []string{
		`spec.defaultRoute: on a point-to-point link needs spec.addresses and addresses of the other end: the route leads via the peer's address`}},

	{name: "route twice", spec: `{target: {netns: {name: ns1}}, network: red, routes: [{to: 10.0.0.0/8, via: 10.68.0.1}, {to: 10.0.0.0/8}]}`, want: []string{
		`spec.routes: must not name a destination twice`}},
	{name: "route with host bits", spec: `{target: {netns: {name: ns1}}, network: red, routes: [{to: 10.0.0.1/8}]}`, want: []string{
		`spec.routes[0].to: must be a CIDR without host bits, such as 10.0.0.0/8 (is "10.0.0.1/8")`}},
	{name: "route via a name", spec: `{target: {netns: {name: ns1}}, network: red, routes: [{to: 10.0.0.0/8, via: gw}]}`, want: []string{
		`spec.routes[0].via: must be an IP address, such as 10.68.0.1 (is "gw")`}},
	{name: "route between families", spec: `{target: {netns: {name: ns1}}, network: red, routes: [{to: 10.0.0.0/8, via: "fd00::1"}]}`, want: []string{
		`spec.routes[0].via: must be of the family of spec.routes.to`}},

	{name: "change network", old: `{target: {netns: {name: ns1}}, network: red}`, spec: `{target: {netns: {name: ns1}}, network: blue}`},
	{name: "change target", old: `{target: {netns: {name: ns1}}}`, spec: `{target: {netns: {name: ns2}}}`, want: []string{
		`spec.target: is immutable: delete the attachment and create it anew`}},
	{name: "set node", old: `{target: {netns: {name: ns1}}}`, spec: `{target: {netns: {name: ns1, nodeName: w1}}}`, want: []string{
		`spec.target: is immutable: delete the attachment and create it anew`}},
	{name: "change lifecycle", old: `{target: {netns: {name: ns1}}}`, spec: `{target: {netns: {name: ns1, lifecycle: External}}}`, want: []string{
		`spec.target: is immutable: delete the attachment and create it anew`}},
	{name: "name too long", object: strings.Repeat("a", 64), spec: `{target: {netns: {name: ns1}}}`, want: []string{
		`metadata.name must be at most 63 characters`}},
	{name: "YAML's booleans", spec: `{target: {netns: {name: no}}}`, want: []string{
		`spec.target.netns.name: must be of type string, not boolean: put it in quotes`}},
}
