package controllers

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/patchbay-dev/patchbay/api/v1alpha1"
	"github.com/patchbay-dev/patchbay/controllers/accept"
)

// publishes accepts PortPublishes and binds them to the nodes of their attachments.
// A publish whose attachment has children becomes a parent too.
type publishes struct{ parents }

func (r publishes) add(mgr manager.Manager) error {
	return builder.ControllerManagedBy(mgr).
		For(&v1alpha1.PortPublish{}).
		Watches(&v1alpha1.PortPublish{}, after(r.options.RollupDelay, ofChild), builder.WithPredicates(childChanged)).
		Watches(&v1alpha1.NamespaceAttachment{}, handler.EnqueueRequestsFromMapFunc(r.ofAttachment), builder.WithPredicates(attachmentChanged)).
		Watches(&v1alpha1.BridgeNetwork{}, handler.EnqueueRequestsFromMapFunc(r.ofNetwork), builder.WithPredicates(networkChanged)).
		Watches(&corev1.Service{}, handler.EnqueueRequestsFromMapFunc(r.ofService), builder.WithPredicates(nodePortsChanged)).
		Watches(&corev1.Pod{}, handler.EnqueueRequestsFromMapFunc(r.ofHostPorts), builder.WithPredicates(hostPortsChanged)).
		Watches(&corev1.Node{}, handler.EnqueueRequestsFromMapFunc(r.ofNode), builder.WithPredicates(nodeChanged)).
		WithOptions(parallel()).
		Complete(r)
}

// Reconcile judges one publish. Its attachment is judged along with it, and not
// read from the attachment's status, so that a chain settles in one go.
func (r publishes) Reconcile(ctx context.Context, req reconcile.Request) (reconcile.Result, error) {
	p := &v1alpha1.PortPublish{}
	if err := r.Get(ctx, req.NamespacedName, p); err != nil {
		r.throttles.Delete(req.NamespacedName)
		return reconcile.Result{}, client.IgnoreNotFound(err)
	}
	l := r.lookup(ctx)
	v := verdict{accepted: accept.Publish(p, l.World), early: l.missed}
	a := l.Attachment(types.NamespacedName{Namespace: p.Namespace, Name: p.Spec.Attachment})
	if l.err != nil {
		return reconcile.Result{}, l.err
	}
	switch {
	case v1alpha1.Parent(p) != "":
		v.binding.Node = p.Annotations[v1alpha1.AnnotationNodeName]
		if !r.madeByParent(ctx, p) {
			v.accepted = adopted(p)
		}
		return r.writeVerdict(ctx, publishSubject(p), v)
	case a != nil:
		v.binding.Node = accept.BindingOf(a, l.World).Node
	}
	if a != nil && accept.IsParent(a) || wasSpread(p) && !v.binds() {
		return r.spread(ctx, p, v)
	}
	if err := r.gather(ctx, p); err != nil {
		return reconcile.Result{}, err
	}
	return r.writeVerdict(ctx, publishSubject(p), v)
}

// madeByParent is false where the publish names a controller that is not there, did
// not make it, or is itself a child: it was then written by hand, and its node is
// not the controller's choice.
func (r publishes) madeByParent(ctx context.Context, p *v1alpha1.PortPublish) bool {
	parent := &v1alpha1.PortPublish{}
	err := r.cache.Get(ctx, types.NamespacedName{Namespace: p.Namespace, Name: v1alpha1.Parent(p)}, parent)
	return err == nil && parent.UID == metav1.GetControllerOf(p).UID && v1alpha1.Parent(parent) == ""
}

func adopted(p *v1alpha1.PortPublish) metav1.Condition {
	return metav1.Condition{
		Type: v1alpha1.ConditionAccepted, Status: metav1.ConditionFalse, ObservedGeneration: p.Generation, Reason: v1alpha1.ReasonUnsupported,
		Message: fmt.Sprintf("metadata.ownerReferences names PortPublish %s as controller, which did not make this one or is gone; leave the reference out", v1alpha1.Parent(p)),
	}
}

// ofAttachment returns the publishes of an attachment and of its parent.
func (r publishes) ofAttachment(ctx context.Context, a client.Object) []reconcile.Request {
	out := r.naming(ctx, a.GetNamespace(), a.GetName())
	if parent := v1alpha1.Parent(a); parent != "" {
		out = append(out, r.naming(ctx, a.GetNamespace(), parent)...)
	}
	return out
}

func (r publishes) naming(ctx context.Context, namespace, attachment string) []reconcile.Request {
	return requests(ctx, r.cluster, &v1alpha1.PortPublishList{}, client.InNamespace(namespace), client.MatchingFields{byAttachment: attachment})
}

// ofNetwork returns the publishes of the network's attachments: whether the host
// reaches an attachment depends on its network.
func (r publishes) ofNetwork(ctx context.Context, network client.Object) []reconcile.Request {
	var out []reconcile.Request
	for _, a := range (attachments{r.cluster}).ofNetwork(ctx, network) {
		out = append(out, r.naming(ctx, a.Namespace, a.Name)...)
	}
	return out
}

func (r publishes) ofNode(ctx context.Context, node client.Object) []reconcile.Request {
	return requests(ctx, r.cluster, &v1alpha1.PortPublishList{}, client.MatchingFields{byNode: node.GetName()})
}

// wasSpread reports whether the status of a publish is a sum over children: a bound
// publish has a node, and one that was never bound has no generation.
func wasSpread(p *v1alpha1.PortPublish) bool {
	return p.Status.NodeName == "" && p.Status.ObservedGeneration != 0
}

// spread keeps one child of a publish on each node where its attachment has
// children, and sums them up.
func (r publishes) spread(ctx context.Context, p *v1alpha1.PortPublish, v verdict) (reconcile.Result, error) {
	return r.reconcile(ctx, parent{
		subject: publishSubject(p), verdict: v, list: &v1alpha1.PortPublishList{},
		wanted:     func(ctx context.Context) ([]child, error) { return r.nodeChildren(ctx, p) },
		withStatus: func(s sum) v1alpha1.Object { return withNodeStatus(p, v.accepted, s) },
		replaced:   p.Status.NodeName != "" || len(p.Status.Published) > 0,
	})
}

// gather deletes the children of a publish that is spread no longer.
func (r publishes) gather(ctx context.Context, p *v1alpha1.PortPublish) error {
	have, err := r.children(ctx, p, &v1alpha1.PortPublishList{})
	if err != nil || len(have) == 0 {
		return err
	}
	_, err = r.sync(ctx, family{parent: p, have: have, closed: true})
	return err
}

// nodeChildren returns one child for each node that a child of the publish's
// attachment is bound to.
func (r publishes) nodeChildren(ctx context.Context, p *v1alpha1.PortPublish) ([]child, error) {
	var list v1alpha1.NamespaceAttachmentList
	if err := r.list(ctx, &list, client.InNamespace(p.Namespace), client.MatchingFields{byParent: p.Spec.Attachment}); err != nil {
		return nil, err
	}
	var nodes []string
	for _, a := range list.Items {
		nodes = append(nodes, unlessEmpty(a.Status.NodeName)...)
	}
	slices.Sort(nodes)
	var out []child
	for _, node := range slices.Compact(nodes) {
		out = append(out, child{Object: nodeChild(p, node), name: node})
	}
	return out, nil
}

// nodeChild is the publish of one node, as its parent wants it.
func nodeChild(p *v1alpha1.PortPublish, node string) *v1alpha1.PortPublish {
	child := &v1alpha1.PortPublish{ObjectMeta: childMeta(p, node), Spec: *p.Spec.DeepCopy()}
	child.Annotations = map[string]string{v1alpha1.AnnotationNodeName: node}
	return child
}

// withNodeStatus returns a publish with the status that its nodes make.
func withNodeStatus(p *v1alpha1.PortPublish, accepted metav1.Condition, s sum) *v1alpha1.PortPublish {
	counts := fmt.Sprintf("on %d of %d nodes", len(s.ready), s.count())
	if len(s.ready) == s.count() {
		counts = "on " + nodeCount(s.count())
	}
	ready := s.condition(counts, fmt.Sprintf("no pod of NamespaceAttachment %s/%s is on a node; its spec.target.podSelector says which are meant", p.Namespace, p.Spec.Attachment))
	out := p.DeepCopy()
	out.Status = v1alpha1.PortPublishStatus{
		ObservedGeneration: p.Generation,
		Summary:            spreadSummary(p.Spec, len(s.ready)),
		Conditions:         summedConditions(p, accepted, ready),
	}
	return out
}

func nodeCount(n int) string {
	if n == 1 {
		return "1 node"
	}
	return fmt.Sprintf("%d nodes", n)
}

// summaryLimit is the bytes that a column of a table can bear; the CRD allows twice
// that.
const summaryLimit = 128

// spreadSummary lists the ports that so many nodes publish: "2 nodes: *:20080/TCP".
func spreadSummary(s v1alpha1.PortPublishSpec, nodes int) string {
	if nodes == 0 {
		return ""
	}
	out := nodeCount(nodes) + ": "
	all := published(s)
	for i, text := range all {
		if i > 0 && len(out)+len(text) > summaryLimit {
			return out + fmt.Sprintf(", +%d", len(all)-i)
		}
		if i > 0 {
			out += ", "
		}
		out += text
	}
	return out
}

func published(s v1alpha1.PortPublishSpec) []string {
	hosts := []string{"*"}
	if len(s.HostAddresses) > 0 {
		hosts = nil
	}
	for _, a := range s.HostAddresses {
		host := string(a)
		if addr, err := netip.ParseAddr(host); err == nil {
			host = strings.TrimSuffix(netip.AddrPortFrom(addr, 0).String(), ":0")
		}
		hosts = append(hosts, host)
	}
	if s.Loopback {
		hosts = append(hosts, "127.0.0.1")
	}
	var out []string
	for _, p := range s.Ports {
		for _, host := range hosts {
			out = append(out, fmt.Sprintf("%s:%s/%s", host, v1alpha1.PortText(p.HostPort, p.HostPortEnd), p.Protocol))
		}
	}
	return out
}
