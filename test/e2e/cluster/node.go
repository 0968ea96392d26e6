package cluster

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
)

// Exec runs a command in a node and returns what it prints. stdin may be nil.
// The error holds its exit code and standard error; see ExitError.
func (c *Cluster) Exec(ctx context.Context, node string, stdin []byte, command ...string) (string, error) {
	cmd := Command(ctx, node, command...)
	if stdin != nil {
		cmd.Stdin = bytes.NewReader(stdin)
	}
	return output(cmd)
}

// Command prepares a command in a node, for what runs while a test goes on.
func Command(ctx context.Context, node string, command ...string) *exec.Cmd {
	return exec.CommandContext(ctx, "docker", append([]string{"exec", "-i", node}, command...)...)
}

// WriteFile writes a file of a node, whole or not at all.
func (c *Cluster) WriteFile(ctx context.Context, node, file string, content []byte) error {
	_, err := c.Exec(ctx, node, content, "sh", "-ec", `mkdir -p "$1"; cat >"$2.part"; mv "$2.part" "$2"`, "sh", path.Dir(file), file)
	return err
}

// Restart restarts a node as a reboot would, and returns when it is Ready again.
func (c *Cluster) Restart(ctx context.Context, node string) error {
	if err := c.engine.do(ctx, "restart", node); err != nil {
		return err
	}
	return c.WaitReady(ctx, node)
}

// Start switches a node on, and returns when it is Ready.
func (c *Cluster) Start(ctx context.Context, node string) error {
	if err := c.engine.do(ctx, "start", node); err != nil {
		return err
	}
	return c.WaitReady(ctx, node)
}

// WaitReady waits until each of the nodes has reported Ready since it was
// started, two minutes at most.
func (c *Cluster) WaitReady(ctx context.Context, nodes ...string) error {
	for _, node := range nodes {
		if err := until(ctx, 2*time.Minute, func() error { return c.ready(ctx, node) }); err != nil {
			return err
		}
	}
	return nil
}

// ready compares the report with the start of the node, since the API server
// goes on calling a node Ready for a while after it is gone.
func (c *Cluster) ready(ctx context.Context, node string) error {
	text, err := c.engine.docker(ctx, "inspect", "--format", "{{.State.StartedAt}}", node)
	if err != nil {
		return err
	}
	started, err := time.Parse(time.RFC3339Nano, strings.TrimSpace(text))
	if err != nil {
		return err
	}
	const condition = `{range .status.conditions[?(@.type=="Ready")]}{.status} {.lastHeartbeatTime}{end}`
	report, err := c.Kubectl(ctx, nil, "get", "node", node, "--request-timeout=5s", "-o", "jsonpath="+condition)
	if err != nil {
		return err
	}
	status, at, _ := strings.Cut(report, " ")
	reported, err := time.Parse(time.RFC3339, at)
	// Reports bear whole seconds.
	if err != nil || status != "True" || reported.Before(started.Truncate(time.Second)) {
		return fmt.Errorf("node %s, started at %s, has not reported Ready: its last report is %q", node, started.Format(time.TimeOnly), report)
	}
	return nil
}

// Stop switches a node off.
func (c *Cluster) Stop(ctx context.Context, node string) error { return c.engine.do(ctx, "stop", node) }

// Pause freezes all processes of a node.
func (c *Cluster) Pause(ctx context.Context, node string) error {
	return c.engine.do(ctx, "pause", node)
}

// Unpause lets them go on.
func (c *Cluster) Unpause(ctx context.Context, node string) error {
	return c.engine.do(ctx, "unpause", node)
}

// LoadImage copies an image of the Docker engine into all nodes that do not
// have it, for pods that name it with imagePullPolicy Never or IfNotPresent.
func (c *Cluster) LoadImage(ctx context.Context, image string) error {
	id, err := c.engine.docker(ctx, "image", "inspect", "--format", "{{.Id}}", image)
	if err != nil {
		return err
	}
	id = strings.TrimSpace(id)
	// containerd knows the image by another digest; hence a note of its own.
	note := "/var/lib/patchbay-images/" + strings.NewReplacer("/", "_", ":", "_").Replace(image)
	var missing []string
	for _, node := range Nodes() {
		if have, err := c.Exec(ctx, node, nil, "cat", note); err != nil || have != id {
			missing = append(missing, node)
		}
	}
	if len(missing) == 0 {
		c.progress("image %s is in all nodes already", image)
		return nil
	}
	c.progress("loading image %s into %s", image, strings.Join(missing, ", "))
	archive := c.engine.state("image.tar")
	defer func() { _ = os.Remove(archive) }()
	if err := c.engine.do(ctx, "save", "-o", archive, image); err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	for _, node := range missing {
		group.Go(func() error {
			if err := c.importImage(ctx, node, archive); err != nil {
				return fmt.Errorf("load image %s into %s: %w", image, node, err)
			}
			return c.WriteFile(ctx, node, note, []byte(id))
		})
	}
	return group.Wait()
}

func (c *Cluster) importImage(ctx context.Context, node, archive string) error {
	file, err := os.Open(archive)
	if err != nil {
		return err
	}
	defer file.Close()
	cmd := Command(ctx, node, "ctr", "--namespace=k8s.io", "images", "import", "--all-platforms", "--digests", "-")
	cmd.Stdin = file
	_, err = output(cmd)
	return err
}
