package dir

var networkRules = []ruleCase{
	{name: "nothing", spec: `{}`},
	{name: "everything", spec: `{nodeSelector: {matchLabels: {a: b}}, bridge: {name: br-red, mtu: 9000}, subnets: [10.68.0.0/24, "fd00::/64"],
	  gateway: {addresses: [10.68.0.1, "fd00::1"]}, ipam: {exclude: [10.68.0.0/28, 10.68.0.77, 10.68.0.200-10.68.0.220]},
	  egress: {masquerade: true, sourceAddress: 192.0.2.1, excludeDestinations: [10.0.0.0/8]},
	  isolation: {ports: true, ingress: Open, antiSpoof: false}, allowedNamespaces: {from: Selector, selector: {}}}`},
	{name: "uplink", spec: `{subnets: [192.168.31.0/24], gateway: {mode: External, addresses: [192.168.31.1]}, isolation: {ingress: Open}, uplink: {interface: eth1.7}}`},
	{name: "external bridge", spec: `{bridge: {name: docker0, lifecycle: External}, gateway: {mode: None}}`},
	{name: "smallest subnets", spec: `{subnets: [10.0.0.0/30, "fd00::/126"]}`},

	{name: "bridge name", spec: `{bridge: {name: br/red}}`, want: []string{
		`spec.bridge.name: must be an interface name: at most 15 of letters, digits, '_', '.', '-', beginning with a letter or digit, and not all, default or lo (is "br/red")`}},
	{name: "bridge name too long", spec: `{bridge: {name: br-0123456789abc}}`, want: []string{
		`spec.bridge.name: must be an interface name: at most 15 of letters, digits, '_', '.', '-', beginning with a letter or digit, and not all, default or lo (is "br-0123456789abc")`}},
	{name: "bridge called all", spec: `{bridge: {name: all}}`, want: []string{
		`spec.bridge.name: must be an interface name: at most 15 of letters, digits, '_', '.', '-', beginning with a letter or digit, and not all, default or lo (is "all")`}},
	{name: "lifecycle", spec: `{bridge: {lifecycle: Foreign}}`, want: []string{
		`spec.bridge.lifecycle: must not be "Foreign": supported values: "Managed", "External"`}},
	{name: "mtu", spec: `{bridge: {mtu: 576}}`, want: []string{
		`spec.bridge.mtu: should be greater than or equal to 1280 (is 576)`}},

	{name: "subnet is no CIDR", spec: `{subnets: [10.68.0.0]}`, want: []string{
		`spec.subnets: must be CIDRs such as 10.68.0.0/24 or fd00::/64`}},
	{name: "host bits", spec: `{subnets: [10.68.0.1/24]}`, want: []string{
		`spec.subnets[0]: must have no host bits: write 10.68.0.0/24 (is "10.68.0.1/24")`}},
	{name: "host bits of IPv6", spec: `{subnets: [10.68.0.0/24, "fd00::1/64"]}`, want: []string{
		`spec.subnets[1]: must have no host bits: write fd00::/64 (is "fd00::1/64")`}},
	{name: "two of a family", spec: `{subnets: [10.68.0.0/24, 10.69.0.0/24]}`, want: []string{
		`spec.subnets: may hold at most one subnet of each family: make a second network for the other`}},
	{name: "three subnets", spec: `{subnets: [10.68.0.0/24, 10.69.0.0/24, 10.70.0.0/24]}`, want: []string{
		`spec.subnets: Too many: 3: must have at most 2 items`}},
	{name: "subnet too small", spec: `{subnets: [10.68.0.0/31]}`, want: []string{
		`spec.subnets: must be between /8 and /30 for IPv4, between /8 and /126 for IPv6`}},
	{name: "subnet too large", spec: `{subnets: ["f000::/4"]}`, want: []string{
		`spec.subnets: must be between /8 and /30 for IPv4, between /8 and /126 for IPv6`}},
	{name: "multicast subnet", spec: `{subnets: [239.1.0.0/16]}`, want: []string{
		`spec.subnets: must not be loopback, link-local, multicast or unspecified: choose a private range such as 10.68.0.0/24 or fd00::/64`}},
	{name: "link-local subnet", spec: `{subnets: ["fe80::/64"]}`, want: []string{
		`spec.subnets: must not be loopback, link-local, multicast or unspecified: choose a private range such as 10.68.0.0/24 or fd00::/64`}},

	{name: "gateway with prefix", spec: `{subnets: [10.68.0.0/24], gateway: {addresses: [10.68.0.1/24]}}`, want: []string{
		`spec.gateway.addresses: must each lie in one of spec.subnets`,
		`spec.gateway.addresses: must be IP addresses without a prefix length, such as 10.68.0.1`}},
	{name: "gateways of a family", spec: `{subnets: [10.68.0.0/24], gateway: {addresses: [10.68.0.1, 10.68.0.2]}}`, want: []string{
		`spec.gateway.addresses: may hold at most one address of each family`}},
	{name: "gateway elsewhere", spec: `{subnets: [10.68.0.0/24], gateway: {addresses: [10.69.0.1]}}`, want: []string{
		`spec.gateway.addresses: must each lie in one of spec.subnets`}},
	{name: "gateway without subnet", spec: `{gateway: {addresses: [10.69.0.1]}}`, want: []string{
		`spec.gateway.addresses: must each lie in one of spec.subnets`}},
	{name: "gateway in mode None", spec: `{subnets: [10.68.0.0/24], gateway: {mode: None, addresses: [10.68.0.1]}}`, want: []string{
		`spec.gateway.addresses: cannot be set with spec.gateway.mode None: leave the addresses out or choose Bridge or External`}},

	{name: "exclude", spec: `{ipam: {exclude: [10.68.0.1-]}}`, want: []string{
		`spec.ipam.exclude: must hold CIDRs (10.68.0.0/28), addresses or ranges (10.68.0.200-10.68.0.220)`}},
	{name: "source without masquerade", spec: `{egress: {masquerade: false, sourceAddress: 192.0.2.1}}`, want: []string{
		`spec.egress.sourceAddress: needs spec.egress.masquerade true: set it, or leave sourceAddress out`}},
	{name: "source address", spec: `{egress: {sourceAddress: eth0}}`, want: []string{
		`spec.egress.sourceAddress: must be an IP address of the node, such as 192.0.2.10 (is "eth0")`}},
	{name: "excluded destination", spec: `{egress: {excludeDestinations: [10.0.0.1/8]}}`, want: []string{
		`spec.egress.excludeDestinations: must be CIDRs without host bits, such as 10.0.0.0/8`}},

	{name: "uplink with gateway", spec: `{isolation: {ingress: Open}, uplink: {interface: eth1}}`, want: []string{
		`spec.uplink: needs spec.gateway.mode External or None: the gateway of a joined LAN is the LAN's router`}},
	{name: "uplink published only", spec: `{gateway: {mode: None}, uplink: {interface: eth1}}`, want: []string{
		`spec.uplink: needs spec.isolation.ingress Open: neighbours on the joined LAN reach attachments at layer 2, where PublishedOnly cannot hold`}},
	{name: "uplink of an external bridge", spec: `{bridge: {name: br0, lifecycle: External}, gateway: {mode: None}, isolation: {ingress: Open}, uplink: {interface: eth1}}`, want: []string{
		`spec.uplink: cannot be set with spec.bridge.lifecycle External: the ports of a foreign bridge are not Patchbay's to change`}},
	{name: "uplink without a name", spec: `{gateway: {mode: None}, isolation: {ingress: Open}, uplink: {}}`, want: []string{
		`spec.uplink.interface: must be set`}},
	{name: "uplink name", spec: `{gateway: {mode: None}, isolation: {ingress: Open}, uplink: {interface: lo}}`, want: []string{
		`spec.uplink.interface: must be an interface name: at most 15 of letters, digits, '_', '.', '-', and not lo (is "lo")`}},

	{name: "external bridge with gateway", spec: `{bridge: {name: br0, lifecycle: External}}`, want: []string{
		`spec.gateway.mode: must be External or None with spec.bridge.lifecycle External: Patchbay never addresses a bridge that it did not make`}},
	{name: "external bridge without name", spec: `{bridge: {lifecycle: External}, gateway: {mode: None}}`, want: []string{
		`spec.bridge.name: must be set with spec.bridge.lifecycle External: it names the bridge to use`}},

	{name: "selector without from", spec: `{allowedNamespaces: {selector: {}}}`, want: []string{
		`spec.allowedNamespaces.selector: goes with from: Selector, and only with it`}},
	{name: "from without selector", spec: `{allowedNamespaces: {from: Selector}}`, want: []string{
		`spec.allowedNamespaces.selector: goes with from: Selector, and only with it`}},

	{name: "unknown fields", spec: `{subnet: 10.68.0.0/24, gateway: {address: 10.68.0.1}}`, want: []string{
		`spec.gateway.address: unknown field; leave it out or correct its name`,
		`spec.subnet: unknown field; leave it out or correct its name`}},
	{name: "wrong type", spec: `{subnets: 10.68.0.0/24}`, want: []string{
		`spec.subnets: must be of type array, not string`}},

	{name: "update", old: `{subnets: [10.68.0.0/24]}`, spec: `{subnets: [10.69.0.0/24]}`},
	{name: "rename", old: `{bridge: {name: br1}}`, spec: `{bridge: {name: br2}}`, want: []string{
		`spec.bridge.name: is immutable: delete the network and create it anew`}},
	{name: "name", old: `{}`, spec: `{bridge: {name: br2}}`, want: []string{
		`spec.bridge.name: is immutable: delete the network and create it anew`}},
	{name: "unname", old: `{bridge: {name: br1}}`, spec: `{}`, want: []string{
		`spec.bridge.name: is immutable: delete the network and create it anew`}},
	{name: "change lifecycle", old: `{bridge: {name: br1}, gateway: {mode: None}}`, spec: `{bridge: {name: br1, lifecycle: External}, gateway: {mode: None}}`, want: []string{
		`spec.bridge.lifecycle: is immutable: delete the network and create it anew`}},
	{name: "name with a dot", object: "red.lab", spec: `{}`, want: []string{
		`metadata.name must be a DNS label: lower-case letters, digits and '-', at most 63, no dots`}},
}
