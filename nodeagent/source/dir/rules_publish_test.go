package dir

import "strings"

var publishRules = []ruleCase{
	{name: "smallest", spec: `{attachment: a, ports: [{hostPort: 80}]}`},
	{name: "everything", spec: `{attachment: a, hostAddresses: [192.0.2.1, "2001:db8::1"], ports: [{name: dns, protocol: UDP, hostPort: 53, targetPort: 5353}, {hostPort: 53}, {protocol: SCTP, hostPort: 53}]}`},

	{name: "no attachment", spec: `{ports: [{hostPort: 80}]}`, want: []string{
		`spec.attachment: must be set`}},
	{name: "no ports", spec: `{attachment: a, ports: []}`, want: []string{
		`spec.ports: should have at least 1 items (is 0)`}},
	{name: "port 0", spec: `{attachment: a, ports: [{hostPort: 0}]}`, want: []string{
		`spec.ports[0].hostPort: should be greater than or equal to 1 (is 0)`}},
	{name: "port 65536", spec: `{attachment: a, ports: [{hostPort: 80, targetPort: 65536}]}`, want: []string{
		`spec.ports[0].targetPort: should be less than or equal to 65535 (is 65536)`}},
	{name: "protocol", spec: `{attachment: a, ports: [{protocol: ICMP, hostPort: 80}]}`, want: []string{
		`spec.ports[0].protocol: must not be "ICMP": supported values: "TCP", "UDP", "SCTP"`}},
	{name: "port twice", spec: `{attachment: a, ports: [{hostPort: 80}, {protocol: TCP, hostPort: 80, targetPort: 81}]}`, want: []string{
		`spec.ports: must not publish a hostPort of one protocol twice: choose another hostPort`}},
	{name: "host address is a CIDR", spec: `{attachment: a, hostAddresses: [192.0.2.1/24], ports: [{hostPort: 80}]}`, want: []string{
		`spec.hostAddresses: must be IP addresses of the node without a prefix length, such as 192.0.2.10`}},
	{name: "host address is loopback", spec: `{attachment: a, hostAddresses: [127.0.0.1], ports: [{hostPort: 80}]}`, want: []string{
		`spec.hostAddresses: must not be loopback, unspecified, multicast or broadcast: leave the list out to answer on every address of the node`}},
	{name: "host address twice", spec: `{attachment: a, hostAddresses: ["fd00::1", "fd00:0::1"], ports: [{hostPort: 80}]}`, want: []string{
		`spec.hostAddresses: must not name an address twice`}},
	{name: "later fields", spec: `{attachment: a, sourceRanges: [], loopback: true, reservePort: false, ports: [{hostPort: 80, hostPortEnd: 90}]}`, want: []string{
		`spec.loopback: unknown field: not supported in this version; leave it out`,
		`spec.ports[0].hostPortEnd: unknown field: not supported in this version; leave it out`,
		`spec.reservePort: unknown field: not supported in this version; leave it out`,
		`spec.sourceRanges: unknown field: not supported in this version; leave it out`}},
	{name: "name too long", object: strings.Repeat("a", 64), spec: `{attachment: a, ports: [{hostPort: 80}]}`, want: []string{
		`metadata.name must be at most 63 characters`}},
}
