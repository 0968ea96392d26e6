package cli

import (
	"context"
	"log/slog"

	"github.com/patchbay-dev/patchbay/nodeagent/engine"
	"github.com/patchbay-dev/patchbay/nodeagent/kernel"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
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

// watchPods tells the engine which pods run on this node, whenever they differ,
// until the context ends. What the runtime changes, it changes under /run/netns
// too: then it is asked at once.
func (n *node) watchPods(ctx context.Context, r *pods.Runtime, netns <-chan struct{}) error {
	go func() {
		for {
			select {
			case <-ctx.Done():
				return
			case <-netns:
				r.Poke()
			}
		}
	}()
	r.Watch(ctx, func(list []pods.Sandbox) {
		n.metrics.PodSandboxes(len(list))
		running := make([]engine.Pod, len(list))
		for i, s := range list {
			running[i] = engine.Pod{UID: s.UID, Namespace: s.Namespace, Name: s.Name, Netns: s.Netns, HostNetwork: s.HostNetwork, Problem: s.Problem}
		}
		n.engine.SetPods(running)
	})
	return nil
}

// netnsWatch is a kernel whose events of network namespaces are told to a channel
// too.
type netnsWatch struct {
	engine.Kernel
	changed chan<- struct{}
}

func (k netnsWatch) Watch(ctx context.Context, told func(kernel.Event)) error {
	return k.Kernel.Watch(ctx, func(e kernel.Event) {
		if e.Key.Kind == netstate.KindNetns {
			select {
			case k.changed <- struct{}{}:
			default:
			}
		}
		told(e)
	})
}
