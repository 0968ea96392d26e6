package engine

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/patchbay-dev/patchbay/api/v1alpha1"
	"github.com/patchbay-dev/patchbay/nodeagent/engine/resolve"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
)

// published are the open ports of a publish.
func published(u *resolve.Resource) []v1alpha1.PublishedStatus {
	var out []v1alpha1.PublishedStatus
	for _, k := range u.Wanted().Keys() {
		p, ok := u.Wanted()[k].(netstate.Publish)
		if !ok || !u.Holds(k) || u.Errs[k] != nil || p.Sources == netstate.Nobody {
			continue
		}
		s := v1alpha1.PublishedStatus{Protocol: v1alpha1.Protocol(strings.ToUpper(p.Proto)), HostPort: int32(p.HostPort), HostPortEnd: int32(p.HostPortEnd)}
		if !p.Host.IsUnspecified() {
			s.Address = v1alpha1.IPAddress(p.Host.String())
		}
		for _, t := range p.Targets.All() {
			s.Target = t.String()
			out = append(out, s)
		}
	}
	return out
}

const (
	// maxPublished is what the CRD allows in a status.
	maxPublished = 2048
	// maxSummary is what a column of a table can bear; the CRD allows twice that.
	maxSummary = 128
)

// summary is the published ports in one line: "*:8001/TCP->10.68.0.101:80, +3".
func summary(published []v1alpha1.PublishedStatus) string {
	var out strings.Builder
	texts := summaries(published)
	for i, text := range texts {
		if i > 0 && out.Len()+len(text) > maxSummary {
			fmt.Fprintf(&out, ", +%d", len(texts)-i)
			break
		}
		if i > 0 {
			out.WriteString(", ")
		}
		out.WriteString(text)
	}
	return out.String()
}

// summaries are the texts of ports: with their target, or with the number of
// them where there are several.
func summaries(published []v1alpha1.PublishedStatus) []string {
	var out []string
	for len(published) > 0 {
		s, n := published[0], 1
		for n < len(published) && samePort(s, published[n]) {
			n++
		}
		host, target := "*", s.Target
		if a, err := netip.ParseAddr(string(s.Address)); err == nil {
			host = strings.TrimSuffix(netip.AddrPortFrom(a, 0).String(), ":0")
		}
		if n > 1 {
			target = fmt.Sprintf("%d targets", n)
		}
		text := fmt.Sprintf("%s:%s/%s->%s", host, v1alpha1.PortText(s.HostPort, s.HostPortEnd), s.Protocol, target)
		// Both families of as many targets are one thing to a reader.
		if !slices.Contains(out, text) {
			out = append(out, text)
		}
		published = published[n:]
	}
	return out
}

// samePort says whether two entries are of one port; that of each family is one
// of its own.
func samePort(a, b v1alpha1.PublishedStatus) bool {
	six := func(s v1alpha1.PublishedStatus) bool { return strings.HasPrefix(s.Target, "[") }
	return a.Address == b.Address && a.Protocol == b.Protocol && a.HostPort == b.HostPort && a.HostPortEnd == b.HostPortEnd && six(a) == six(b)
}
