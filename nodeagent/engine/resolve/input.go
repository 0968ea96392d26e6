package resolve

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/patchbay-dev/patchbay/api/v1alpha1"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
)

// Input is one resource and whether it was accepted. Exactly one of the
// pointers is set.
type Input struct {
	Network    *v1alpha1.BridgeNetwork
	Attachment *v1alpha1.NamespaceAttachment
	Publish    *v1alpha1.PortPublish
	// Accepted is the Accepted condition. Only accepted resources are built.
	Accepted metav1.Condition
	// Repairs is how often a network was repaired here, by the record.
	Repairs int64
	// Background resources are not waited for by RunOnce.
	Background bool
	// Removed resources were taken away by an explicit command.
	Removed bool
}

// InputOf wraps a resource, not accepted yet.
func InputOf(o v1alpha1.Object) Input {
	switch o := o.(type) {
	case *v1alpha1.BridgeNetwork:
		return Input{Network: o}
	case *v1alpha1.NamespaceAttachment:
		return Input{Attachment: o}
	case *v1alpha1.PortPublish:
		return Input{Publish: o}
	}
	return Input{}
}

// Owner names the resource.
func (in Input) Owner() netstate.Owner {
	switch {
	case in.Network != nil:
		return netstate.Owner{Kind: netstate.OwnerNetwork, Name: in.Network.Name}
	case in.Attachment != nil:
		return netstate.Owner{Kind: netstate.OwnerAttachment, Namespace: in.Attachment.Namespace, Name: in.Attachment.Name}
	case in.Publish != nil:
		return netstate.Owner{Kind: netstate.OwnerPublish, Namespace: in.Publish.Namespace, Name: in.Publish.Name}
	}
	return netstate.Owner{}
}

// Object returns the resource's metadata.
func (in Input) Object() v1alpha1.Object {
	switch {
	case in.Network != nil:
		return in.Network
	case in.Attachment != nil:
		return in.Attachment
	case in.Publish != nil:
		return in.Publish
	}
	return nil
}

// Conditions returns the conditions of the resource's status.
func (in Input) Conditions() []metav1.Condition { return v1alpha1.ConditionsOf(in.Object()) }
