package engine

import (
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/patchbay-dev/patchbay/api/v1alpha1"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
	"github.com/patchbay-dev/patchbay/nodeagent/plan"
)

// TestObservedSaysWhatTheAgentSays compares what the kernel tells, what the record says
// and who wrote that, with what status says.
func TestObservedSaysWhatTheAgentSays(t *testing.T) {
	fine, drifted := plan.Group{}, plan.Group{Steps: []plan.Step{{Op: plan.Create, Key: netstate.Link{Name: "br-red"}.Key(), New: netstate.Link{Name: "br-red"}}}}
	for name, c := range map[string]struct {
		record   string
		computed string
		group    plan.Group
		mend     bool
		last     Teller
		want     string
	}{
		"unseen, nothing said":           {"", "KernelError", fine, false, Agent, "False KernelError"},
		"as it was":                      {"Programmed", "Programmed", fine, false, Agent, "True Programmed"},
		"a note":                         {"Programmed", "HostPortConflict", fine, false, Agent, "True HostPortConflict"},
		"drift":                          {"Programmed", "Programmed", drifted, false, Agent, "False Pending"},
		"rules astray":                   {"Programmed", "Programmed", fine, true, Agent, "False Pending"},
		"failed, and tried again":        {"KernelError", "Programmed", fine, false, Agent, "False KernelError"},
		"failed, and still to do":        {"KernelError", "Programmed", drifted, false, Agent, "False KernelError"},
		"failed, ended, mended by hand":  {"KernelError", "Programmed", fine, false, Command, "True Programmed"},
		"failed, ended, and still to do": {"KernelError", "Programmed", drifted, false, Command, "False KernelError"},
		"refused for another reason":     {"KernelError", "SubnetOverlap", fine, false, Agent, "False KernelError"},
		"refused since":                  {"Programmed", "SubnetOverlap", fine, false, Agent, "False SubnetOverlap"},
		"refused, ended":                 {"KernelError", "SubnetOverlap", fine, false, Command, "False SubnetOverlap"},
		"no record":                      {"", "Programmed", fine, false, Agent, "True Programmed"},
	} {
		t.Run(name, func(t *testing.T) {
			n := &v1alpha1.BridgeNetwork{}
			if c.record != "" {
				n.Status.Conditions = []metav1.Condition{readyFor(c.record)}
			}
			seen := Planned{Group: c.group, Mend: c.mend, Status: &Status{Input: Input{Network: n}, Ready: readyFor(c.computed)}}
			if got := seen.Observed(c.last).Ready; string(got.Status)+" "+got.Reason != c.want {
				t.Errorf("%s %s: %s, want %s", got.Status, got.Reason, got.Message, c.want)
			}
		})
	}
}

func readyFor(reason string) metav1.Condition {
	c := metav1.Condition{Type: v1alpha1.ConditionReady, Status: metav1.ConditionTrue, Reason: reason}
	if reason == v1alpha1.ReasonKernelError || reason == v1alpha1.ReasonSubnetOverlap {
		c.Status = metav1.ConditionFalse
	}
	return c
}

// TestObservedOfAnUnseenFirewall has status repeat the agent, which hears of changes,
// and no other process.
func TestObservedOfAnUnseenFirewall(t *testing.T) {
	n := &v1alpha1.BridgeNetwork{}
	n.Status.Conditions = []metav1.Condition{readyFor("Programmed")}
	p := Planned{Unseen: true, Status: &Status{Input: Input{Network: n}, Ready: readyFor("KernelError")}}
	for last, want := range map[Teller]string{Agent: "Programmed", Command: "KernelError"} {
		if got := p.Observed(last).Ready.Reason; got != want {
			t.Errorf("last told by %s: %s, want %s", last, got, want)
		}
	}
	p.Steps = []plan.Step{{Op: plan.Create, Key: netstate.Link{Name: "br-red"}.Key()}}
	if got := p.Observed(Agent).Ready.Reason; got != "KernelError" {
		t.Errorf("with a link missing: %s", got)
	}
}
