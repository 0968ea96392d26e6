// Package cluster brings up the cluster of the e2e tests: kind with one control
// plane and two workers, on the machine's Docker engine or on one of its own,
// with kindest/node or, where no registry is reached, with a node image built
// from Debian packages and Go modules (hack/kind).
//
// Images and programs are built once per machine, into patchbay/kind of the user's
// cache folder.
package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	kind "sigs.k8s.io/kind/pkg/cluster"
)

// name is the cluster's in kind; nodes' names begin with it.
const name = "patchbay"

// The nodes, as kind names them.
const (
	ControlPlane = name + "-control-plane"
	Worker       = name + "-worker"
	Worker2      = name + "-worker2"
)

// Nodes returns the names of all nodes, the control plane's first.
func Nodes() []string { return []string{ControlPlane, Worker, Worker2} }

// Progress is told of each step, in whole lines.
type Progress func(format string, args ...any)

// Cluster is a cluster that runs.
type Cluster struct {
	engine   *engine
	progress Progress
	// withSandboxTool are the nodes that have it of this build.
	withSandboxTool map[string]bool
}

func newCluster(e *engine, progress Progress) *Cluster {
	return &Cluster{engine: e, progress: progress, withSandboxTool: map[string]bool{}}
}

// Up returns the running cluster, bringing up what of it is missing: a Docker
// engine, the node image, the cluster, nodes that were stopped. It returns when
// all nodes are Ready.
func Up(ctx context.Context, progress Progress) (*Cluster, error) {
	e, err := startEngine(ctx, progress)
	if err != nil {
		return nil, err
	}
	c := newCluster(e, progress)
	provider := kind.NewProvider(kind.ProviderWithDocker(), kind.ProviderWithLogger(logger{progress}))
	clusters, err := provider.List()
	if err != nil {
		return nil, fmt.Errorf("list kind clusters: %w", err)
	}
	start := time.Now()
	if slices.Contains(clusters, name) {
		if err := c.resume(ctx, provider); err != nil {
			return nil, fmt.Errorf("take up cluster %s (make kind-down removes a broken one): %w", name, err)
		}
		progress("cluster %s is there already", name)
		return c, nil
	}
	if err := c.create(ctx, provider); err != nil {
		return nil, err
	}
	progress("cluster %s is up after %s", name, time.Since(start).Round(time.Second))
	return c, nil
}

// create makes the cluster anew.
func (c *Cluster) create(ctx context.Context, provider *kind.Provider) error {
	if err := os.RemoveAll(c.engine.state("")); err != nil {
		return err
	}
	image, err := c.engine.nodeImage(ctx)
	if err != nil {
		return err
	}
	port, err := c.engine.forward(ctx, 0)
	if err != nil {
		return err
	}
	config, err := c.config(ctx, port)
	if err != nil {
		return err
	}
	err = provider.Create(name, kind.CreateWithV1Alpha4Config(config), kind.CreateWithNodeImage(image), kind.CreateWithKubeconfigPath(c.Kubeconfig()))
	if err != nil {
		return fmt.Errorf("create kind cluster %s from %s: %w", name, image, withOutput(err))
	}
	return c.finish(ctx)
}

// resume takes up a cluster that is there, starting nodes that are stopped.
func (c *Cluster) resume(ctx context.Context, provider *kind.Provider) error {
	published, err := c.engine.docker(ctx, "inspect", "--format", `{{(index (index .HostConfig.PortBindings "6443/tcp") 0).HostPort}}`, ControlPlane)
	if err != nil {
		return err
	}
	port, err := strconv.Atoi(strings.TrimSpace(published))
	if err != nil {
		return fmt.Errorf("find the API server's port: %w", err)
	}
	if _, err := c.engine.forward(ctx, port); err != nil {
		return err
	}
	if err := c.wake(ctx); err != nil {
		return err
	}
	if err := provider.ExportKubeConfig(name, c.Kubeconfig(), false); err != nil {
		return fmt.Errorf("write %s: %w", c.Kubeconfig(), err)
	}
	return c.finish(ctx)
}

// wake starts the nodes that do not run.
func (c *Cluster) wake(ctx context.Context) error {
	for _, node := range Nodes() {
		state, err := c.engine.docker(ctx, "inspect", "--format", "{{.State.Status}}", node)
		if err != nil {
			return err
		}
		switch strings.TrimSpace(state) {
		case "running":
			continue
		case "paused":
			err = c.Unpause(ctx, node)
		default:
			err = c.engine.do(ctx, "start", node)
		}
		if err != nil {
			return err
		}
		c.progress("node %s was %s; it is started", node, strings.TrimSpace(state))
	}
	return nil
}

// finish does what there is to do beside kind's work, as far as it is not done.
func (c *Cluster) finish(ctx context.Context) error {
	if err := c.giveKubectl(ctx); err != nil {
		return err
	}
	// Until the API server is ready it refuses even its administrator.
	err := until(ctx, 2*time.Minute, func() error {
		_, err := c.Kubectl(ctx, nil, "get", "--raw", "/readyz", "--request-timeout=5s")
		return err
	})
	if err != nil {
		return err
	}
	if err := c.connectPods(ctx); err != nil {
		return err
	}
	return c.WaitReady(ctx, Nodes()...)
}

// Down deletes the cluster and ends the engine, if this package started it. Caches
// stay. Without a cluster it does nothing.
func Down(ctx context.Context, progress Progress) error {
	e, err := newEngine(progress)
	if err != nil {
		return err
	}
	found, err := e.find(ctx)
	if err != nil {
		return err
	}
	// An own engine that was killed still has the containers in its records.
	if !found && exists(e.state("")) && exists(e.dataRoot()) {
		if err := e.startOwn(ctx); err != nil {
			return fmt.Errorf("start the Docker engine that has cluster %s: %w", name, err)
		}
		found = true
	}
	if found {
		provider := kind.NewProvider(kind.ProviderWithDocker(), kind.ProviderWithLogger(logger{progress}))
		if err := provider.Delete(name, e.state("kubeconfig")); err != nil {
			return fmt.Errorf("delete kind cluster %s: %w", name, withOutput(err))
		}
	}
	return errors.Join(os.RemoveAll(e.state("")), e.stop(ctx))
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// Kubeconfig returns the path of a kubeconfig for processes of this machine.
func (c *Cluster) Kubeconfig() string { return c.engine.state("kubeconfig") }

// KubectlPath returns the path of a kubectl of the cluster's version.
func (c *Cluster) KubectlPath() string { return c.engine.state("kubectl") }

// Environment returns what a shell must set to use the cluster with docker and
// kubectl, as NAME=value.
func (c *Cluster) Environment() []string {
	env := []string{"KUBECONFIG=" + c.Kubeconfig()}
	if c.engine.own {
		env = append(env, "DOCKER_HOST="+ownSocket)
	}
	return env
}

// giveKubectl takes kubectl out of a node: it is of the cluster's version, and
// needs nothing but a kernel.
func (c *Cluster) giveKubectl(ctx context.Context) error {
	if exists(c.KubectlPath()) {
		return nil
	}
	part := c.KubectlPath() + ".part"
	if _, err := c.engine.docker(ctx, "cp", ControlPlane+":/usr/bin/kubectl", part); err != nil {
		return err
	}
	return os.Rename(part, c.KubectlPath())
}

// Kubectl runs kubectl against the cluster and returns what it prints.
// The error holds its standard error; see ExitError.
func (c *Cluster) Kubectl(ctx context.Context, stdin []byte, args ...string) (string, error) {
	return run(ctx, stdin, c.KubectlPath(), append([]string{"--kubeconfig", c.Kubeconfig()}, args...)...)
}

// connectPods gives each node a CNI configuration of its own: there is no
// network plugin, and pods need their first interface. A node keeps it when it
// is restarted.
func (c *Cluster) connectPods(ctx context.Context) error {
	for _, node := range Nodes() {
		cidr, err := c.podCIDR(ctx, node)
		if err != nil {
			return err
		}
		if err := c.WriteFile(ctx, node, "/etc/cni/net.d/10-ptp.conflist", []byte(conflist(cidr))); err != nil {
			return err
		}
	}
	return nil
}

// podCIDR waits until the controller manager has given the node its range.
func (c *Cluster) podCIDR(ctx context.Context, node string) (string, error) {
	_, err := c.Kubectl(ctx, nil, "wait", "--for=jsonpath={.spec.podCIDR}", "--timeout=60s", "node/"+node)
	if err != nil {
		return "", err
	}
	cidr, err := c.Kubectl(ctx, nil, "get", "node", node, "-o", "jsonpath={.spec.podCIDR}")
	return strings.TrimSpace(cidr), err
}

// Find returns the cluster that Up has brought up, without waiting for anything.
func Find(ctx context.Context) (*Cluster, error) {
	e, err := newEngine(func(string, ...any) {})
	if err != nil {
		return nil, err
	}
	found, err := e.find(ctx)
	if err != nil {
		return nil, err
	}
	if !found || e.do(ctx, "container", "inspect", ControlPlane) != nil {
		return nil, errors.New("no cluster is running: make kind-up brings it up")
	}
	return newCluster(e, e.progress), nil
}
