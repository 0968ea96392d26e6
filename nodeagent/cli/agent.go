package cli

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/spf13/cobra"

	"github.com/patchbay-dev/patchbay/nodeagent/engine"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
	"github.com/patchbay-dev/patchbay/nodeagent/source/dir"
)

type agentFlags struct {
	manifests string
	metrics   string
	resync    time.Duration
	brake     time.Duration
}

func agentCommand(f *flags) *cobra.Command {
	a := agentFlags{}
	cmd := &cobra.Command{
		Use:   "agent --manifests DIR",
		Short: "Keep this node as a folder of manifests describes it",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return f.agent(cmd, a)
		},
	}
	cmd.Flags().StringVar(&a.manifests, "manifests", "", "folder of manifests that is the desired state of this node")
	cmd.Flags().StringVar(&a.metrics, "metrics-bind-address", "", "address such as 127.0.0.1:9464 for /metrics and /healthz; empty for none")
	cmd.Flags().DurationVar(&a.resync, "resync", 10*time.Minute, "mean time between two looks at everything, beside events")
	cmd.Flags().DurationVar(&a.brake, "sweep-delay", 5*time.Minute, "how long to wait before removing more than half of ten or more resources at once")
	return cmd
}

func (f *flags) agent(cmd *cobra.Command, a agentFlags) error {
	if a.manifests == "" {
		return errors.New("--manifests DIR is needed: this version runs without a cluster only")
	}
	log, err := f.logger(cmd.ErrOrStderr(), slog.LevelInfo)
	if err != nil {
		return err
	}
	v, err := dir.NewValidator()
	if err != nil {
		return err
	}
	l, err := f.acquire(cmd.Context(), agentPrefix+"--manifests "+a.manifests+" ")
	if err != nil {
		return err
	}
	defer l.release()
	n, err := f.open(netstate.SourceLocal, log, func(o *engine.Options) { o.Resync, o.SweepDelay = a.resync, a.brake })
	if err != nil {
		return err
	}
	defer n.close()
	if err := n.serveMetrics(cmd.Context(), a.metrics, log); err != nil {
		return err
	}
	return n.follow(cmd.Context(), a.manifests, v, log)
}

// follow runs the engine on a folder until the context ends.
func (n *node) follow(ctx context.Context, folder string, v *dir.Validator, log *slog.Logger) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	records, err := n.records()
	if err != nil {
		return err
	}
	feed := &dir.Feed{Engine: n.engine, NodeName: n.name, Log: log, Records: records}
	log.Info("agent started", "node", n.name, "manifests", folder, "backend", n.nat.Name())
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

// serveMetrics serves /metrics and /healthz until the context ends.
func (n *node) serveMetrics(ctx context.Context, address string, log *slog.Logger) error {
	if address == "" {
		return nil
	}
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", address)
	if err != nil {
		return fmt.Errorf("--metrics-bind-address: %w", err)
	}
	mux := http.NewServeMux()
	mux.Handle("/metrics", promhttp.HandlerFor(n.registry, promhttp.HandlerOpts{}))
	mux.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	context.AfterFunc(ctx, func() { _ = server.Close() })
	go func() {
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			log.Error("serve metrics", "err", err)
		}
	}()
	return nil
}
