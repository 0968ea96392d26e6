package v1alpha1

import (
	"strconv"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// PortPublish is a set of host ports that lead to an attachment.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:scope=Namespaced,shortName=pp,categories=patchbay
// +kubebuilder:selectablefield:JSONPath=`.status.nodeName`
// +kubebuilder:printcolumn:name="Attachment",type=string,JSONPath=`.spec.attachment`
// +kubebuilder:printcolumn:name="Published",type=string,JSONPath=`.status.summary`
// +kubebuilder:printcolumn:name="Node",type=string,JSONPath=`.status.nodeName`
// +kubebuilder:printcolumn:name="Accepted",type=string,JSONPath=`.status.conditions[?(@.type=="Accepted")].status`
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Reason",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].reason`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:validation:XValidation:rule="size(self.metadata.name) <= 63",message="metadata.name must be at most 63 characters"
type PortPublish struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// Spec is the wanted state.
	Spec PortPublishSpec `json:"spec"`
	// Status is what the node publishes.
	// +kubebuilder:default={conditions: {{type: "Accepted", status: "Unknown", reason: "Pending", message: "waiting for the controller", lastTransitionTime: "1970-01-01T00:00:00Z"}, {type: "Ready", status: "Unknown", reason: "Pending", message: "waiting to be accepted and built", lastTransitionTime: "1970-01-01T00:00:00Z"}}}
	Status PortPublishStatus `json:"status,omitempty"`
}

// PortPublishSpec is the wanted state of a publish.
type PortPublishSpec struct {
	// Attachment is the name of a NamespaceAttachment of the same Kubernetes
	// namespace.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	Attachment string `json:"attachment"`
	// HostAddresses are addresses of the node to answer on; default every
	// local address but loopback.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=16
	// +kubebuilder:validation:XValidation:rule="self.all(a, isIP(a))",message="spec.hostAddresses must be IP addresses of the node without a prefix length, such as 192.0.2.10"
	// +kubebuilder:validation:XValidation:rule="self.all(a, !isIP(a) || ip(a).isGlobalUnicast() || ip(a).isLinkLocalUnicast())",message="spec.hostAddresses must not be loopback, unspecified, multicast or broadcast: leave the list out to answer on every address of the node"
	// +kubebuilder:validation:XValidation:rule="self.all(a, !isIP(a) || self.exists_one(b, isIP(b) && ip(a) == ip(b)))",message="spec.hostAddresses must not name an address twice"
	HostAddresses []IPAddress `json:"hostAddresses,omitempty"`
	// Ports to publish.
	// +listType=atomic
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:XValidation:rule="self.all(a, self.exists_one(b, a.protocol == b.protocol && a.hostPort <= (has(b.hostPortEnd) ? b.hostPortEnd : b.hostPort) && b.hostPort <= (has(a.hostPortEnd) ? a.hostPortEnd : a.hostPort)))",message="spec.ports must not publish a hostPort of one protocol twice: choose another hostPort"
	Ports []PublishedPort `json:"ports"`
	// SourceRanges are the clients that may connect, in CIDR form; by default all. A
	// list without a range of a family closes the attachment's addresses of that family.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:XValidation:rule="self.all(a, isCIDR(a) && cidr(a) == cidr(a).masked())",message="spec.sourceRanges must be CIDRs without host bits, such as 10.0.0.0/8"
	SourceRanges []Subnet `json:"sourceRanges,omitempty"`
	// Loopback answers on 127.0.0.1 of the node too, for the node's own processes.
	// It cannot be had for ::1.
	// +optional
	Loopback bool `json:"loopback,omitempty"`
	// ReservePort has the agent hold the ports, so that no process can listen on
	// one unawares: it gets EADDRINUSE. Ranges of more than 64 ports are not held.
	// +kubebuilder:default=true
	ReservePort *bool `json:"reservePort,omitempty"`
}

// Protocol is a transport protocol.
// +kubebuilder:validation:Enum=TCP;UDP;SCTP
type Protocol string

const (
	// TCP is RFC 9293.
	TCP Protocol = "TCP"
	// UDP is RFC 768.
	UDP Protocol = "UDP"
	// SCTP is RFC 9260.
	SCTP Protocol = "SCTP"
)

// PublishedPort leads one host port, or a range of them, to the attachment.
//
// +kubebuilder:validation:XValidation:rule="!has(self.hostPortEnd) || self.hostPortEnd >= self.hostPort",message="spec.ports.hostPortEnd must not be below hostPort",fieldPath=".hostPortEnd"
// +kubebuilder:validation:XValidation:rule="!has(self.hostPortEnd) || !has(self.targetPort) || self.targetPort == self.hostPort || self.hostPortEnd - self.hostPort < 1024",message="spec.ports.hostPortEnd must not make a range of more than 1024 ports where targetPort differs from hostPort",fieldPath=".hostPortEnd"
// +kubebuilder:validation:XValidation:rule="!has(self.hostPortEnd) || !has(self.targetPort) || self.targetPort + self.hostPortEnd - self.hostPort <= 65535",message="spec.ports.targetPort must not lead a range beyond port 65535",fieldPath=".targetPort"
type PublishedPort struct {
	// Name describes the port.
	// +optional
	// +kubebuilder:validation:MaxLength=63
	Name string `json:"name,omitempty"`
	// Protocol is TCP, UDP or SCTP.
	// +kubebuilder:default=TCP
	Protocol Protocol `json:"protocol,omitempty"`
	// HostPort is the port on the node.
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=65535
	HostPort int32 `json:"hostPort"`
	// HostPortEnd is the last port of a range that begins with hostPort. Its ports
	// lead to as many from targetPort on, one by one.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=65535
	HostPortEnd int32 `json:"hostPortEnd,omitempty"`
	// TargetPort is the port on the attachment, or the first one; default hostPort.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=65535
	TargetPort int32 `json:"targetPort,omitempty"`
}

// PortPublishStatus is what the node really publishes.
type PortPublishStatus struct {
	// ObservedGeneration is the generation that the writer of Ready saw.
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`
	// NodeName is the node the publish is bound to: its attachment's.
	// +optional
	// +kubebuilder:validation:MaxLength=253
	NodeName string `json:"nodeName,omitempty"`
	// Published lists the ports that are open now.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=2048
	Published []PublishedStatus `json:"published,omitempty"`
	// Summary is Published in one line, for kubectl get: a table prints only the
	// first of several values.
	// +optional
	// +kubebuilder:validation:MaxLength=256
	Summary string `json:"summary,omitempty"`
	// Conditions are Accepted and Ready.
	// +optional
	// +listType=map
	// +listMapKey=type
	// +kubebuilder:validation:MaxItems=8
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// PublishedStatus is one open host port.
type PublishedStatus struct {
	// Address of the node; empty means every local address of the target's
	// family.
	// +optional
	Address IPAddress `json:"address,omitempty"`
	// Protocol is TCP, UDP or SCTP.
	// +kubebuilder:default=TCP
	Protocol Protocol `json:"protocol,omitempty"`
	// HostPort is the port on the node.
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=65535
	HostPort int32 `json:"hostPort"`
	// HostPortEnd is the last port of a range.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=65535
	HostPortEnd int32 `json:"hostPortEnd,omitempty"`
	// Target is the address and port it leads to, such as 10.68.0.101:80 or
	// [fd00::65]:80; of a range, the first port's.
	// +kubebuilder:validation:MaxLength=64
	Target string `json:"target"`
}

// PortText is a host port, or a range of them, as a person reads it; end is zero
// for one port.
func PortText(port, end int32) string {
	if end <= port {
		return strconv.Itoa(int(port))
	}
	return strconv.Itoa(int(port)) + "-" + strconv.Itoa(int(end))
}

// PortPublishList is a list of PortPublishes.
//
// +kubebuilder:object:root=true
type PortPublishList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []PortPublish `json:"items"`
}
