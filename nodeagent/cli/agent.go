package cli

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/spf13/cobra"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"
	ctrllog "sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/patchbay-dev/patchbay/nodeagent/engine"
	"github.com/patchbay-dev/patchbay/nodeagent/firewall"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
	"github.com/patchbay-dev/patchbay/nodeagent/pods"
	"github.com/patchbay-dev/patchbay/nodeagent/source/dir"
	"github.com/patchbay-dev/patchbay/nodeagent/source/kube"
)

type agentFlags struct {
	manifests   string
	kubeconfig  string
	metrics     string
	health      string
	resync      time.Duration
	brake       time.Duration
	startJitter time.Duration
	criSocket   string
}

func agentCommand(f *flags) *cobra.Command {
	a := agentFlags{}
	cmd := &cobra.Command{
		Use:   "agent [--manifests DIR]",
		Short: "Keep this node as its cluster, or a folder of manifests, describes it",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			log, err := f.logger(cmd.ErrOrStderr(), slog.LevelInfo)
			if err != nil {
				return err
			}
			f.patience = firewall.AgentPatience
			if a.manifests == "" {
				return f.clusterAgent(cmd.Context(), a, log)
			}
			return f.folderAgent(cmd.Context(), a, log)
		},
	}
	p := cmd.Flags()
	p.StringVar(&a.manifests, "manifests", "", "folder of manifests with the desired state of this node; without it, the agent follows a cluster")
	p.StringVar(&a.kubeconfig, "kubeconfig", "", "file with address and credentials of the API server (default: the pod's service account)")
	p.StringVar(&a.metrics, "metrics-bind-address", "", "address such as 127.0.0.1:9464 for /metrics; empty for none")
	p.StringVar(&a.health, "health-probe-bind-address", "0", "address such as 127.0.0.1:9465 for /healthz, and for /readyz of a cluster's agent; 0 for none")
	p.DurationVar(&a.resync, "resync", 10*time.Minute, "mean time between two looks at everything; events come besides")
	p.DurationVar(&a.brake, "sweep-delay", 5*time.Minute, "how long to wait before more than half of ten or more resources are removed that are missing but were not deleted")
	p.DurationVar(&a.startJitter, "start-jitter", 2*time.Second, "longest random pause before a cluster's objects are listed")
	p.StringVar(&a.criSocket, "cri-socket", "", "socket of the container runtime, from which a cluster's agent learns the pods' network namespaces (default: the first that answers of containerd's, CRI-O's, k3s's and cri-dockerd's)")
	return cmd
}

// clusterAgent runs the engine on the resources that the API server binds to this node.
func (f *flags) clusterAgent(ctx context.Context, a agentFlags, log *slog.Logger) error {
	config, err := restConfig(a.kubeconfig)
	if err != nil {
		return err
	}
	socket, err := pods.ParseSocket(a.criSocket)
	if err != nil {
		return fmt.Errorf("--cri-socket: %w", err)
	}
	l, err := f.await(ctx, clusterLock, agentPrefix+"of a cluster ", log)
	if err != nil {
		return err
	}
	defer l.release()
	netns := make(chan struct{}, 1)
	n, err := f.open(ctx, netstate.SourceCluster, log, func(o *engine.Options) {
		o.Resync, o.SweepDelay, o.Kernel = a.resync, a.brake, netnsWatch{o.Kernel, netns}
	})
	if err != nil {
		return err
	}
	defer n.close()
	n.setAside()
	if err := n.serveMetrics(ctx, a.metrics, log); err != nil {
		return err
	}
	setLibraryLogs(log)
	source, err := kube.Open(kube.Options{Config: config, NodeName: n.name, HealthAddress: a.health, Alive: n.engine.Alive, StartJitter: a.startJitter}, n.engine, n.cluster.Seen)
	if err != nil {
		return err
	}
	n.cluster.API = source
	log.Info("agent started", "node", n.name, "apiServer", config.Host, "backend", n.nat.Name())
	n.tellMounts(log)
	watchPods := func(ctx context.Context) error { return n.watchPods(ctx, n.containerRuntime(socket, log), netns) }
	if err := source.Run(ctx, n.cluster.Run, n.engine.Run, watchPods); err != nil {
		return err
	}
	log.Info("agent stopped; what it built stays")
	return nil
}

// restConfig is the way to the API server. There is no limit on the client's
// side: the API server has its own (API priority and fairness), and client-go's
// default of 5 requests a second would hold up hundreds of attachments.
func restConfig(kubeconfig string) (config *rest.Config, err error) {
	if kubeconfig == "" {
		config, err = rest.InClusterConfig()
	} else {
		config, err = clientcmd.BuildConfigFromFlags("", kubeconfig)
	}
	switch {
	case errors.Is(err, rest.ErrNotInCluster):
		return nil, errors.New("this is no pod of a cluster: name the way to the API server with --kubeconfig FILE; an agent runs without a cluster with --manifests DIR")
	case err != nil:
		return nil, fmt.Errorf("find the API server: %w", err)
	}
	config.QPS = -1
	return config, nil
}

// setLibraryLogs has the Kubernetes libraries log as we do.
func setLibraryLogs(log *slog.Logger) {
	logger := logr.FromSlogHandler(log.Handler())
	ctrllog.SetLogger(logger)
	klog.SetLogger(logger)
}

// folderAgent runs the engine on a folder.
func (f *flags) folderAgent(ctx context.Context, a agentFlags, log *slog.Logger) error {
	v, err := dir.NewValidator()
	if err != nil {
		return err
	}
	l, err := f.acquire(ctx, localLock, agentPrefix+"--manifests "+a.manifests+" ")
	if err != nil {
		return err
	}
	defer l.release()
	n, err := f.open(ctx, netstate.SourceLocal, log, func(o *engine.Options) { o.Resync, o.SweepDelay = a.resync, a.brake })
	if err != nil {
		return err
	}
	defer n.close()
	n.setAside()
	if err := n.serveMetrics(ctx, a.metrics, log); err != nil {
		return err
	}
	if err := n.serveHealth(ctx, a.health, log); err != nil {
		return err
	}
	return n.follow(ctx, a.manifests, v, log)
}

// follow runs the engine on a folder until the context ends.
func (n *node) follow(ctx context.Context, folder string, v *dir.Validator, log *slog.Logger) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	feed := &dir.Feed{Engine: n.engine, NodeName: n.name, Log: log, Records: n.records()}
	log.Info("agent started", "node", n.name, "manifests", folder, "backend", n.nat.Name())
	n.tellMounts(log)
	go func() {
		if err := dir.Watch(ctx, folder, v, feed.Take); err != nil && ctx.Err() == nil {
			cancel(fmt.Errorf("watch %s: %w", folder, err))
		}
	}()
	if err := n.engine.Run(ctx); err != nil {
		return err
	}
	if err := context.Cause(ctx); err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	log.Info("agent stopped; what it built stays")
	return nil
}

// tellMounts logs at the start that Managed namespaces cannot be made, before any is
// asked for.
func (n *node) tellMounts(log *slog.Logger) {
	if err := n.kernel.MountsApart(); err != nil {
		log.Error("managed network namespaces cannot be made", "err", err)
	}
}

// serveMetrics serves /metrics and /healthz until the context ends.
func (n *node) serveMetrics(ctx context.Context, address string, log *slog.Logger) error {
	if address == "" {
		return nil
	}
	mux := http.NewServeMux()
	mux.Handle("/metrics", promhttp.HandlerFor(n.registry, promhttp.HandlerOpts{}))
	mux.HandleFunc("/healthz", healthz(n.engine.Alive))
	return serve(ctx, "--metrics-bind-address", address, mux, log)
}

// serveHealth serves /healthz until the context ends.
func (n *node) serveHealth(ctx context.Context, address string, log *slog.Logger) error {
	if address == "" || address == "0" {
		return nil
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/healthz", healthz(n.engine.Alive))
	return serve(ctx, "--health-probe-bind-address", address, mux, log)
}

// healthz answers "ok", or why the agent has to be started anew.
func healthz(alive func() error) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		if err := alive(); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		fmt.Fprintln(w, "ok")
	}
}

func serve(ctx context.Context, flag, address string, handler http.Handler, log *slog.Logger) error {
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", address)
	if err != nil {
		return fmt.Errorf("%s: %w", flag, err)
	}
	server := &http.Server{Handler: handler, ReadHeaderTimeout: 5 * time.Second}
	context.AfterFunc(ctx, func() { _ = server.Close() })
	go func() {
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			log.Error("serve "+address, "err", err)
		}
	}()
	return nil
}
