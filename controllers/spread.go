package controllers

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/patchbay-dev/patchbay/api/v1alpha1"
)

// wasSpread says whether the status of a publish is a sum over children: what is
// bound has a node, and what never was has no generation.
func wasSpread(p *v1alpha1.PortPublish) bool {
	return p.Status.NodeName == "" && p.Status.ObservedGeneration != 0
}

// spread keeps one child of a publish on each node where its attachment has
// children, and sums them up.
func (r publishes) spread(ctx context.Context, p *v1alpha1.PortPublish, v verdict) (reconcile.Result, error) {
	if wait := patience(publishSubject(p), v, time.Now(), r.options.ReferenceGrace); wait > 0 {
		return reconcile.Result{RequeueAfter: wait}, nil
	}
	nodes, err := r.nodesUnder(ctx, p)
	if err != nil {
		return reconcile.Result{}, err
	}
	children, err := r.children(ctx, p)
	if err != nil {
		return reconcile.Result{}, err
	}
	f := family{parent: p, have: children, closed: v.accepted.Status != metav1.ConditionTrue}
	for _, node := range nodes {
		f.want = append(f.want, childPublish(p, node))
	}
	held, tendErr := r.tend(ctx, f)
	t := tallyUp(spreadMembers(p, nodes, children, held), tendErr)
	result, err := r.writeSpread(ctx, p, spreadStatus(p, v.accepted, t))
	if len(held) > 0 { // whoever frees the name need not be known here
		result = sooner(result, reconcile.Result{RequeueAfter: r.options.RollupInterval})
	}
	return result, errors.Join(tendErr, err)
}

// nodesUnder are those that children of a publish's attachment are bound to.
func (r publishes) nodesUnder(ctx context.Context, p *v1alpha1.PortPublish) ([]string, error) {
	var list v1alpha1.NamespaceAttachmentList
	if err := r.list(ctx, &list, client.InNamespace(p.Namespace), client.MatchingFields{byParent: p.Spec.Attachment}); err != nil {
		return nil, err
	}
	var out []string
	for _, a := range list.Items {
		out = append(out, unlessEmpty(a.Status.NodeName)...)
	}
	slices.Sort(out)
	return slices.Compact(out), nil
}

func (r publishes) children(ctx context.Context, p *v1alpha1.PortPublish) ([]client.Object, error) {
	var list v1alpha1.PortPublishList
	if err := r.List(ctx, &list, client.InNamespace(p.Namespace), client.MatchingFields{byParent: p.Name}); err != nil {
		return nil, fmt.Errorf("list the children of PortPublish %s/%s: %w", p.Namespace, p.Name, err)
	}
	var out []client.Object
	for i := range list.Items {
		out = append(out, &list.Items[i])
	}
	return out, nil
}

// childPublish is the publish of one node, as its parent wants it.
func childPublish(p *v1alpha1.PortPublish, node string) *v1alpha1.PortPublish {
	child := &v1alpha1.PortPublish{ObjectMeta: childMeta(p, kindPublish, node), Spec: *p.Spec.DeepCopy()}
	child.Annotations = map[string]string{v1alpha1.AnnotationNodeName: node}
	return child
}

func spreadMembers(p *v1alpha1.PortPublish, nodes []string, children []client.Object, held map[string]bool) []member {
	byName := map[string]client.Object{}
	for _, c := range children {
		if metav1.GetControllerOf(c).UID == p.UID {
			byName[c.GetName()] = c
		}
	}
	var out []member
	for _, node := range nodes {
		name := v1alpha1.ChildName(p.Name, node)
		switch c := byName[name]; {
		case held[name]:
			out = append(out, heldMember(node, kindPublish, name))
		case c == nil:
			out = append(out, memberOf(node, 0, nil))
		default:
			out = append(out, memberOf(node, c.GetGeneration(), v1alpha1.ConditionsOf(c)))
		}
	}
	return out
}

// spreadStatus is the whole of the status of a publish that has children.
func spreadStatus(p *v1alpha1.PortPublish, accepted metav1.Condition, t tally) v1alpha1.PortPublishStatus {
	counts := fmt.Sprintf("on %d of %d nodes", len(t.ready), t.all())
	if len(t.ready) == t.all() {
		counts = "on " + nodeCount(t.all())
	}
	ready := t.condition(counts, fmt.Sprintf("no pod of NamespaceAttachment %s/%s is on a node; its spec.target.podSelector says which are meant", p.Namespace, p.Spec.Attachment))
	return v1alpha1.PortPublishStatus{
		ObservedGeneration: p.Generation,
		Summary:            spreadSummary(p.Spec, len(t.ready)),
		Conditions:         parentConditions(p.Generation, p.Status.Conditions, accepted, ready),
	}
}

func nodeCount(n int) string {
	if n == 1 {
		return "1 node"
	}
	return fmt.Sprintf("%d nodes", n)
}

// summaryLimit is what a column of a table can bear; the CRD allows twice that.
const summaryLimit = 128

// spreadSummary is what is published on so many nodes: "2 nodes: *:20080/TCP".
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

// writeSpread holds back what only sums up. What an agent left of a publish that
// was bound, and the node, only a merge patch removes.
func (r publishes) writeSpread(ctx context.Context, p *v1alpha1.PortPublish, want v1alpha1.PortPublishStatus) (reconcile.Result, error) {
	pace := paceOf(r.paces, client.ObjectKeyFromObject(p))
	if equality.Semantic.DeepEqual(p.Status, want) {
		pace.settled()
		return reconcile.Result{}, nil
	}
	bound := p.Status.NodeName != "" || len(p.Status.Published) > 0
	if wait := pace.hold(time.Now(), p.Status.Conditions, want.Conditions, r.options.RollupInterval); wait > 0 && !bound {
		return reconcile.Result{RequeueAfter: wait}, nil
	}
	logConditions(ctx, p.Status.Conditions, want.Conditions)
	if bound {
		before := p.DeepCopy()
		p.Status = want
		return r.patchStatus(ctx, p, before)
	}
	return r.applyStatus(ctx, p, want)
}

// gather deletes the children of a publish that is spread no longer.
func (r publishes) gather(ctx context.Context, p *v1alpha1.PortPublish) error {
	children, err := r.children(ctx, p)
	if err != nil || len(children) == 0 {
		return err
	}
	_, err = r.tend(ctx, family{parent: p, have: children, closed: true})
	return err
}
