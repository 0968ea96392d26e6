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
	file, err := c.engine.build(ctx, "sandbox", "./hack/sandbox")
	if err != nil {
		return "", fmt.Errorf("build hack/sandbox: %w", err)
	}
	program, err := os.ReadFile(file)
	if err != nil {
		return "", err
	}
	if err := c.WriteFile(ctx, node, sandboxTool, program); err != nil {
		return "", err
	}
	out, err := c.Exec(ctx, node, nil, "sh", "-ec", `chmod +x "$0"; "$0" "$1"`, sandboxTool, podUID)
	return strings.TrimSpace(out), err
}
