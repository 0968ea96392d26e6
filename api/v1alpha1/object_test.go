package v1alpha1

import (
	"testing"

	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestCopySpecAndStatus(t *testing.T) {
	for _, c := range []struct{ from, to Object }{
		{&BridgeNetwork{Spec: BridgeNetworkSpec{Subnets: []Subnet{"10.0.0.0/24"}}}, &BridgeNetwork{}},
		{&NodeBridge{Spec: NodeBridgeSpec{Network: "red"}}, &NodeBridge{}},
		{&NamespaceAttachment{Spec: NamespaceAttachmentSpec{Network: "red"}}, &NamespaceAttachment{}},
		{&PortPublish{Spec: PortPublishSpec{Attachment: "net1"}}, &PortPublish{}},
	} {
		c.from.SetName("from")
		*c.from.Conditions() = []metav1.Condition{{Type: ConditionReady}}
		CopySpec(c.to, c.from)
		if len(*c.to.Conditions()) != 0 {
			t.Errorf("%s: the status came with the spec", c.to.KindName())
		}
		CopyStatus(c.to, c.from)
		c.to.SetName("from")
		if !equality.Semantic.DeepEqual(c.from, c.to) {
			t.Errorf("%s: %+v, want %+v", c.to.KindName(), c.to, c.from)
		}
	}
}
