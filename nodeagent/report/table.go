package report

import (
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"text/tabwriter"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/patchbay-dev/patchbay/api/v1alpha1"
	"github.com/patchbay-dev/patchbay/nodeagent/compile"
	"github.com/patchbay-dev/patchbay/nodeagent/engine"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
)

// Table writes resources with their status as one table per kind, and below
// them why something is not Ready.
func Table(w io.Writer, objects []v1alpha1.Object) error {
	tw := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	var notes []string
	last := ""
	for _, o := range objects {
		in := engine.InputOf(o)
		cells, header := row(in)
		if kind := in.Owner().Kind; kind != last {
			if last != "" {
				fmt.Fprintln(tw)
			}
			fmt.Fprintln(tw, header)
			last = kind
		}
		ready, reason, message := verdict(in)
		fmt.Fprintln(tw, strings.Join(append(cells, ready, reason), "\t"))
		if message != "" {
			notes = append(notes, fmt.Sprintf("%s: %s", in.Owner().Title(), message))
		}
	}
	if len(notes) > 0 {
		fmt.Fprintf(tw, "\n%s\n", strings.Join(notes, "\n"))
	}
	return tw.Flush()
}

func row(in engine.Input) (cells []string, header string) {
	switch {
	case in.Network != nil:
		return networkRow(in.Network), "NETWORK\tBRIDGE\tSUBNETS\tGATEWAY\tREADY\tREASON"
	case in.Attachment != nil:
		return attachmentRow(in.Attachment), "ATTACHMENT\tNETNS\tINTERFACE\tHOST-INTERFACE\tADDRESSES\tNETWORK\tREADY\tREASON"
	}
	return publishRow(in.Publish), "PUBLISH\tATTACHMENT\tPORTS\tTARGETS\tREADY\tREASON"
}

func networkRow(n *v1alpha1.BridgeNetwork) []string {
	v := compile.View(n, netstate.Node{})
	return []string{n.Name, v.Bridge, list(v.Subnets, netip.Prefix.String), list(v.Gateways, netip.Addr.String)}
}

func attachmentRow(a *v1alpha1.NamespaceAttachment) []string {
	return []string{
		a.Namespace + "/" + a.Name, target(a), end(a.Status.Interface), end(a.Status.HostInterface),
		list(a.Status.Addresses, func(s v1alpha1.Subnet) string { return string(s) }), orDash(peer(a)),
	}
}

// target is a network namespace or pod/NAME.
func target(a *v1alpha1.NamespaceAttachment) string {
	switch t := a.Spec.Target; {
	case t.Netns != nil:
		return string(t.Netns.Name)
	case t.Pod != nil:
		return "pod/" + t.Pod.Name
	}
	return "-"
}

// peer is what the attachment is joined to.
func peer(a *v1alpha1.NamespaceAttachment) string {
	p := a.Spec.PointToPoint
	switch {
	case p == nil:
		return a.Spec.Network
	case p.Host != nil:
		return "(host)"
	}
	return fmt.Sprintf("(%s/%s)", p.Netns.Name, p.Netns.Interface)
}

// end is an interface with its index, as `ip link` numbers it.
func end(s *v1alpha1.InterfaceStatus) string {
	switch {
	case s == nil:
		return "-"
	case s.Index == 0:
		return s.Name
	}
	return fmt.Sprintf("%s (%d)", s.Name, s.Index)
}

func publishRow(p *v1alpha1.PortPublish) []string {
	var ports, targets []string
	for _, s := range p.Status.Published {
		host := "*"
		if s.Address != "" {
			host = string(s.Address)
		}
		if strings.Contains(host, ":") {
			host = "[" + host + "]"
		}
		ports = append(ports, host+":"+v1alpha1.PortText(s.HostPort, s.HostPortEnd)+"/"+string(s.Protocol))
		targets = append(targets, s.Target)
	}
	return []string{p.Namespace + "/" + p.Name, p.Spec.Attachment, orDash(strings.Join(unique(ports), ",")), orDash(strings.Join(unique(targets), ","))}
}

// unique keeps the first of equal texts.
func unique(in []string) []string {
	var out []string
	for _, s := range in {
		if !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	return out
}

// verdict is the Ready condition; the message only where something is to be
// known.
func verdict(in engine.Input) (ready, reason, message string) {
	for _, c := range in.Conditions() {
		if c.Type == v1alpha1.ConditionAccepted && c.Status == metav1.ConditionFalse {
			return "False", c.Reason, c.Message
		}
	}
	for _, c := range in.Conditions() {
		if c.Type != v1alpha1.ConditionReady {
			continue
		}
		if c.Reason == v1alpha1.ReasonProgrammed {
			return string(c.Status), c.Reason, ""
		}
		return string(c.Status), c.Reason, c.Message
	}
	return "Unknown", v1alpha1.ReasonPending, ""
}

func list[T any](in []T, text func(T) string) string {
	var out []string
	for _, e := range in {
		out = append(out, text(e))
	}
	return orDash(strings.Join(out, ","))
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
