package main

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"regexp"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/patchbay-dev/patchbay/api/v1alpha1"
	"github.com/patchbay-dev/patchbay/nodeagent/engine"
	"github.com/patchbay-dev/patchbay/nodeagent/firewall"
	"github.com/patchbay-dev/patchbay/nodeagent/kernel"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
	"github.com/patchbay-dev/patchbay/nodeagent/plan"
	"github.com/patchbay-dev/patchbay/nodeagent/source/dir"
)

const nodeName = "node"

// compiled returns the firewall objects of manifests on an empty node: what
// `patchbay plan` would make of them. It fails if anything would not be Ready.
func compiled(v *dir.Validator, manifests []string, node netstate.Node, firewall emptyFirewall) ([]netstate.Object, error) {
	docs, err := dir.Read([]string{dir.Stdin}, strings.NewReader(strings.Join(manifests, "\n---\n")), v)
	if err != nil {
		return nil, err
	}
	var objects []v1alpha1.Object
	for _, d := range docs {
		objects = append(objects, d.Object)
	}
	e := engine.New(engine.Options{Source: netstate.SourceLocal, Kernel: emptyKernel{node, externals(objects)}, NAT: firewall, Log: slog.New(slog.DiscardHandler)})
	for _, in := range dir.Inputs(objects, node.Name) {
		e.Set(in)
	}
	planned, err := e.Plan(context.Background())
	if err != nil {
		return nil, err
	}
	var out []netstate.Object
	for _, p := range planned {
		if p.Status != nil && p.Status.Ready.Status != metav1.ConditionTrue {
			return nil, fmt.Errorf("%s: %s", p.Title, p.Status.Ready.Message)
		}
		for _, s := range p.Steps {
			if s.Key.Kind.Firewall() {
				out = append(out, s.New)
			}
		}
	}
	return out, nil
}

// lanLine is how a script gives its node an interface; see test/scenarios/doc.go.
var lanLine = regexp.MustCompile(`(?m)^lan \S+ (\S+) (\S+) \S+$`)

// wayFact is an interface of a node by which an address of its leaves.
var wayFact = regexp.MustCompile(`^([^,]+),([0-9.]+)$`)

// addressFact is an interface of a node and an address that it was given.
var addressFact = regexp.MustCompile(`^([^,]+),([0-9a-f.:]+/[0-9]+)$`)

// nodeOf is the node of a scenario, with the interfaces that its script begins
// with and the facts of a line.
func nodeOf(s scenario, one shown) netstate.Node {
	n := netstate.Node{Name: nodeName, Links: map[string]netstate.NodeLink{}, BridgeNF: map[netstate.Family]bool{}}
	for _, m := range lanLine.FindAllStringSubmatch(string(s.archive.Comment), -1) {
		n.Links[m[1]] = netstate.NodeLink{Type: netstate.OtherLink, MTU: 1500}
		for cidr := range strings.SplitSeq(m[2], ",") {
			if p, err := netip.ParsePrefix(cidr); err == nil {
				n.Addresses = append(n.Addresses, netstate.NodeAddress{Link: m[1], Prefix: p})
			}
		}
		if m[2] != "-" {
			n.GatewayLinks = append(n.GatewayLinks, m[1])
		}
	}
	if bridge := one.facts["bridge"]; bridge != "" {
		n.Links[bridge] = netstate.NodeLink{Type: netstate.Bridge, MTU: 1500}
		n.BridgeNF = map[netstate.Family]bool{netstate.IPv4: true, netstate.IPv6: true}
	}
	if a := addressFact.FindStringSubmatch(one.facts["address"]); a != nil {
		if p, err := netip.ParsePrefix(a[2]); err == nil {
			n.Addresses = append(n.Addresses, netstate.NodeAddress{Link: a[1], Prefix: p})
		}
	}
	if w := wayFact.FindStringSubmatch(one.facts["way"]); w != nil {
		if a, err := netip.ParseAddr(w[2]); err == nil {
			const table = 102
			n.Rules = []netstate.RouteRule{{Family: netstate.IPv4, Priority: 1000, From: netip.PrefixFrom(a, 32), Table: table, Longer: -1}}
			n.Routes = []netstate.ForeignRoute{{Table: table, Dst: netip.PrefixFrom(netip.IPv4Unspecified(), 0), Link: w[1]}}
		}
	}
	return n
}

// externals are the namespaces of lifecycle External.
func externals(objects []v1alpha1.Object) netstate.Set {
	set := netstate.Set{}
	for _, o := range objects {
		a, ok := o.(*v1alpha1.NamespaceAttachment)
		if !ok {
			continue
		}
		if t := a.Spec.Target.Netns; t != nil && t.Lifecycle == v1alpha1.External {
			set.Add(netstate.Netns{Name: string(t.Name)})
		}
		if p := a.Spec.PointToPoint; p != nil && p.Netns != nil && p.Netns.Lifecycle == v1alpha1.External {
			set.Add(netstate.Netns{Name: string(p.Netns.Name)})
		}
	}
	return set
}

// emptyKernel has no object of Patchbay, and is never asked to change.
type emptyKernel struct {
	node    netstate.Node
	foreign netstate.Set
}

func (k emptyKernel) Observe(keys []netstate.Key) (netstate.Set, map[netstate.Key]error) {
	set := netstate.Set{}
	for _, key := range keys {
		if o := k.foreign[key]; o != nil {
			set.Add(o)
		}
	}
	return set, nil
}
func (emptyKernel) Apply([]plan.Step) []error                       { panic("a plan changes nothing") }
func (emptyKernel) Inventory() ([]kernel.Held, error)               { return nil, nil }
func (k emptyKernel) Node() (netstate.Node, error)                  { return k.node, nil }
func (emptyKernel) LinkIndex(netstate.End) (int, error)             { return 0, nil }
func (emptyKernel) IPv6Off(string) bool                             { return false }
func (emptyKernel) NetnsID(string) (netstate.NetnsID, bool)         { return netstate.NetnsID{}, false }
func (emptyKernel) Listen(string) (bool, error)                     { return false, nil }
func (emptyKernel) ListenMounts()                                   {}
func (emptyKernel) Routing(string) (netstate.Routing, error)        { return netstate.Routing{}, nil }
func (emptyKernel) Announce([]plan.Step)                            {}
func (emptyKernel) Watch(context.Context, func(kernel.Event)) error { return nil }

// emptyFirewall is a backend that holds nothing.
type emptyFirewall struct {
	firewall.Backend
	kind     string
	blockers []netstate.Blocker
}

// firewallOf is a backend of the node of a line.
func firewallOf(kind string, one shown) emptyFirewall {
	f := emptyFirewall{kind: kind}
	if one.facts["forward"] == "drop" {
		f.blockers = []netstate.Blocker{{Name: "chain FORWARD", Families: []netstate.Family{netstate.IPv4, netstate.IPv6}, Openable: true}}
	}
	return f
}

func (f emptyFirewall) Name() string                      { return f.kind }
func (f emptyFirewall) AntiSpoof() bool                   { return f.kind == firewall.KindNFTables }
func (emptyFirewall) Load(context.Context) error          { return nil }
func (emptyFirewall) Known() bool                         { return true }
func (emptyFirewall) Observe([]netstate.Key) netstate.Set { return netstate.Set{} }
func (emptyFirewall) Held() netstate.Set                  { return netstate.Set{} }
func (f emptyFirewall) Blockers() []netstate.Blocker      { return f.blockers }
func (emptyFirewall) Intact() bool                        { return true }
func (emptyFirewall) Watch(context.Context, func()) error { return nil }
