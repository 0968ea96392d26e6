package cli

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/patchbay-dev/patchbay/test/netlab"
	"github.com/patchbay-dev/patchbay/test/sandbox"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// TestPlan compares what `patchbay plan` prints for every sample with
// testdata/plan: this is what a person reads before anything happens.
func TestPlan(t *testing.T) {
	golden, err := filepath.Abs("testdata/plan")
	if err != nil {
		t.Fatal(err)
	}
	if !sandbox.Enter(t) {
		return
	}
	// The uplink sample joins eth1; br_netfilter changes the plan where it is.
	netlab.Shell(t, "ip link add eth1 type veth peer name lan1 && ip link set eth1 up")
	netlab.Shell(t, "sysctl -qw net.bridge.bridge-nf-call-iptables=0 net.bridge.bridge-nf-call-ip6tables=0 2>/dev/null || true")
	samples, err := filepath.Glob("../../config/samples/*.yaml")
	if err != nil || len(samples) == 0 {
		t.Fatalf("samples: %v %v", samples, err)
	}
	for _, sample := range samples {
		t.Run(filepath.Base(sample), func(t *testing.T) {
			code, out, errs := run("plan", "-f", sample, "--node-name", "node1")
			if code != 2 {
				t.Fatalf("exit code %d, want 2\n%s%s", code, out, errs)
			}
			compare(t, filepath.Join(golden, strings.TrimSuffix(filepath.Base(sample), ".yaml")+".txt"), out)
		})
	}
}

func run(args ...string) (code int, out, errs string) {
	var stdout, stderr bytes.Buffer
	code = Run(Options{Args: args, Stdin: strings.NewReader(""), Stdout: &stdout, Stderr: &stderr})
	return code, stdout.String(), stderr.String()
}

func compare(t *testing.T, file, got string) {
	t.Helper()
	if *update || os.Getenv("PATCHBAY_UPDATE") != "" {
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), got); d != "" {
		t.Fatalf("%s (-want +got):\n%s", file, d)
	}
}
