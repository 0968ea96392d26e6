package cluster

import (
	"context"
	"fmt"
	"os"
	"strings"
)

// sandboxTool is hack/sandbox in the nodes, which have no crictl.
const sandboxTool = "/usr/local/bin/sandbox"

// StopSandbox stops the running sandbox of a pod as `crictl stopp` does, and
// returns its ID. The kubelet starts another for the same pod.
func (c *Cluster) StopSandbox(ctx context.Context, node, podUID string) (string, error) {
	if err := c.giveSandboxTool(ctx, node); err != nil {
		return "", err
	}
	out, err := c.Exec(ctx, node, nil, sandboxTool, "stop", podUID)
	return strings.TrimSpace(out), err
}

// Sandboxes returns the IDs of the sandboxes that run on a node.
func (c *Cluster) Sandboxes(ctx context.Context, node string) ([]string, error) {
	if err := c.giveSandboxTool(ctx, node); err != nil {
		return nil, err
	}
	out, err := c.Exec(ctx, node, nil, sandboxTool, "list")
	return strings.Fields(out), err
}

// giveSandboxTool puts the tool into a node, once: that of an earlier build may be
// there.
func (c *Cluster) giveSandboxTool(ctx context.Context, node string) error {
	if c.withSandboxTool[node] {
		return nil
	}
	file, err := c.engine.build(ctx, "sandbox", "./hack/sandbox")
	if err != nil {
		return fmt.Errorf("build hack/sandbox: %w", err)
	}
	program, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	if err := c.WriteFile(ctx, node, sandboxTool, program); err != nil {
		return err
	}
	if _, err := c.Exec(ctx, node, nil, "chmod", "+x", sandboxTool); err != nil {
		return err
	}
	c.withSandboxTool[node] = true
	return nil
}
