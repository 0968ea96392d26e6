package dir

import (
	"log/slog"
	"maps"
	"reflect"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/patchbay-dev/patchbay/api/v1alpha1"
	"github.com/patchbay-dev/patchbay/controllers/accept"
	"github.com/patchbay-dev/patchbay/nodeagent/engine"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
)

// Inputs does the controller's part for a node without a cluster: it decides whether
// each object is accepted beside the other objects.
func Inputs(objects []v1alpha1.Object, nodeName string) []engine.Input {
	var networks []*v1alpha1.BridgeNetwork
	var attachments []*v1alpha1.NamespaceAttachment
	for _, o := range objects {
		switch o := o.(type) {
		case *v1alpha1.BridgeNetwork:
			networks = append(networks, o)
		case *v1alpha1.NamespaceAttachment:
			attachments = append(attachments, o)
		}
	}
	world := accept.Local(nodeName, networks, attachments)
	var inputs []engine.Input
	for _, o := range objects {
		inputs = append(inputs, input(o, world))
	}
	return inputs
}

func input(o v1alpha1.Object, w accept.World) engine.Input {
	switch o := o.(type) {
	case *v1alpha1.BridgeNetwork:
		return engine.Input{Network: o, Accepted: here(o, accept.Network(o, w), w)}
	case *v1alpha1.NamespaceAttachment:
		return engine.Input{Attachment: o, Accepted: accept.Attachment(o, w)}
	case *v1alpha1.PortPublish:
		return engine.Input{Publish: o, Accepted: accept.Publish(o, w)}
	}
	return engine.Input{}
}

// here refuses a network that does not select this node, the only one there is.
func here(n *v1alpha1.BridgeNetwork, c metav1.Condition, w accept.World) metav1.Condition {
	if c.Status == metav1.ConditionTrue && !accept.Selects(n, w.NodeName, w) {
		c.Status, c.Reason = metav1.ConditionFalse, v1alpha1.ReasonNodeNotFound
		c.Message = "spec.nodeSelector does not select this node, " + w.NodeName + ": without a cluster a node has only the label kubernetes.io/hostname"
	}
	return c
}

// Feed hands a folder's snapshots to an engine. It sets the objects that are new or
// changed. An object that left the folder is gone, unless the snapshot is incomplete.
type Feed struct {
	Engine   *engine.Engine
	NodeName string
	Log      *slog.Logger
	// Records are the objects of an earlier run, with their status.
	Records []v1alpha1.Object

	last map[netstate.Owner]engine.Input
}

// Take hands over one snapshot.
func (f *Feed) Take(s Snapshot) {
	for _, err := range s.Errors {
		f.Log.Error("manifest not used; its last good state stays", "err", err)
	}
	var objects []v1alpha1.Object
	for _, d := range s.Documents {
		objects = append(objects, d.Object)
	}
	next := map[netstate.Owner]engine.Input{}
	for _, in := range Inputs(f.withMissing(objects, s.Complete), f.NodeName) {
		next[in.Owner()] = in
	}
	var changed []engine.Input
	for o, in := range next {
		if old, ok := f.last[o]; !ok || !reflect.DeepEqual(old, in) {
			changed = append(changed, in)
		}
	}
	var gone []netstate.Owner
	for o := range f.last {
		if _, ok := next[o]; !ok {
			f.Log.Info("left the folder", "owner", o.String())
			gone = append(gone, o)
		}
	}
	if s.Complete {
		// Records of objects that left the folder while no process watched it.
		for _, o := range f.Records {
			if owner := engine.InputOf(o).Owner(); !has(next, owner) && !has(f.last, owner) {
				gone = append(gone, owner)
			}
		}
		f.Records = nil
	}
	f.Engine.Update(changed, gone)
	f.last = next
	f.Engine.Synced(s.Complete)
}

func has(inputs map[netstate.Owner]engine.Input, o netstate.Owner) bool {
	_, ok := inputs[o]
	return ok
}

// withMissing gives the objects the status that they had. It adds the objects that an
// incomplete snapshot lacks, as this run saw them last, or else as recorded.
func (f *Feed) withMissing(objects []v1alpha1.Object, complete bool) []v1alpha1.Object {
	before := map[netstate.Owner]v1alpha1.Object{}
	for _, o := range f.Records {
		before[engine.InputOf(o).Owner()] = o
	}
	for owner, in := range f.last {
		before[owner] = in.Object()
	}
	for _, o := range objects {
		owner := engine.InputOf(o).Owner()
		// The object that the engine has already is not to be written to.
		if old, ok := before[owner]; ok && old != o {
			v1alpha1.CopyStatus(o, old)
		}
		delete(before, owner)
	}
	if complete {
		return objects
	}
	return slices.AppendSeq(objects, maps.Values(before))
}
