package bench

import (
	"context"
	"fmt"
	"io"
	"math"
	"net"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/patchbay-dev/patchbay/api/v1alpha1"
	"github.com/patchbay-dev/patchbay/nodeagent/engine"
	"github.com/patchbay-dev/patchbay/test/netlab"
	"github.com/patchbay-dev/patchbay/test/sandbox"
)

const (
	// settling: the burst is spent then, and TCP has filled the gaps that slow start
	// left: what waited behind one is read at once.
	settling  = 3 * time.Second
	measuring = 3 * time.Second
	// tolerated is so much that a busy machine does not fail.
	tolerated = 0.30
	// payload is what TCP has of a full frame, which is what the limit counts.
	payload = 1448.0 / 1514.0
)

// BenchmarkBandwidth measures what one TCP connection carries through a limit,
// in both directions, the rate being edited on the live interface.
func BenchmarkBandwidth(b *testing.B) {
	if !sandbox.Enter(b) {
		return
	}
	for b.Loop() {
		e := newEngine(b)
		fmt.Printf("\n  limit        to the target            from the target      (frames of one TCP connection)\n")
		for _, mbits := range []int64{5, 20, 100, 500} {
			wanted := float64(mbits) * 1e6
			limitTo(b, e, mbits)
			in, out := measure(b, netlab.Node, "net1", "10.68.0.2:9000"), measure(b, "net1", netlab.Node, "10.68.0.1:9000")
			fmt.Printf("  %3d Mbit/s   %6.1f Mbit/s %+6.1f %%    %6.1f Mbit/s %+6.1f %%\n", mbits, in/1e6, (in/wanted-1)*100, out/1e6, (out/wanted-1)*100)
			for _, got := range []float64{in, out} {
				if math.Abs(got/wanted-1) > tolerated {
					b.Errorf("%.1f Mbit/s through a limit of %d", got/1e6, mbits)
				}
			}
		}
	}
}

func limitTo(b *testing.B, e *engine.Engine, mbits int64) {
	rate := resource.NewScaledQuantity(mbits, resource.Mega)
	yes := metav1.Condition{Type: v1alpha1.ConditionAccepted, Status: metav1.ConditionTrue}
	e.Set(engine.Input{Accepted: yes, Network: &v1alpha1.BridgeNetwork{
		ObjectMeta: metav1.ObjectMeta{Name: "red"},
		Spec:       v1alpha1.BridgeNetworkSpec{Subnets: []v1alpha1.Subnet{"10.68.0.0/16"}},
	}})
	e.Set(engine.Input{Accepted: yes, Attachment: &v1alpha1.NamespaceAttachment{
		ObjectMeta: metav1.ObjectMeta{Namespace: "lab", Name: "net1"},
		Spec: v1alpha1.NamespaceAttachmentSpec{
			Target:    v1alpha1.AttachmentTarget{Netns: &v1alpha1.NetnsTarget{Name: "net1", Lifecycle: v1alpha1.Managed}},
			Network:   "red",
			Addresses: []v1alpha1.Subnet{"10.68.0.2/16"},
			Bandwidth: &v1alpha1.Bandwidth{IngressRate: rate, EgressRate: rate},
		},
	}})
	statuses, err := e.RunOnce(context.Background(), time.Minute, nil)
	if err != nil {
		b.Fatal(err)
	}
	for _, s := range statuses {
		if s.Ready.Status != metav1.ConditionTrue {
			b.Fatalf("%s: %s", s.Owner, s.Ready.Message)
		}
	}
}

// measure sends from one namespace to another and returns the bits of frames a second.
func measure(b *testing.B, from, to netlab.Netns, addr string) float64 {
	client, server, err := netlab.Join(from, to, addr, addr)
	if err != nil {
		b.Fatal(err)
	}
	defer client.Close()
	defer server.Close()
	go func() { _, _ = io.Copy(client, endless{}) }()
	readFor(b, server, settling)
	start := time.Now()
	n := readFor(b, server, measuring)
	return float64(n) * 8 / time.Since(start).Seconds() / payload
}

// readFor reads for a while and returns how many bytes came.
func readFor(b *testing.B, conn net.Conn, d time.Duration) int {
	count := 0
	buf := make([]byte, 64<<10)
	for start := time.Now(); time.Since(start) < d; {
		n, err := conn.Read(buf)
		if err != nil {
			b.Fatal(err)
		}
		count += n
	}
	return count
}

type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }
