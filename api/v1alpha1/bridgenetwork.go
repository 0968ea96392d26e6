package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// BridgeNetwork is a Linux bridge on every selected node, with its subnets,
// gateway, egress NAT and isolation.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:scope=Cluster,shortName=bnet,categories=patchbay
// +kubebuilder:printcolumn:name="Bridge",type=string,JSONPath=`.spec.bridge.name`,priority=1
// +kubebuilder:printcolumn:name="Subnets",type=string,JSONPath=`.spec.subnets`
// +kubebuilder:printcolumn:name="Gateway",type=string,JSONPath=`.spec.gateway.mode`
// +kubebuilder:printcolumn:name="Accepted",type=string,JSONPath=`.status.conditions[?(@.type=="Accepted")].status`
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Nodes",type=integer,JSONPath=`.status.nodes.ready`
// +kubebuilder:printcolumn:name="Selected",type=integer,JSONPath=`.status.nodes.selected`
// +kubebuilder:printcolumn:name="Reason",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].reason`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:validation:XValidation:rule="self.metadata.name.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$') && size(self.metadata.name) <= 63",message="metadata.name must be a DNS label: lower-case letters, digits and '-', at most 63, no dots"
type BridgeNetwork struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// The API server runs the rules on a default as it stands, without the
	// defaults inside it; so each default here is whole.

	// Spec is the wanted state.
	// +kubebuilder:default={bridge: {lifecycle: "Managed"}, gateway: {mode: "Bridge"}, egress: {}, isolation: {ports: false, ingress: "PublishedOnly"}}
	Spec BridgeNetworkSpec `json:"spec,omitempty"`
	// Status sums up what the nodes hold.
	// +kubebuilder:default={conditions: {{type: "Accepted", status: "Unknown", reason: "Pending", message: "waiting for the controller", lastTransitionTime: "1970-01-01T00:00:00Z"}, {type: "Ready", status: "Unknown", reason: "Pending", message: "waiting for the controller", lastTransitionTime: "1970-01-01T00:00:00Z"}}}
	Status BridgeNetworkStatus `json:"status,omitempty"`
}

// BridgeNetworkSpec is the wanted state of a network.
//
// +kubebuilder:validation:XValidation:rule="!has(self.uplink) || self.gateway.mode != 'Bridge'",message="spec.uplink needs spec.gateway.mode External or None: the gateway of a joined LAN is the LAN's router",fieldPath=".uplink"
// +kubebuilder:validation:XValidation:rule="!has(self.uplink) || self.isolation.ingress == 'Open'",message="spec.uplink needs spec.isolation.ingress Open: neighbours on the joined LAN reach attachments at layer 2, where PublishedOnly cannot hold",fieldPath=".uplink"
// +kubebuilder:validation:XValidation:rule="self.bridge.lifecycle != 'External' || self.gateway.mode != 'Bridge'",message="spec.gateway.mode must be External or None with spec.bridge.lifecycle External: Patchbay never addresses a bridge that it did not make",fieldPath=".gateway.mode"
// +kubebuilder:validation:XValidation:rule="self.bridge.lifecycle != 'External' || has(self.bridge.name)",message="spec.bridge.name must be set with spec.bridge.lifecycle External: it names the bridge to use",fieldPath=".bridge.name"
// +kubebuilder:validation:XValidation:rule="self.bridge.lifecycle != 'External' || !has(self.uplink)",message="spec.uplink cannot be set with spec.bridge.lifecycle External: the ports of a foreign bridge are not Patchbay's to change",fieldPath=".uplink"
// +kubebuilder:validation:XValidation:rule="!has(self.gateway.addresses) || self.gateway.mode != 'None'",message="spec.gateway.addresses cannot be set with spec.gateway.mode None: leave the addresses out or choose Bridge or External",fieldPath=".gateway.addresses"
// +kubebuilder:validation:XValidation:rule="!has(self.gateway.addresses) || self.gateway.addresses.all(a, has(self.subnets) && self.subnets.exists(s, isCIDR(s) && isIP(a) && cidr(s).containsIP(a)))",message="spec.gateway.addresses must each lie in one of spec.subnets",fieldPath=".gateway.addresses"
// +kubebuilder:validation:XValidation:rule="has(self.bridge.name) == has(oldSelf.bridge.name) && (!has(self.bridge.name) || self.bridge.name == oldSelf.bridge.name)",message="spec.bridge.name is immutable: delete the network and create it anew",fieldPath=".bridge.name"
type BridgeNetworkSpec struct {
	// NodeSelector selects the nodes that get the bridge; absent or empty
	// selects every node.
	// +optional
	NodeSelector *metav1.LabelSelector `json:"nodeSelector,omitempty"`
	// Bridge is the bridge itself.
	// +kubebuilder:default={lifecycle: "Managed"}
	Bridge BridgeSpec `json:"bridge,omitempty"`
	// Subnets are the networks attachments get their addresses from: none (pure
	// layer 2), one, or one of each family, in CIDR form without host bits.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=2
	// +kubebuilder:validation:XValidation:rule="self.all(s, isCIDR(s))",message="spec.subnets must be CIDRs such as 10.68.0.0/24 or fd00::/64"
	// +kubebuilder:validation:items:XValidation:rule="!isCIDR(self) || cidr(self) == cidr(self).masked()",messageExpression="'spec.subnets must have no host bits: write %s'.format([string(cidr(self).masked())])"
	// +kubebuilder:validation:XValidation:rule="size(self) < 2 || !isCIDR(self[0]) || !isCIDR(self[1]) || cidr(self[0]).ip().family() != cidr(self[1]).ip().family()",message="spec.subnets may hold at most one subnet of each family: make a second network for the other"
	// +kubebuilder:validation:XValidation:rule="self.all(s, !isCIDR(s) || cidr(s).prefixLength() >= 8 && cidr(s).prefixLength() <= (cidr(s).ip().family() == 6 ? 126 : 30))",message="spec.subnets must be between /8 and /30 for IPv4, between /8 and /126 for IPv6"
	// +kubebuilder:validation:XValidation:rule="self.all(s, !isCIDR(s) || cidr(s).ip().isGlobalUnicast())",message="spec.subnets must not be loopback, link-local, multicast or unspecified: choose a private range such as 10.68.0.0/24 or fd00::/64"
	Subnets []Subnet `json:"subnets,omitempty"`
	// Gateway is the way out of the network.
	// +kubebuilder:default={mode: "Bridge"}
	Gateway GatewaySpec `json:"gateway,omitempty"`
	// IPAM narrows which addresses of the subnets are allocated.
	// +optional
	IPAM *NetworkIPAM `json:"ipam,omitempty"`
	// Egress says how traffic leaves the node.
	// +kubebuilder:default={}
	Egress EgressSpec `json:"egress,omitempty"`
	// Isolation says who may reach the attachments.
	// +kubebuilder:default={ports: false, ingress: "PublishedOnly"}
	Isolation IsolationSpec `json:"isolation,omitempty"`
	// Uplink joins an interface of the node to the bridge, and with it the LAN
	// behind it.
	// +optional
	Uplink *UplinkSpec `json:"uplink,omitempty"`
	// AllowedNamespaces says which Kubernetes namespaces may attach. Absent
	// means none in a cluster and all in standalone mode.
	// +optional
	AllowedNamespaces *AllowedNamespaces `json:"allowedNamespaces,omitempty"`
}

// Subnet is an address range in CIDR form.
// +kubebuilder:validation:MaxLength=43
type Subnet string

// Lifecycle says whether Patchbay makes and removes a thing, or uses one that
// another program makes.
// +kubebuilder:validation:Enum=Managed;External
type Lifecycle string

const (
	// Managed things are made and removed by Patchbay.
	Managed Lifecycle = "Managed"
	// External things are used while they exist, never made or removed.
	External Lifecycle = "External"
)

// BridgeSpec describes the bridge itself.
//
// +kubebuilder:validation:XValidation:rule="self.lifecycle == oldSelf.lifecycle",message="spec.bridge.lifecycle is immutable: delete the network and create it anew",fieldPath=".lifecycle"
type BridgeSpec struct {
	// Name of the interface; by default br-<network>, or br-<hash> where that
	// exceeds the kernel's 15 bytes. Immutable.
	// +optional
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:XValidation:rule="self.matches('^[A-Za-z0-9][A-Za-z0-9_.-]{0,14}$') && self != 'all' && self != 'default' && self != 'lo'",message="spec.bridge.name must be an interface name: at most 15 of letters, digits, '_', '.', '-', beginning with a letter or digit, and not all, default or lo"
	Name string `json:"name,omitempty"`
	// Lifecycle Managed makes the bridge; External uses one that exists and
	// never creates, deletes or re-addresses it. Immutable.
	// +kubebuilder:default=Managed
	Lifecycle Lifecycle `json:"lifecycle,omitempty"`
	// MTU in bytes; by default the uplink's, else that of the interface with
	// the node's default route, else 1500.
	// +optional
	// +kubebuilder:validation:Minimum=1280
	// +kubebuilder:validation:Maximum=65535
	MTU *int32 `json:"mtu,omitempty"`
}

// GatewayMode says who holds the gateway address of a network.
// +kubebuilder:validation:Enum=Bridge;External;None
type GatewayMode string

const (
	// GatewayBridge puts the gateway addresses on the bridge.
	GatewayBridge GatewayMode = "Bridge"
	// GatewayExternal leaves them to a router on the joined LAN.
	GatewayExternal GatewayMode = "External"
	// GatewayNone is a network without a way out.
	GatewayNone GatewayMode = "None"
)

// GatewaySpec describes a network's gateway.
type GatewaySpec struct {
	// Mode says who holds the gateway addresses: Bridge (the bridge does),
	// External (a router on the LAN of the uplink, or the program that made the
	// bridge) or None.
	// +kubebuilder:default=Bridge
	Mode GatewayMode `json:"mode,omitempty"`
	// Addresses of the gateway, one per family; in mode Bridge the first usable
	// address of each subnet by default.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=2
	// +kubebuilder:validation:XValidation:rule="self.all(a, isIP(a))",message="spec.gateway.addresses must be IP addresses without a prefix length, such as 10.68.0.1"
	// +kubebuilder:validation:XValidation:rule="size(self) < 2 || !isIP(self[0]) || !isIP(self[1]) || ip(self[0]).family() != ip(self[1]).family()",message="spec.gateway.addresses may hold at most one address of each family"
	Addresses []IPAddress `json:"addresses,omitempty"`
}

// IPAddress is an IPv4 or IPv6 address without a prefix length.
// +kubebuilder:validation:MaxLength=39
type IPAddress string

// NetworkIPAM narrows what a network's node agents may allocate.
type NetworkIPAM struct {
	// Exclude lists CIDRs and ranges (first-last, both included) that are never
	// allocated.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=32
	// +kubebuilder:validation:XValidation:rule="self.all(e, isCIDR(e) || isIP(e) || (size(e.split('-')) == 2 && e.split('-').all(p, isIP(p))))",message="spec.ipam.exclude must hold CIDRs (10.68.0.0/28), addresses or ranges (10.68.0.200-10.68.0.220)"
	Exclude []AddressRange `json:"exclude,omitempty"`
}

// AddressRange is a CIDR, an address, or first-last.
// +kubebuilder:validation:MaxLength=80
type AddressRange string

// EgressSpec says how a network's traffic leaves the node.
//
// +kubebuilder:validation:XValidation:rule="!has(self.sourceAddress) || !has(self.masquerade) || self.masquerade",message="spec.egress.sourceAddress needs spec.egress.masquerade true: set it, or leave sourceAddress out",fieldPath=".sourceAddress"
type EgressSpec struct {
	// Masquerade hides attachments behind the node's address; defaults to true
	// where gateway.mode is Bridge.
	// +optional
	Masquerade *bool `json:"masquerade,omitempty"`
	// SourceAddress is the node address to masquerade with, for its family;
	// empty leaves the choice to the kernel's routing.
	// +optional
	// +kubebuilder:validation:MaxLength=39
	// +kubebuilder:validation:XValidation:rule="isIP(self)",message="spec.egress.sourceAddress must be an IP address of the node, such as 192.0.2.10"
	SourceAddress string `json:"sourceAddress,omitempty"`
	// ExcludeDestinations are CIDRs that see the attachments' own addresses.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:XValidation:rule="self.all(s, isCIDR(s) && cidr(s) == cidr(s).masked())",message="spec.egress.excludeDestinations must be CIDRs without host bits, such as 10.0.0.0/8"
	ExcludeDestinations []Subnet `json:"excludeDestinations,omitempty"`
}

// IngressMode says what anything outside a network may open towards it.
// +kubebuilder:validation:Enum=PublishedOnly;Open
type IngressMode string

const (
	// IngressPublishedOnly lets only published ports be reached from outside.
	IngressPublishedOnly IngressMode = "PublishedOnly"
	// IngressOpen lets anything that is routed here in.
	IngressOpen IngressMode = "Open"
)

// IsolationSpec says which traffic may reach the attachments.
type IsolationSpec struct {
	// Ports true keeps attachments of this network from reaching each other.
	// +kubebuilder:default=false
	Ports bool `json:"ports,omitempty"`
	// Ingress says what anything outside this network may open towards
	// attachments.
	// +kubebuilder:default=PublishedOnly
	Ingress IngressMode `json:"ingress,omitempty"`
	// AntiSpoof holds every attachment to the MAC and IP addresses that it was
	// given; defaults to true on Managed bridges, false on External ones.
	// +optional
	AntiSpoof *bool `json:"antiSpoof,omitempty"`
}

// UplinkSpec names an interface of the node that joins the bridge as a port.
type UplinkSpec struct {
	// Interface is the name of the interface on the node.
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:XValidation:rule="self.matches('^[A-Za-z0-9][A-Za-z0-9_.-]{0,14}$') && self != 'lo'",message="spec.uplink.interface must be an interface name: at most 15 of letters, digits, '_', '.', '-', and not lo"
	Interface string `json:"interface"`
}

// NamespaceFrom says which Kubernetes namespaces are meant.
// +kubebuilder:validation:Enum=All;Selector;None
type NamespaceFrom string

const (
	// FromAll means every namespace.
	FromAll NamespaceFrom = "All"
	// FromSelector means the namespaces whose labels match.
	FromSelector NamespaceFrom = "Selector"
	// FromNone means no namespace.
	FromNone NamespaceFrom = "None"
)

// AllowedNamespaces says which Kubernetes namespaces may attach to a network.
//
// +kubebuilder:validation:XValidation:rule="(self.from == 'Selector') == has(self.selector)",message="spec.allowedNamespaces.selector goes with from: Selector, and only with it",fieldPath=".selector"
type AllowedNamespaces struct {
	// From says which namespaces are meant: All, None, or the namespaces that
	// Selector matches.
	// +kubebuilder:default=None
	From NamespaceFrom `json:"from,omitempty"`
	// Selector matches the labels of namespaces; only with from: Selector.
	// +optional
	Selector *metav1.LabelSelector `json:"selector,omitempty"`
}

// BridgeNetworkStatus sums up the network's NodeBridges.
type BridgeNetworkStatus struct {
	// ObservedGeneration is the generation that the writer of Ready saw.
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`
	// Nodes counts the nodes of the network.
	// +optional
	Nodes NodeCounts `json:"nodes,omitempty"`
	// FailingNodes names at most ten nodes where the network is not Ready.
	// +optional
	// +listType=map
	// +listMapKey=node
	// +kubebuilder:validation:MaxItems=10
	FailingNodes []FailingNode `json:"failingNodes,omitempty"`
	// Conditions are Accepted and Ready, and InUse while the network is being
	// deleted.
	// +optional
	// +listType=map
	// +listMapKey=type
	// +kubebuilder:validation:MaxItems=8
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// NodeCounts counts the nodes of a network.
type NodeCounts struct {
	// Selected is the number of nodes that the network selects.
	Selected int32 `json:"selected"`
	// Ready is the number of selected nodes that hold all of it.
	Ready int32 `json:"ready"`
}

// FailingNode says why one node does not hold a network.
type FailingNode struct {
	// Node is the name of the node.
	// +kubebuilder:validation:MaxLength=253
	Node string `json:"node"`
	// Reason is that of the Ready condition there.
	// +kubebuilder:validation:MaxLength=64
	Reason string `json:"reason"`
	// Message is that of the Ready condition there.
	// +kubebuilder:validation:MaxLength=1024
	Message string `json:"message,omitempty"`
}

// BridgeNetworkList is a list of BridgeNetworks.
//
// +kubebuilder:object:root=true
type BridgeNetworkList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []BridgeNetwork `json:"items"`
}
