package v1alpha1

import (
	"crypto/sha256"
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// NodeBridge is one BridgeNetwork on one node: made by the controller, its
// status written by that node's agent. It is to be read, never written by hand.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:scope=Cluster,shortName=nbr,categories=patchbay
// +kubebuilder:selectablefield:JSONPath=`.spec.nodeName`
// +kubebuilder:printcolumn:name="Network",type=string,JSONPath=`.spec.network`
// +kubebuilder:printcolumn:name="Node",type=string,JSONPath=`.spec.nodeName`
// +kubebuilder:printcolumn:name="Bridge",type=string,JSONPath=`.status.bridge`
// +kubebuilder:printcolumn:name="MTU",type=integer,JSONPath=`.status.mtu`
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Reason",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].reason`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type NodeBridge struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// Spec says which network on which node.
	Spec NodeBridgeSpec `json:"spec"`
	// Status is what the node holds.
	// +kubebuilder:default={conditions: {{type: "Ready", status: "Unknown", reason: "Pending", message: "waiting for the node's agent", lastTransitionTime: "1970-01-01T00:00:00Z"}}}
	Status NodeBridgeStatus `json:"status,omitempty"`
}

// NodeBridgeName is the name of the one NodeBridge of a network and a node; a
// hash stands for the node's name where that would be too long. One of another
// name counts for nothing.
func NodeBridgeName(network, node string) string {
	const longest = 253
	if name := network + "." + node; len(name) <= longest {
		return name
	}
	return fmt.Sprintf("%s.%x", network, sha256.Sum256([]byte(node)))
}

// NodeBridgeSpec binds a network to a node.
//
// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="spec is immutable: the controller makes one NodeBridge for each network and node"
type NodeBridgeSpec struct {
	// Network is the name of the BridgeNetwork.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	Network string `json:"network"`
	// NodeName is the name of the node.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	NodeName string `json:"nodeName"`
}

// NodeBridgeStatus is what the node holds of the network.
type NodeBridgeStatus struct {
	// ObservedGeneration is the BridgeNetwork generation that Ready speaks of.
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`
	// Bridge is the interface name of the bridge.
	// +optional
	// +kubebuilder:validation:MaxLength=15
	Bridge string `json:"bridge,omitempty"`
	// Addresses of the bridge, in CIDR form.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=8
	Addresses []Subnet `json:"addresses,omitempty"`
	// MTU of the bridge in bytes.
	// +optional
	MTU int32 `json:"mtu,omitempty"`
	// Ports is how many ports of the bridge are used, by Patchbay or another program;
	// absent below 900. A Linux bridge takes 1,023.
	// +optional
	Ports int32 `json:"ports,omitempty"`
	// Repairs counts how often the agent put back a part of the network on this node
	// that another program had changed or removed.
	// +optional
	Repairs int64 `json:"repairs,omitempty"`
	// Conditions has Ready.
	// +optional
	// +listType=map
	// +listMapKey=type
	// +kubebuilder:validation:MaxItems=8
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// NodeBridgeList is a list of NodeBridges.
//
// +kubebuilder:object:root=true
type NodeBridgeList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []NodeBridge `json:"items"`
}
