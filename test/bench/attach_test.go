// Package bench measures Patchbay beside something else in the same run: the
// bare cost of the same kernel objects, and the CNI reference plugins. Its
// figures are ratios; nothing here passes or fails by time.
package bench

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/patchbay-dev/patchbay/api/v1alpha1"
	"github.com/patchbay-dev/patchbay/nodeagent/engine"
	"github.com/patchbay-dev/patchbay/nodeagent/firewall"
	"github.com/patchbay-dev/patchbay/nodeagent/kernel"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
	"github.com/patchbay-dev/patchbay/nodeagent/plan"
	"github.com/patchbay-dev/patchbay/test/sandbox"
)

const attachments = 200

// BenchmarkAttach builds and removes 200 attachments with 200 publishes, and
// the same kernel objects bare.
func BenchmarkAttach(b *testing.B) {
	if !sandbox.Enter(b) {
		return
	}
	for b.Loop() {
		bareBuild, bareRemove := bare(b)
		awaitCleanup(b)
		build, remove := patchbay(b)
		awaitCleanup(b)
		per := func(d time.Duration) string { return (d / attachments).Round(time.Microsecond).String() }
		fmt.Printf("\n%d attachments with %d publishes, time per attachment:\n"+
			"          patchbay   bare kernel   ratio\n"+
			"  build   %8s   %11s   %5.2f\n"+
			"  remove  %8s   %11s   %5.2f\n"+
			"  both    %8s   %11s   %5.2f\n", attachments, attachments,
			per(build), per(bareBuild), float64(build)/float64(bareBuild),
			per(remove), per(bareRemove), float64(remove)/float64(bareRemove),
			per(build+remove), per(bareBuild+bareRemove), float64(build+remove)/float64(bareBuild+bareRemove))
		b.ReportMetric(float64(build)/float64(bareBuild), "build/bare")
		b.ReportMetric(float64(remove)/float64(bareRemove), "remove/bare")
	}
}

type quiet struct{}

func (quiet) Report(engine.Status)                    {}
func (quiet) Removed(netstate.Owner)                  {}
func (quiet) Changed(netstate.Owner, plan.Line, bool) {}
func (quiet) Braked(gone, total int, until time.Time) {}
func (quiet) Keep(netstate.Owner, []netstate.Key)     {}

// patchbay lets the engine build and remove, from the first Set to the last
// object in the kernel.
func patchbay(b *testing.B) (build, remove time.Duration) {
	e := newEngine(b)
	inputs := resources()
	start := time.Now()
	for _, in := range inputs {
		e.Set(in)
	}
	statuses, err := e.RunOnce(context.Background(), time.Minute, nil)
	if err != nil {
		b.Fatal(err)
	}
	build = time.Since(start)
	for _, s := range statuses {
		if s.Ready.Status != metav1.ConditionTrue {
			b.Fatalf("%s: %s", s.Owner, s.Ready.Message)
		}
	}
	start = time.Now()
	for _, in := range inputs {
		e.Remove(in)
	}
	if _, err := e.RunOnce(context.Background(), time.Minute, nil); err != nil {
		b.Fatal(err)
	}
	if err := e.Left(); err != nil {
		b.Fatal(err)
	}
	return build, time.Since(start)
}

func newEngine(b *testing.B) *engine.Engine {
	k, err := kernel.Open(kernel.Options{Source: netstate.SourceLocal, NodeName: "bench", RunDir: "/run"})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = k.Close() })
	n, err := firewall.New("nftables", firewall.Options{Source: netstate.SourceLocal})
	if err != nil {
		b.Fatal(err)
	}
	return engine.New(engine.Options{Source: netstate.SourceLocal, Kernel: k, Firewall: n, Reporter: quiet{}, Log: slog.New(slog.NewTextHandler(io.Discard, nil))})
}

func resources() []engine.Input {
	yes := metav1.Condition{Type: v1alpha1.ConditionAccepted, Status: metav1.ConditionTrue}
	in := []engine.Input{{Accepted: yes, Network: &v1alpha1.BridgeNetwork{
		ObjectMeta: metav1.ObjectMeta{Name: "red"},
		Spec:       v1alpha1.BridgeNetworkSpec{Subnets: []v1alpha1.Subnet{"10.68.0.0/16"}},
	}}}
	for i := range attachments {
		name := fmt.Sprintf("a%03d", i)
		in = append(in,
			engine.Input{Accepted: yes, Attachment: &v1alpha1.NamespaceAttachment{
				ObjectMeta: metav1.ObjectMeta{Namespace: "lab", Name: name},
				Spec: v1alpha1.NamespaceAttachmentSpec{
					Target:  v1alpha1.AttachmentTarget{Netns: &v1alpha1.NetnsTarget{Name: v1alpha1.NetnsName(name), Lifecycle: v1alpha1.Managed}},
					Network: "red",
				},
			}},
			engine.Input{Accepted: yes, Publish: &v1alpha1.PortPublish{
				ObjectMeta: metav1.ObjectMeta{Namespace: "lab", Name: name},
				Spec:       v1alpha1.PortPublishSpec{Attachment: name, Ports: []v1alpha1.PublishedPort{{Protocol: v1alpha1.TCP, HostPort: int32(10000 + i), TargetPort: 80}}},
			}})
	}
	return in
}

// address is the i-th attachment's.
func address(i int) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 68, byte((i + 2) >> 8), byte(i + 2)}), 16)
}
