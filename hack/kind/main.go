// Command kind brings the cluster of the e2e tests up and down; see
// test/e2e/cluster.
//
//	go run ./hack/kind up     a cluster with Patchbay's image in its nodes
//	go run ./hack/kind down   no cluster, and no Docker engine that up started
//	go run ./hack/kind image  Patchbay's image alone
//	go run ./hack/kind env    what a shell must set for kubectl and docker
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"syscall"

	"github.com/patchbay-dev/patchbay/test/e2e/cluster"
)

func main() {
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer cancel()
	if err := do(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

func do(ctx context.Context, args []string) error {
	what := ""
	if len(args) > 0 {
		what = args[0]
	}
	switch what {
	case "up":
		return up(ctx)
	case "down":
		return cluster.Down(ctx, say)
	case "image":
		return cluster.BuildImage(ctx, say)
	case "env":
		return env(ctx)
	case "forward":
		// How test/e2e/cluster starts the process behind the API server's port.
		if len(args) == 2 {
			port, err := strconv.Atoi(args[1])
			if err != nil {
				return err
			}
			return cluster.Forward(ctx, port)
		}
	}
	return fmt.Errorf("unknown command %q: it is one of up, down, image, env", what)
}

func say(format string, args ...any) { fmt.Fprintf(os.Stderr, "kind: "+format+"\n", args...) }

func up(ctx context.Context) error {
	c, err := cluster.Up(ctx, say)
	if err != nil {
		return err
	}
	if err := c.BuildImage(ctx); err != nil {
		return err
	}
	if err := c.LoadImage(ctx, cluster.Image); err != nil {
		return err
	}
	fmt.Println("To use it:")
	printEnvironment(c)
	return nil
}

func env(ctx context.Context) error {
	c, err := cluster.Find(ctx)
	if err != nil {
		return err
	}
	printEnvironment(c)
	return nil
}

func printEnvironment(c *cluster.Cluster) {
	for _, setting := range c.Environment() {
		fmt.Println("export " + setting)
	}
	// A machine's own kubectl may be years older than the cluster.
	fmt.Printf("export PATH=%s:$PATH\n", filepath.Dir(c.KubectlPath()))
}
