package v1alpha1

import (
	"reflect"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// Object is a resource of this package: a *BridgeNetwork, *NodeBridge,
// *NamespaceAttachment or *PortPublish.
//
// +kubebuilder:object:generate=false
type Object interface {
	metav1.Object
	runtime.Object
	// KindName returns the kind; the objects of typed clients leave TypeMeta empty.
	KindName() string
	// SpecPointer returns a pointer to the spec.
	SpecPointer() any
	// StatusPointer returns a pointer to the status.
	StatusPointer() any
	// Conditions returns the conditions of the status, to read and to set.
	Conditions() *[]metav1.Condition
}

// CopySpec gives an object the spec of another of its kind.
func CopySpec(to, from Object) { assign(to.SpecPointer(), from.SpecPointer()) }

// CopyStatus gives an object the status of another of its kind.
func CopyStatus(to, from Object) { assign(to.StatusPointer(), from.StatusPointer()) }

func assign(to, from any) { reflect.ValueOf(to).Elem().Set(reflect.ValueOf(from).Elem()) }

// KindName implements Object.
func (*BridgeNetwork) KindName() string { return "BridgeNetwork" }

// KindName implements Object.
func (*NodeBridge) KindName() string { return "NodeBridge" }

// KindName implements Object.
func (*NamespaceAttachment) KindName() string { return "NamespaceAttachment" }

// KindName implements Object.
func (*PortPublish) KindName() string { return "PortPublish" }

// SpecPointer implements Object.
func (n *BridgeNetwork) SpecPointer() any { return &n.Spec }

// SpecPointer implements Object.
func (b *NodeBridge) SpecPointer() any { return &b.Spec }

// SpecPointer implements Object.
func (a *NamespaceAttachment) SpecPointer() any { return &a.Spec }

// SpecPointer implements Object.
func (p *PortPublish) SpecPointer() any { return &p.Spec }

// StatusPointer implements Object.
func (n *BridgeNetwork) StatusPointer() any { return &n.Status }

// StatusPointer implements Object.
func (b *NodeBridge) StatusPointer() any { return &b.Status }

// StatusPointer implements Object.
func (a *NamespaceAttachment) StatusPointer() any { return &a.Status }

// StatusPointer implements Object.
func (p *PortPublish) StatusPointer() any { return &p.Status }

// Conditions implements Object.
func (n *BridgeNetwork) Conditions() *[]metav1.Condition { return &n.Status.Conditions }

// Conditions implements Object.
func (b *NodeBridge) Conditions() *[]metav1.Condition { return &b.Status.Conditions }

// Conditions implements Object.
func (a *NamespaceAttachment) Conditions() *[]metav1.Condition { return &a.Status.Conditions }

// Conditions implements Object.
func (p *PortPublish) Conditions() *[]metav1.Condition { return &p.Status.Conditions }
