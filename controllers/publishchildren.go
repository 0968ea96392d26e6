package controllers

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/patchbay-dev/patchbay/api/v1alpha1"
)

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
