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
	if err := bringUp(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

func bringUp(ctx context.Context) (err error) {
	kind, err = cluster.Up(ctx, func(format string, args ...any) {
		fmt.Fprintf(os.Stderr, "kind: "+format+"\n", args...)
	})
	if err != nil {
		return err
	}
	if err := kind.BuildImage(ctx); err != nil {
		return err
	}
	return kind.LoadImage(ctx, cluster.Image)
}
