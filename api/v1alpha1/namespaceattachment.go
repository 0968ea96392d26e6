package v1alpha1

import (
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// NamespaceAttachment is one network namespace wired to a BridgeNetwork, or
// point to point to the host or to another namespace.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:scope=Namespaced,shortName=nsa,categories=patchbay
// +kubebuilder:selectablefield:JSONPath=`.status.nodeName`
// +kubebuilder:printcolumn:name="Netns",type=string,JSONPath=`.spec.target.netns.name`
// +kubebuilder:printcolumn:name="Pod",type=string,JSONPath=`.spec.target.pod.name`
// +kubebuilder:printcolumn:name="Network",type=string,JSONPath=`.spec.network`
// +kubebuilder:printcolumn:name="Interface",type=string,JSONPath=`.status.interface.name`
// +kubebuilder:printcolumn:name="Addresses",type=string,JSONPath=`.status.addresses`
// +kubebuilder:printcolumn:name="Host-Interface",type=string,JSONPath=`.status.hostInterface.name`,priority=1
// +kubebuilder:printcolumn:name="Attached",type=integer,JSONPath=`.status.pods.ready`,priority=1
// +kubebuilder:printcolumn:name="Selected",type=integer,JSONPath=`.status.pods.matched`,priority=1
// +kubebuilder:printcolumn:name="Node",type=string,JSONPath=`.status.nodeName`
// +kubebuilder:printcolumn:name="Accepted",type=string,JSONPath=`.status.conditions[?(@.type=="Accepted")].status`
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Reason",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].reason`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:validation:XValidation:rule="size(self.metadata.name) <= 63",message="metadata.name must be at most 63 characters"
type NamespaceAttachment struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// Spec is the wanted state.
	Spec NamespaceAttachmentSpec `json:"spec"`
	// Status is what the node holds.
	// +kubebuilder:default={conditions: {{type: "Accepted", status: "Unknown", reason: "Pending", message: "waiting for the controller", lastTransitionTime: "1970-01-01T00:00:00Z"}, {type: "Ready", status: "Unknown", reason: "Pending", message: "waiting to be accepted and built", lastTransitionTime: "1970-01-01T00:00:00Z"}}}
	Status NamespaceAttachmentStatus `json:"status,omitempty"`
}

// NamespaceAttachmentSpec is the wanted state of an attachment.
//
// +kubebuilder:validation:XValidation:rule="!(has(self.network) && has(self.pointToPoint))",message="spec.network and spec.pointToPoint exclude each other: name one, or neither for a namespace with its loopback and nothing else",fieldPath=".pointToPoint"
// +kubebuilder:validation:XValidation:rule="has(self.network) || has(self.pointToPoint) || !(has(self.interface) || has(self.hostInterface) || has(self.addresses) || has(self.macAddress) || has(self.mtu) || has(self.defaultRoute) || has(self.routes) || has(self.bandwidth))",message="without spec.network and spec.pointToPoint there is no interface: leave out interface, hostInterface, addresses, macAddress, mtu, defaultRoute, routes and bandwidth, or name a network"
// +kubebuilder:validation:XValidation:rule="!has(self.pointToPoint) || !has(self.pointToPoint.netns) || !has(self.hostInterface)",message="spec.hostInterface cannot be set between two namespaces: such a link has no end on the host",fieldPath=".hostInterface"
// +kubebuilder:validation:XValidation:rule="!has(self.pointToPoint) || !has(self.pointToPoint.netns) || !has(self.target.netns) || self.pointToPoint.netns.name != self.target.netns.name || (has(self.interface) ? self.interface : 'eth0') != self.pointToPoint.netns.interface",message="spec.pointToPoint.netns.interface must differ from spec.interface where both ends are in one namespace",fieldPath=".pointToPoint.netns.interface"
// +kubebuilder:validation:XValidation:rule="!has(self.pointToPoint) || !has(self.pointToPoint.netns) || !has(self.target.netns) || self.pointToPoint.netns.name != self.target.netns.name || self.pointToPoint.netns.lifecycle == self.target.netns.lifecycle",message="spec.pointToPoint.netns.lifecycle must be that of spec.target.netns where both ends are in one namespace",fieldPath=".pointToPoint.netns.lifecycle"
// +kubebuilder:validation:XValidation:rule="!has(self.pointToPoint) || !has(self.defaultRoute) || !self.defaultRoute || has(self.addresses) && (has(self.pointToPoint.host) && has(self.pointToPoint.host.addresses) || has(self.pointToPoint.netns) && has(self.pointToPoint.netns.addresses))",message="spec.defaultRoute on a point-to-point link needs spec.addresses and addresses of the other end: the route leads via the peer's address",fieldPath=".defaultRoute"
// +kubebuilder:validation:XValidation:rule="!has(self.addresses) || !has(self.pointToPoint) || !has(self.pointToPoint.host) || !has(self.pointToPoint.host.addresses) || self.addresses.all(a, !isCIDR(a) || !self.pointToPoint.host.addresses.exists(b, isCIDR(b) && cidr(a).ip() == cidr(b).ip()))",message="spec.pointToPoint.host.addresses must not repeat one of spec.addresses: each end needs an address of its own",fieldPath=".pointToPoint.host.addresses"
// +kubebuilder:validation:XValidation:rule="!has(self.addresses) || !has(self.pointToPoint) || !has(self.pointToPoint.netns) || !has(self.pointToPoint.netns.addresses) || self.addresses.all(a, !isCIDR(a) || !self.pointToPoint.netns.addresses.exists(b, isCIDR(b) && cidr(a).ip() == cidr(b).ip()))",message="spec.pointToPoint.netns.addresses must not repeat one of spec.addresses: each end needs an address of its own",fieldPath=".pointToPoint.netns.addresses"
// +kubebuilder:validation:XValidation:rule="has(self.network) || !(has(self.allowedAddresses) || has(self.allowedMACAddresses))",message="spec.allowedAddresses and spec.allowedMACAddresses need spec.network: nothing else is held to its addresses",fieldPath=".network"
// +kubebuilder:validation:XValidation:rule="!has(self.target.pod) || has(self.network) || has(self.pointToPoint)",message="spec.network or spec.pointToPoint must be set for a pod: name what it is to be wired to",fieldPath=".network"
// +kubebuilder:validation:XValidation:rule="!has(self.target.podSelector) || has(self.network)",message="spec.network must be set with spec.target.podSelector: pods are selected onto a network",fieldPath=".network"
// +kubebuilder:validation:XValidation:rule="!has(self.target.podSelector) || !(has(self.addresses) || has(self.macAddress) || has(self.hostInterface))",message="spec.addresses, spec.macAddress and spec.hostInterface cannot be set with spec.target.podSelector: every pod needs its own",fieldPath=".target.podSelector"
// +kubebuilder:validation:XValidation:rule="!has(self.target.podSelector) || !has(self.ipam) || self.ipam.lifecycle == 'Ephemeral'",message="spec.ipam.lifecycle must be Ephemeral with spec.target.podSelector: a pod that is selected takes its address along; use spec.target.pod for one that keeps it",fieldPath=".ipam.lifecycle"
// +kubebuilder:validation:XValidation:rule="!has(self.ipam) || !has(self.target.netns) || self.ipam.lifecycle == 'Persistent'",message="spec.ipam.lifecycle Ephemeral is for pods: the address of a network namespace stays while its attachment exists",fieldPath=".ipam.lifecycle"
// +kubebuilder:validation:XValidation:rule="!has(self.ipam) || has(self.network) && !has(self.addresses)",message="spec.ipam is about addresses that a network allocates: set spec.network and leave spec.addresses out",fieldPath=".ipam"
// +kubebuilder:validation:XValidation:rule="!has(self.mtu) || self.mtu >= 1280 || !has(self.addresses) || self.addresses.all(a, !isCIDR(a) || cidr(a).ip().family() == 4)",message="spec.mtu must be at least 1280 with an IPv6 address: the kernel turns IPv6 off below",fieldPath=".mtu"
type NamespaceAttachmentSpec struct {
	// Target is the namespace or pods to wire. Immutable.
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="spec.target is immutable: delete the attachment and create it anew"
	Target AttachmentTarget `json:"target"`
	// Network is the name of the BridgeNetwork to attach to.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	Network string `json:"network,omitempty"`
	// PointToPoint joins the target to the host or to another namespace by a
	// veth pair without a bridge.
	// +optional
	PointToPoint *PointToPoint `json:"pointToPoint,omitempty"`
	// Interface is the name of the interface inside the target; default eth0 for
	// a network namespace, and the first free of net1, net2, ... for a pod.
	// +optional
	Interface InterfaceName `json:"interface,omitempty"`
	// HostInterface is the name of the host's end; default veth<8 hex digits of
	// a hash>.
	// +optional
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:XValidation:rule="self.matches('^veth[A-Za-z0-9_.-]{0,11}$')",message="spec.hostInterface must begin with \"veth\" and be at most 15 of letters, digits, '_', '.', '-'"
	HostInterface string `json:"hostInterface,omitempty"`
	// Addresses of the interface in CIDR form; by default one per subnet is
	// allocated from the network.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=8
	// +kubebuilder:validation:XValidation:rule="self.all(a, isCIDR(a) && (cidr(a).ip().isGlobalUnicast() || cidr(a).ip().isLinkLocalUnicast()))",message="spec.addresses must be addresses with a prefix length, such as 10.68.0.101/24, and not loopback, multicast or unspecified"
	// +kubebuilder:validation:XValidation:rule="self.all(a, !isCIDR(a) || self.exists_one(b, isCIDR(b) && cidr(b).ip() == cidr(a).ip()))",message="spec.addresses must not name an address twice"
	Addresses []Subnet `json:"addresses,omitempty"`
	// IPAM says how long an allocated address stays.
	// +optional
	IPAM *AttachmentIPAM `json:"ipam,omitempty"`
	// MACAddress of the interface; by default derived from the attachment's
	// name and node.
	// +optional
	// +kubebuilder:validation:MaxLength=17
	// +kubebuilder:validation:XValidation:rule="self.matches('^[0-9A-Fa-f][02468ACEace](:[0-9A-Fa-f]{2}){5}$') && self != '00:00:00:00:00:00'",message="spec.macAddress must be a unicast MAC address such as 02:42:0a:44:00:65"
	MACAddress string `json:"macAddress,omitempty"`
	// AllowedAddresses are further addresses that the interface may send as where
	// the network holds it to its addresses, in IP, ARP and neighbour discovery:
	// floating addresses, as of keepalived, or networks behind it. It is not assigned
	// them, several attachments may name the same, and a single address is given to
	// none.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=32
	// +kubebuilder:validation:XValidation:rule="self.all(a, isIP(a) && (ip(a).isGlobalUnicast() || ip(a).isLinkLocalUnicast()) || isCIDR(a) && cidr(a) == cidr(a).masked() && (cidr(a).ip().isGlobalUnicast() || cidr(a).ip().isLinkLocalUnicast()))",message="spec.allowedAddresses must be addresses, such as 10.68.0.100, or CIDRs without host bits, such as 10.70.0.0/24, and not loopback, multicast or unspecified"
	// +kubebuilder:validation:XValidation:rule="self.all(a, self.exists_one(b, b == a))",message="spec.allowedAddresses must not name an address twice"
	AllowedAddresses []Subnet `json:"allowedAddresses,omitempty"`
	// AllowedMACAddresses are what the interface may also send from, such as
	// 00:00:5e:00:01:33 for VRRP's router 51.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=32
	// +kubebuilder:validation:XValidation:rule="self.all(m, m.matches('^[0-9A-Fa-f][02468ACEace](:[0-9A-Fa-f]{2}){5}$') && m != '00:00:00:00:00:00')",message="spec.allowedMACAddresses must be unicast MAC addresses such as 00:00:5e:00:01:33"
	// +kubebuilder:validation:XValidation:rule="self.all(a, self.exists_one(b, b.lowerAscii() == a.lowerAscii()))",message="spec.allowedMACAddresses must not name an address twice"
	AllowedMACAddresses []MACAddress `json:"allowedMACAddresses,omitempty"`
	// MTU in bytes; default the bridge's.
	// +optional
	// +kubebuilder:validation:Minimum=68
	// +kubebuilder:validation:Maximum=65535
	MTU *int32 `json:"mtu,omitempty"`
	// DefaultRoute sends everything via the gateway, or via the peer's address
	// on a point-to-point link; default true for a network namespace on a
	// network with a gateway, false for a pod and point to point. A pod's own
	// default route stays, behind this one.
	// +optional
	DefaultRoute *bool `json:"defaultRoute,omitempty"`
	// Routes are further routes inside the target.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=32
	// +kubebuilder:validation:XValidation:rule="self.all(a, self.exists_one(b, a.to == b.to))",message="spec.routes must not name a destination twice"
	Routes []RouteSpec `json:"routes,omitempty"`
	// Bandwidth limits what the interface carries, such as
	// {ingressRate: 100M, egressRate: 20M}, counted in whole Ethernet frames. A
	// change takes effect on the live interface. What limits is on the host, out of
	// the target's reach. A link between two namespaces (pointToPoint.netns) has no
	// end there: each of its ends limits what it sends, and who is root in such a
	// namespace can remove that until the agent repairs it.
	// +optional
	Bandwidth *Bandwidth `json:"bandwidth,omitempty"`
}

// MACAddress is an Ethernet address.
// +kubebuilder:validation:MaxLength=17
type MACAddress string

// AttachmentIPAM says how long an allocated address stays.
type AttachmentIPAM struct {
	// Lifecycle Persistent keeps the address while the attachment exists, also
	// while its pod does not; Ephemeral gives it back when the pod goes.
	// +kubebuilder:default=Persistent
	Lifecycle IPAMLifecycle `json:"lifecycle,omitempty"`
}

// IPAMLifecycle says how long an allocated address stays.
// +kubebuilder:validation:Enum=Persistent;Ephemeral
type IPAMLifecycle string

const (
	// IPAMPersistent addresses stay while the attachment exists.
	IPAMPersistent IPAMLifecycle = "Persistent"
	// IPAMEphemeral addresses are given back when the target goes.
	IPAMEphemeral IPAMLifecycle = "Ephemeral"
)

// Bandwidth limits what an interface carries, in bits per second as seen from
// the target.
//
// +kubebuilder:validation:XValidation:rule="has(self.ingressRate) || has(self.egressRate)",message="spec.bandwidth needs ingressRate, egressRate or both"
type Bandwidth struct {
	// IngressRate is what the target receives at most, in bits per second, such
	// as 100M.
	// +optional
	// +kubebuilder:validation:XValidation:rule="!isQuantity(string(self)) || quantity(string(self)).compareTo(quantity('8k')) >= 0 && quantity(string(self)).compareTo(quantity('1T')) <= 0",message="spec.bandwidth.ingressRate must be between 8k and 1T bits per second, such as 100M"
	IngressRate *resource.Quantity `json:"ingressRate,omitempty"`
	// EgressRate is what the target sends at most, in bits per second, such as
	// 100M.
	// +optional
	// +kubebuilder:validation:XValidation:rule="!isQuantity(string(self)) || quantity(string(self)).compareTo(quantity('8k')) >= 0 && quantity(string(self)).compareTo(quantity('1T')) <= 0",message="spec.bandwidth.egressRate must be between 8k and 1T bits per second, such as 100M"
	EgressRate *resource.Quantity `json:"egressRate,omitempty"`
	// Burst is how many bits may pass at once, such as 1M; by default what the
	// rates carry in 20 ms, and 512 kbit at least. It is raised to one frame and
	// what the rate carries in 4 ms, below which a rate is not reached, held to
	// what the rate carries in 4 minutes, and rounded up to 1 KiB. Beside it,
	// packets of 50 ms wait, and ten full ones at least; what comes then is
	// dropped.
	// +optional
	// +kubebuilder:validation:XValidation:rule="!isQuantity(string(self)) || quantity(string(self)).compareTo(quantity('32k')) >= 0 && quantity(string(self)).compareTo(quantity('16G')) <= 0",message="spec.bandwidth.burst must be between 32k and 16G bits: it has to hold one packet at least"
	Burst *resource.Quantity `json:"burst,omitempty"`
}

// InterfaceName is a Linux interface name: 1 to 15 bytes.
// +kubebuilder:validation:MaxLength=63
// +kubebuilder:validation:XValidation:rule="self.matches('^[A-Za-z0-9][A-Za-z0-9_.-]{0,14}$') && self != 'lo' && self != 'all' && self != 'default'",message="must be an interface name: at most 15 of letters, digits, '_', '.', '-', beginning with a letter or digit, and not lo, all or default"
type InterfaceName string

// NetnsName is the name of a network namespace: a file under /run/netns.
// +kubebuilder:validation:MaxLength=63
// +kubebuilder:validation:XValidation:rule="self.matches('^[A-Za-z0-9][A-Za-z0-9_.-]*$')",message="must be the name of a network namespace under /run/netns: letters, digits, '_', '.', '-', beginning with a letter or digit"
type NetnsName string

// AttachmentTarget is the namespace or pods to wire. Exactly one member is set.
//
// +kubebuilder:validation:XValidation:rule="[has(self.netns), has(self.pod), has(self.podSelector)].filter(x, x).size() == 1",message="spec.target must name exactly one of netns, pod, podSelector"
type AttachmentTarget struct {
	// Netns is a named network namespace, as of `ip netns`.
	// +optional
	Netns *NetnsTarget `json:"netns,omitempty"`
	// Pod is a pod of the attachment's own Kubernetes namespace, running or not
	// yet.
	// +optional
	Pod *PodTarget `json:"pod,omitempty"`
	// PodSelector selects pods of the attachment's own Kubernetes namespace by
	// their labels. Each gets an attachment of its own, which is made and removed
	// with it; an empty selector selects every pod.
	// +optional
	PodSelector *metav1.LabelSelector `json:"podSelector,omitempty"`
}

// PodTarget is a pod.
type PodTarget struct {
	// Name of the pod.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name"`
}

// NetnsTarget is a named network namespace.
//
// +kubebuilder:validation:XValidation:rule="self.lifecycle == 'External' || !self.name.startsWith('cni-')",message="must not begin with cni- unless lifecycle is External: such a namespace belongs to a container runtime",fieldPath=".name"
type NetnsTarget struct {
	// Name of the namespace, a file under /run/netns.
	Name NetnsName `json:"name"`
	// NodeName is the node the namespace is on. Without a cluster it is this
	// node and may be left out.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	NodeName string `json:"nodeName,omitempty"`
	// Lifecycle Managed makes the namespace and removes it with the last
	// attachment; External waits until it exists.
	// +kubebuilder:default=Managed
	Lifecycle Lifecycle `json:"lifecycle,omitempty"`
}

// PointToPoint is the other end of a link without a bridge. Exactly one member
// is set.
//
// +kubebuilder:validation:XValidation:rule="has(self.host) != has(self.netns)",message="spec.pointToPoint must name exactly one of host, netns"
type PointToPoint struct {
	// Host ends the link on the node itself.
	// +optional
	Host *HostEnd `json:"host,omitempty"`
	// Netns ends the link in a second network namespace of the same node.
	// +optional
	Netns *NetnsEnd `json:"netns,omitempty"`
}

// HostEnd is the host's end of a point-to-point link; spec.hostInterface names
// it.
type HostEnd struct {
	// Addresses of the host's end, in CIDR form.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=8
	// +kubebuilder:validation:XValidation:rule="self.all(a, isCIDR(a) && (cidr(a).ip().isGlobalUnicast() || cidr(a).ip().isLinkLocalUnicast()))",message="spec.pointToPoint.host.addresses must be addresses with a prefix length, such as 10.20.30.40/24, and not loopback, multicast or unspecified"
	// +kubebuilder:validation:XValidation:rule="self.all(a, !isCIDR(a) || self.exists_one(b, isCIDR(b) && cidr(b).ip() == cidr(a).ip()))",message="spec.pointToPoint.host.addresses must not name an address twice"
	Addresses []Subnet `json:"addresses,omitempty"`
}

// NetnsEnd is the far end of a link between two namespaces.
//
// +kubebuilder:validation:XValidation:rule="self.lifecycle == 'External' || !self.name.startsWith('cni-')",message="must not begin with cni- unless lifecycle is External: such a namespace belongs to a container runtime",fieldPath=".name"
type NetnsEnd struct {
	// Name of the namespace, a file under /run/netns.
	Name NetnsName `json:"name"`
	// Lifecycle Managed makes the namespace and removes it with the last
	// attachment; External waits until it exists.
	// +kubebuilder:default=Managed
	Lifecycle Lifecycle `json:"lifecycle,omitempty"`
	// Interface is the name of the interface at the far end.
	// +kubebuilder:default=eth0
	Interface InterfaceName `json:"interface,omitempty"`
	// Addresses of the far end, in CIDR form.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=8
	// +kubebuilder:validation:XValidation:rule="self.all(a, isCIDR(a) && (cidr(a).ip().isGlobalUnicast() || cidr(a).ip().isLinkLocalUnicast()))",message="spec.pointToPoint.netns.addresses must be addresses with a prefix length, such as 192.168.1.2/24, and not loopback, multicast or unspecified"
	// +kubebuilder:validation:XValidation:rule="self.all(a, !isCIDR(a) || self.exists_one(b, isCIDR(b) && cidr(b).ip() == cidr(a).ip()))",message="spec.pointToPoint.netns.addresses must not name an address twice"
	Addresses []Subnet `json:"addresses,omitempty"`
}

// RouteSpec is one route inside a target.
//
// +kubebuilder:validation:XValidation:rule="!has(self.via) || !isIP(self.via) || !isCIDR(self.to) || ip(self.via).family() == cidr(self.to).ip().family()",message="spec.routes.via must be of the family of spec.routes.to",fieldPath=".via"
type RouteSpec struct {
	// To is the destination in CIDR form.
	// +kubebuilder:validation:XValidation:rule="isCIDR(self) && cidr(self) == cidr(self).masked()",message="spec.routes.to must be a CIDR without host bits, such as 10.0.0.0/8"
	To Subnet `json:"to"`
	// Via is the next hop; without it the destination is on the link.
	// +optional
	// +kubebuilder:validation:XValidation:rule="isIP(self)",message="spec.routes.via must be an IP address, such as 10.68.0.1"
	Via IPAddress `json:"via,omitempty"`
}

// NamespaceAttachmentStatus is what the node holds of an attachment.
type NamespaceAttachmentStatus struct {
	// ObservedGeneration is the generation that the writer of Ready saw.
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`
	// NodeName is the node the attachment is bound to.
	// +optional
	// +kubebuilder:validation:MaxLength=253
	NodeName string `json:"nodeName,omitempty"`
	// PodUID is the UID by which its node knows the pod that spec.target.pod names,
	// as far as it has a node.
	// +optional
	// +kubebuilder:validation:MaxLength=128
	PodUID string `json:"podUID,omitempty"`
	// Pods says how many pods spec.target.podSelector selects.
	// +optional
	Pods *PodCounts `json:"pods,omitempty"`
	// Interface is the end inside the target.
	// +optional
	Interface *InterfaceStatus `json:"interface,omitempty"`
	// HostInterface is the end on the host; absent for a link between two
	// namespaces.
	// +optional
	HostInterface *InterfaceStatus `json:"hostInterface,omitempty"`
	// Addresses of the interface inside the target, in CIDR form. They are the
	// record of the allocation.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=8
	Addresses []Subnet `json:"addresses,omitempty"`
	// Gateways the target's default routes point to.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=2
	Gateways []IPAddress `json:"gateways,omitempty"`
	// MACAddress of the interface inside the target.
	// +optional
	// +kubebuilder:validation:MaxLength=17
	MACAddress string `json:"macAddress,omitempty"`
	// Conditions are Accepted and Ready.
	// +optional
	// +listType=map
	// +listMapKey=type
	// +kubebuilder:validation:MaxItems=8
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// PodCounts counts the pods that a selector selects.
type PodCounts struct {
	// Matched pods have, or get, an attachment of their own.
	Matched int32 `json:"matched"`
	// Ready attachments of those pods.
	Ready int32 `json:"ready"`
}

// InterfaceStatus says which kernel interface one end of an attachment is.
type InterfaceStatus struct {
	// Netns is the namespace's name under /run/netns; empty on the host.
	// +optional
	// +kubebuilder:validation:MaxLength=63
	Netns string `json:"netns,omitempty"`
	// Name of the interface.
	// +kubebuilder:validation:MaxLength=15
	Name string `json:"name"`
	// Index is the interface's index in its namespace.
	// +optional
	Index int32 `json:"index,omitempty"`
}

// NamespaceAttachmentList is a list of NamespaceAttachments.
//
// +kubebuilder:object:root=true
type NamespaceAttachmentList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []NamespaceAttachment `json:"items"`
}
