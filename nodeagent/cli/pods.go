package cli

import (
	"context"
	"log/slog"

	"github.com/patchbay-dev/patchbay/nodeagent/pods"
)

// containerRuntime prepares to ask this node's container runtime, which may come
// later than the agent.
func (n *node) containerRuntime(socket string, log *slog.Logger) *pods.Runtime {
	return pods.New(pods.Options{
		Socket: socket,
		Found: func(socket, runtime string) {
			log.Info("container runtime found", "socket", socket, "runtime", runtime)
		},
		Lost: func(err error) {
			log.Info("container runtime not reached; pods are wired as they were last seen", "err", err)
		},
		Failed: func(err error) {
			n.metrics.RuntimeError()
			log.Debug("container runtime failed", "err", err)
		},
	})
}

// watchPods hands over the pods that run on this node, whenever they differ,
// until the context ends.
func (n *node) watchPods(ctx context.Context, r *pods.Runtime, set func([]pods.Sandbox)) error {
	r.Watch(ctx, func(list []pods.Sandbox) {
		n.metrics.PodSandboxes(len(list))
		set(list)
	})
	return nil
}
