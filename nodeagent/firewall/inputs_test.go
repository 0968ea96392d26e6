package firewall

import (
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/patchbay-dev/patchbay/nodeagent/firewall/firewalltest"
	"github.com/patchbay-dev/patchbay/nodeagent/firewall/program"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
	"github.com/patchbay-dev/patchbay/test/netlab"
	"github.com/patchbay-dev/patchbay/test/sandbox"
)

// TestInputs has what Inputs tells, which docs/rulesets.md shows, make the same
// rules as a backend that applies the same objects, rules of openings too.
func TestInputs(t *testing.T) {
	if !sandbox.Enter(t) {
		return
	}
	cases := []struct {
		kind    string
		make    func(testing.TB) Backend
		objects []netstate.Object
		list    func(testing.TB) string
	}{
		{KindNFTables, func(t testing.TB) Backend { return backend(t, netstate.SourceLocal) }, append(firewalltest.List(firewalltest.Rich()), firewalltest.OpeningsOf("br-red")...), firewalltest.Ruleset},
		{KindIPTables, func(t testing.TB) Backend { return ipBackend(t, "", Options{Source: netstate.SourceLocal}) }, firewalltest.List(richIP()), ipRulesets},
	}
	for _, c := range cases {
		t.Run(c.kind, func(t *testing.T) {
			emptied(t)
			b := c.make(t)
			firewalltest.Apply(t, b, firewalltest.Creates(c.objects...))
			want := c.list(t)
			firewalltest.Apply(t, b, firewalltest.Deletes(c.objects...))
			firewalltest.Same(t, "what is left", "", firewall(t))

			inputs, err := Inputs(c.kind, netstate.SourceLocal, c.objects)
			if err != nil {
				t.Fatal(err)
			}
			feed(t, inputs)
			firewalltest.Same(t, "loaded", want, c.list(t))
			feed(t, lacking(inputs, "br-red"))
			if got := c.list(t); got == want {
				t.Error("other inputs make the same rules")
			}
		})
	}
}

// feed runs the programs with what they read, where nothing is.
func feed(t *testing.T, inputs []program.Input) {
	t.Helper()
	emptied(t)
	for _, in := range inputs {
		switch in.Program {
		case "nft":
			pipe(t, in.Text, in.Program, "-f", "-")
		default:
			for _, text := range inTransactions(in.Text) {
				pipe(t, text, in.Program, "--noflush")
			}
		}
	}
}

func pipe(t *testing.T, text, program string, args ...string) {
	t.Helper()
	cmd := exec.Command(program, args...)
	cmd.Stdin = strings.NewReader(text)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v: %s", program, err, out)
	}
}

// inTransactions splits the input of iptables-restore where a user namespace takes no
// more, as the backend does; chains come with the first part of a table.
func inTransactions(text string) []string {
	var out []string
	for table := range strings.SplitSeq(strings.TrimSuffix(text, "COMMIT\n"), "COMMIT\n") {
		lines := strings.Split(strings.TrimSuffix(table, "\n"), "\n")
		for part := range slices.Chunk(lines[1:], 150) {
			out = append(out, lines[0]+"\n"+strings.Join(part, "\n")+"\nCOMMIT\n")
		}
	}
	return out
}

// lacking leaves out the lines that name a word.
func lacking(inputs []program.Input, word string) []program.Input {
	lines := regexp.MustCompile(`(?m)^.*\b` + regexp.QuoteMeta(word) + `\b.*\n`)
	out := slices.Clone(inputs)
	for i := range out {
		out[i].Text = lines.ReplaceAllString(out[i].Text, "")
	}
	return out
}

// emptied leaves no rule in the firewall, of whichever variant iptables is.
func emptied(t *testing.T) {
	t.Helper()
	netlab.Shell(t, "for f in iptables ip6tables; do for t in raw filter nat; do $f -t $t -F; $f -t $t -X; done; done; nft flush ruleset")
}

func ipRulesets(t testing.TB) string {
	t.Helper()
	return tableLines.ReplaceAllString(netlab.Shell(t, "for f in iptables ip6tables; do echo $f; for t in raw filter nat; do $f-save -t $t; done; done"), "")
}

func TestInputsRefuse(t *testing.T) {
	wrong := netstate.LinkPolicy{Link: "a b"}
	filter := netstate.PortFilter{Link: "veth1", MAC: firewalltest.MacA}
	for _, c := range []struct {
		kind   string
		object netstate.Object
		says   string
	}{
		{KindNFTables, wrong, `interface name "a b"`},
		{KindIPTables, wrong, `interface name "a b"`},
		{KindIPTables, filter, "cannot hold"},
		{KindAuto, netstate.LinkPolicy{Link: "br-red"}, "unknown kind"},
	} {
		_, err := Inputs(c.kind, netstate.SourceLocal, []netstate.Object{c.object})
		if err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s, %s: %v", c.kind, c.object.Key(), err)
		}
	}
	if _, err := Inputs(KindNFTables, netstate.SourceLocal, []netstate.Object{filter}); err != nil {
		t.Error(err)
	}
}
