package main

import (
	"os"
	"strings"
	"testing"

	"github.com/patchbay-dev/patchbay/nodeagent/firewall/program"
)

// missing are the scenarios that build something in the firewall and do not say
// what the page shows of them.
func missing(t *testing.T, scenarios ...scenario) (names []string) {
	t.Helper()
	for _, s := range scenarios {
		wires, err := s.wires("../..")
		if err != nil {
			t.Fatal(err)
		}
		if wires && len(s.shown) == 0 {
			names = append(names, s.name)
		}
	}
	return names
}

func TestScenariosAreShown(t *testing.T) {
	scenarios, err := readScenarios("../..")
	if err != nil {
		t.Fatal(err)
	}
	if names := missing(t, scenarios...); len(names) > 0 {
		t.Errorf("without a line such as \"# rules: net.yaml\": %s", strings.Join(names, ", "))
	}
	if names := missing(t, parseScenario("lo", []byte("cp $SAMPLES/loopback-only.yaml lo.yaml\n"))); len(names) > 0 {
		t.Errorf("a loopback is missed: %s", names)
	}
	for _, text := range []string{
		"patchbay apply -f net.yaml\n-- net.yaml --\napiVersion: x\nkind: BridgeNetwork\n",
		"-- manifests/net.yaml --\nkind: PortPublish\n",
		"-- p2p.yaml --\nspec:\n  pointToPoint: {host: {addresses: [10.0.0.1/24]}}\n",
		"-- p2p.yaml --\nspec:\n  pointToPoint:\n    host: {addresses: [10.0.0.1/24]}\n",
		"cp $SAMPLES/quickstart.yaml net.yaml\n",
	} {
		if len(missing(t, parseScenario("without", []byte(text)))) != 1 {
			t.Errorf("not missed:\n%s", text)
		}
		if len(missing(t, parseScenario("with", []byte("# rules: net.yaml\n"+text)))) != 0 {
			t.Errorf("missed:\n%s", text)
		}
	}
}

// TestPageOfScenario has a page made, and refused where a line is wrong.
func TestPageOfScenario(t *testing.T) {
	const text = `# 99. Something
# to see.
# rules: %
-- net.yaml --
apiVersion: patchbay.dev/v1alpha1
kind: BridgeNetwork
metadata: {name: red}
spec: {subnets: [10.1.0.0/24]}
-- lo.yaml --
apiVersion: patchbay.dev/v1alpha1
kind: NamespaceAttachment
metadata: {name: net1, namespace: lab}
spec: {target: {netns: {name: net1}}}
-- overlap.yaml --
apiVersion: patchbay.dev/v1alpha1
kind: BridgeNetwork
metadata: {name: blue}
spec: {subnets: [10.1.0.0/16]}
`
	for line, says := range map[string]string{
		"net.yaml":                            "",
		"net.yaml forward=drop":               "",
		"other.yaml":                          "no file other.yaml",
		"lo.yaml":                             "nothing in the firewall",
		"net.yaml overlap.yaml":               "is taken by",
		"net.yaml forward=open":               "forward=open",
		"net.yaml firewall=off":               "firewall=off",
		"net.yaml address=br0":                "address=br0",
		"net.yaml way=wan2":                   "way=wan2",
		"net.yaml way=wan2,203.0.113.4":       "",
		"net.yaml address=br-red,10.1.0.9/24": "",
	} {
		p := newPage(t)
		got, err := p.section(parseScenario("99-something", []byte(strings.Replace(text, "%", line, 1))))
		if says != "" {
			if err == nil || !strings.Contains(err.Error(), says) {
				t.Errorf("%s: %v\n%s", line, err, got)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", line, err)
		}
		for _, want := range []string{
			"[99. Something to see.](../test/scenarios/99-something.txtar)",
			"BridgeNetwork red: {subnets: [10.1.0.0/24]}",
			`add element inet patchbay ours { "br-red" comment "local" }`,
			`-A PATCHBAY-REALM -o br-red -m comment --comment "patchbay:local:isolation br-red" -g PATCHBAY-INTO`,
		} {
			if !strings.Contains(got, want) {
				t.Errorf("%s: lacks %s:\n%s", line, want, got)
			}
		}
		if opened := strings.Contains(got, "PATCHBAY_OPENINGS -i br-red"); opened != strings.Contains(line, "drop") {
			t.Errorf("%s: opened is %t", line, opened)
		}
	}
}

func newPage(t *testing.T) page {
	t.Helper()
	p, err := openPage("../..")
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// TestConstants: lines that are shown as constant must be the same in every input.
func TestConstants(t *testing.T) {
	inputs := func(add string) []program.Input {
		return []program.Input{
			{Program: "nft", Text: "add table inet patchbay\nadd chain inet patchbay forward\n" + add},
			{Program: "iptables-restore", Text: "*nat\n:PATCHBAY-ANY - [0:0]\n" + strings.ReplaceAll(add, "add rule", "-A") + "COMMIT\n"},
		}
	}
	p := newPage(t)
	for _, again := range []string{"", "add element inet patchbay ours { \"br-red\" }\n"} {
		if _, err := p.own(inputs(again)[:1]); err != nil {
			t.Error(err)
		}
	}
	if _, err := p.own(inputs("")); err != nil {
		t.Error(err)
	}
	for i, in := range inputs("add rule inet patchbay forward drop\n") {
		if _, err := p.own([]program.Input{in}); err == nil {
			t.Errorf("input %d of another rule is taken", i)
		}
	}
}

// TestPageIsGenerated is the same as make verify does, for who changes a rule.
func TestPageIsGenerated(t *testing.T) {
	want, err := rulesets("../..")
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile("../../docs/rulesets.md")
	if err != nil {
		t.Fatal(err)
	}
	if want != string(got) {
		t.Error("docs/rulesets.md is stale: run hack/generate.sh and commit the result")
	}
}
