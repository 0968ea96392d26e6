//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"os"
	"testing"

	"github.com/patchbay-dev/patchbay/test/e2e/cluster"
)

// kind is the cluster of all tests here. It is left running for the next run.
var kind *cluster.Cluster

func TestMain(m *testing.M) {
	ctx := context.Background()
	if err := bringUp(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
	if err := install(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "error: install:", err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

func bringUp(ctx context.Context) (err error) {
	kind, err = cluster.Up(ctx, say)
	if err != nil {
		return err
	}
	if err := kind.BuildImage(ctx); err != nil {
		return err
	}
	if err := kind.LoadImage(ctx, cluster.Image); err != nil {
		return err
	}
	server, err := os.ReadFile("../../bin/httpd")
	if err != nil {
		return fmt.Errorf("read the tests' HTTP server (make test-e2e builds it): %w", err)
	}
	for _, node := range cluster.Nodes() {
		if err := kind.WriteFile(ctx, node, httpd, server); err != nil {
			return err
		}
		if _, err := kind.Exec(ctx, node, nil, "chmod", "+x", httpd); err != nil {
			return err
		}
	}
	return nil
}

// httpd is the tests' HTTP server in the nodes.
const httpd = "/usr/local/bin/httpd"

func say(format string, args ...any) { fmt.Fprintf(os.Stderr, "kind: "+format+"\n", args...) }

// install follows the README, on a cluster that has nothing of Patchbay: what an
// earlier run left is taken away first.
func install(ctx context.Context) error {
	for _, args := range [][]string{
		{"delete", "--ignore-not-found", "-k", "../../config/default"},
		{"apply", "-k", "../../config/crd"},
		{"apply", "-k", "../../config/default"},
		{"-n", "patchbay-system", "rollout", "status", "--timeout=120s", "deploy/patchbay-controller"},
		{"-n", "patchbay-system", "rollout", "status", "--timeout=120s", "ds/patchbay-agent"},
	} {
		out, err := kind.Kubectl(ctx, nil, args...)
		if err != nil {
			return fmt.Errorf("%w\n%s", err, out)
		}
	}
	return nil
}
