package cli

import (
	"fmt"
	"log/slog"

	"github.com/go-logr/logr"
	"github.com/spf13/cobra"
	"sigs.k8s.io/controller-runtime/pkg/manager"

	"github.com/patchbay-dev/patchbay/controllers"
)

// leaseName is the Lease that the replicas of the controller lead by.
const leaseName = "patchbay-controller"

type controllerFlags struct {
	kubeconfig, metrics, probes string
	elect                       bool
	namespace                   string
}

func controllerCommand(f *flags) *cobra.Command {
	c := controllerFlags{}
	cmd := &cobra.Command{
		Use:   "controller",
		Short: "Accept, bind and sum up the custom resources of a cluster",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return f.controller(cmd, c)
		},
	}
	cmd.Flags().StringVar(&c.kubeconfig, "kubeconfig", "", "file with address and credentials of the API server (default: the pod's service account)")
	cmd.Flags().StringVar(&c.metrics, "metrics-bind-address", ":8080", "address for /metrics; 0 for none")
	cmd.Flags().StringVar(&c.probes, "health-probe-bind-address", ":8081", "address for /healthz and /readyz; 0 for none")
	cmd.Flags().BoolVar(&c.elect, "leader-elect", true, "act only while holding the Lease "+leaseName+", so that several replicas can run")
	cmd.Flags().StringVar(&c.namespace, "leader-election-namespace", "", "namespace of the Lease (default: the pod's)")
	return cmd
}

func (f *flags) controller(cmd *cobra.Command, c controllerFlags) error {
	log, err := f.logger(cmd.ErrOrStderr(), slog.LevelInfo)
	if err != nil {
		return err
	}
	o := controllers.ManagerOptions()
	o.Logger = logr.FromSlogHandler(log.Handler())
	o.Metrics.BindAddress, o.HealthProbeBindAddress = c.metrics, c.probes
	o.LeaderElection, o.LeaderElectionID, o.LeaderElectionNamespace = c.elect, leaseName, c.namespace
	// The process ends with the manager, so that another replica may lead at
	// once.
	o.LeaderElectionReleaseOnCancel = true
	setLibraryLogs(log)
	cluster, err := restConfig(c.kubeconfig)
	if err != nil {
		return err
	}
	mgr, err := manager.New(cluster, o)
	if err != nil {
		return fmt.Errorf("prepare the controller: %w", err)
	}
	if err := controllers.Setup(mgr, controllers.Options{}); err != nil {
		return err
	}
	log.Info("controller started")
	if err := mgr.Start(cmd.Context()); err != nil {
		return fmt.Errorf("run the controller: %w", err)
	}
	log.Info("controller stopped; what is bound stays bound")
	return nil
}
