package compile

import (
	"strings"
	"testing"

	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
)

// TestKeptFromInterfaces: a foreign chain at another hook than forward concerns the
// interfaces and families that it sees.
func TestKeptFromInterfaces(t *testing.T) {
	both := []netstate.Family{netstate.IPv4, netstate.IPv6}
	four := []netstate.Family{netstate.IPv4}
	for _, c := range []struct {
		name    string
		blocker netstate.Blocker
		// The packets that br-red with IPv6, br-red as a bridge, and veth1 lose.
		passed, framed, attached string
	}{
		{"input", netstate.Blocker{Hook: "input", Families: both}, "packets to the node", "", ""},
		{"of the other family", netstate.Blocker{Hook: "input", Families: four}, "", "", ""},
		{"that lets it through", netstate.Blocker{Hook: "input", Families: both, Accepts: []string{"br-*"}}, "", "", ""},
		{"untracked", netstate.Blocker{Hook: "prerouting", Untracked: true, Families: both}, "from connection tracking", "", ""},
		{"of a bridge", netstate.Blocker{Hook: "forward", Bridge: true, Families: both}, "", "frames between ports", ""},
		{"of a bridge with exceptions", netstate.Blocker{Hook: "forward", Bridge: true, Families: both, Accepts: []string{"veth1"}}, "", "", ""},
		{"of a device", netstate.Blocker{Hook: "ingress", Links: []string{"veth1"}, Families: both}, "", "", "packets that arrive"},
		{"of a port", netstate.Blocker{Hook: "prerouting", Proto: "tcp", First: 80, Last: 80, Families: both}, "", "", ""},
		{"forward", netstate.Blocker{Families: both}, "", "", ""},
	} {
		c.blocker.Name = "chain c"
		for _, is := range []struct {
			want string
			ask  func(*Result, Context)
		}{
			{c.passed, func(r *Result, x Context) { r.passed(x, "br-red", netstate.IPv6) }},
			{c.framed, func(r *Result, x Context) { r.framed(x, "br-red") }},
			{c.attached, func(r *Result, x Context) { r.attached(x, "veth1") }},
		} {
			var r Result
			is.ask(&r, Context{Blockers: []netstate.Blocker{c.blocker}})
			said := ""
			for _, p := range r.Lacks {
				said += p.Error()
			}
			if said == "" != (is.want == "") || !strings.Contains(said, is.want) {
				t.Errorf("%s: want %q, got %q", c.name, is.want, said)
			}
		}
	}
}
