// Package v1alpha1 holds the Patchbay API: BridgeNetwork, NamespaceAttachment
// and PortPublish, which people write, and NodeBridge, the record of one
// network on one node, which the system writes. It promises that everything
// that can be said of one object alone (formats, ranges, exclusions,
// immutability) is in the markers here and so in the generated CRDs; nothing
// else in Patchbay validates it again.
//
// +kubebuilder:object:generate=true
// +groupName=patchbay.dev
package v1alpha1

import (
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// GroupVersion is the API group and version of every kind in this package.
var GroupVersion = schema.GroupVersion{Group: "patchbay.dev", Version: "v1alpha1"}

var (
	// SchemeBuilder collects the functions that register this package's kinds.
	SchemeBuilder = runtime.NewSchemeBuilder(addKnownTypes)
	// AddToScheme registers this package's kinds with a scheme.
	AddToScheme = SchemeBuilder.AddToScheme
)

func addKnownTypes(s *runtime.Scheme) error {
	s.AddKnownTypes(GroupVersion,
		&BridgeNetwork{}, &BridgeNetworkList{},
		&NamespaceAttachment{}, &NamespaceAttachmentList{},
		&PortPublish{}, &PortPublishList{},
		&NodeBridge{}, &NodeBridgeList{},
	)
	metav1.AddToGroupVersion(s, GroupVersion)
	return nil
}

// NewRESTMapper maps this package's kinds to their resources, as the CRDs say,
// without asking an API server: a process can start while that is away.
func NewRESTMapper() *meta.DefaultRESTMapper {
	m := meta.NewDefaultRESTMapper(nil)
	for _, k := range []struct {
		kind, singular, plural string
		scope                  meta.RESTScope
	}{
		{"BridgeNetwork", "bridgenetwork", "bridgenetworks", meta.RESTScopeRoot},
		{"NodeBridge", "nodebridge", "nodebridges", meta.RESTScopeRoot},
		{"NamespaceAttachment", "namespaceattachment", "namespaceattachments", meta.RESTScopeNamespace},
		{"PortPublish", "portpublish", "portpublishes", meta.RESTScopeNamespace},
	} {
		m.AddSpecific(GroupVersion.WithKind(k.kind), GroupVersion.WithResource(k.plural), GroupVersion.WithResource(k.singular), k.scope)
	}
	return m
}
