// Package controllers is the cluster half of Patchbay. It accepts and binds the
// objects that users write. It makes the NodeBridges, and the attachments and
// publishes of selected pods, and sums up their statuses. It answers for the agent
// of a lost node, and keeps a network while attachments use it.
// It promises to be level-based: it makes up for every event that it missed, and
// writes no status that is there already. Each reconciler is a thin shell around
// functions that neither read nor write the cluster.
package controllers

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/healthz"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/metrics"
)

// Defaults of Options.
const (
	// nodeGrace is what node-lifecycle-controller gave a silent kubelet for
	// years (--node-monitor-grace-period), and longer than a kubelet's restart.
	nodeGrace = 40 * time.Second
	// referenceGrace covers one `kubectl apply` of many objects, and caches that
	// see them in another order: 2 s, and one more since creation times are
	// whole seconds.
	referenceGrace = 3 * time.Second
	// rollupDelay lets the nodes of a small cluster answer before the first
	// write; rollupInterval is the design's limit: every write of a network
	// goes to every agent.
	rollupDelay    = 500 * time.Millisecond
	rollupInterval = 5 * time.Second
	// workers of each controller: a status write takes about 6 ms, nearly all of
	// it waiting.
	workers = 8
)

// Options are what Setup needs beside the manager. The zero value of each
// duration means its default.
type Options struct {
	// NodeGrace is how long a node may be not Ready before the objects that are
	// bound to it say so; default 40 s.
	NodeGrace time.Duration
	// ReferenceGrace is how long a new object waits for the objects that it refers
	// to before it is refused; default 3 s.
	ReferenceGrace time.Duration
	// RollupDelay is how long changes of NodeBridges are gathered before the
	// network's status is written; default 0.5 s.
	RollupDelay time.Duration
	// RollupInterval is the least time between two such writes; default 5 s.
	RollupInterval time.Duration
	// Metrics is where metrics are registered; default the manager's registry.
	Metrics prometheus.Registerer
}

func (o *Options) setDefaults() {
	for _, d := range []struct {
		value    *time.Duration
		fallback time.Duration
	}{
		{&o.NodeGrace, nodeGrace},
		{&o.ReferenceGrace, referenceGrace},
		{&o.RollupDelay, rollupDelay},
		{&o.RollupInterval, rollupInterval},
	} {
		if *d.value == 0 {
			*d.value = d.fallback
		}
	}
	if o.Metrics == nil {
		o.Metrics = metrics.Registry
	}
}

// Setup adds the controllers and the probes healthz and readyz to a manager
// that was made with ManagerOptions. The manager is ready once its caches are
// in sync, whether it leads or stands by.
func Setup(mgr manager.Manager, o Options) error {
	o.setDefaults()
	c := &cluster{Client: mgr.GetClient(), cache: mgr.GetCache(), options: o}
	var err error
	if c.metrics, err = newMetrics(c); err != nil {
		return err
	}
	for _, part := range []struct {
		name string
		add  func(manager.Manager) error
	}{
		{"caches", c.startCaches},
		{"probes", addProbes},
		{"events", addEvents},
		{"BridgeNetworks", networks{c, &sync.Map{}}.add},
		{"NodeBridges", nodeBridges{c}.add},
		{"NamespaceAttachments", attachments{c}.add},
		{"pod selectors", selectors{parents{c, &sync.Map{}}}.add},
		{"PortPublishes", publishes{parents{c, &sync.Map{}}}.add},
	} {
		if err := part.add(mgr); err != nil {
			return fmt.Errorf("set up %s: %w", part.name, err)
		}
	}
	return nil
}

// cluster is shared by the reconcilers. Reads of the embedded client wait until the
// cache has the writes of this process, so that no decision is made, and written,
// twice.
type cluster struct {
	client.Client
	// cache answers at once. It is for objects that this process does not write, and
	// for event handlers, which must not wait.
	cache   client.Reader
	options Options
	metrics *controllerMetrics
}

func parallel() controller.Options {
	return controller.Options{MaxConcurrentReconciles: workers}
}

// list reads from the cache, where it cannot fail but by an index that is not
// there.
func (c *cluster) list(ctx context.Context, list client.ObjectList, opts ...client.ListOption) error {
	if err := c.cache.List(ctx, list, append(opts, client.UnsafeDisableDeepCopy)...); err != nil {
		return fmt.Errorf("list %T from the cache: %w", list, err)
	}
	return nil
}

// inSync is closed once the caches are in sync: a manager starts the runnables that
// need no leadership right after that.
type inSync chan struct{}

// Start implements manager.Runnable.
func (s inSync) Start(context.Context) error {
	close(s)
	return nil
}

// NeedLeaderElection implements manager.LeaderElectionRunnable.
func (inSync) NeedLeaderElection() bool { return false }

func (s inSync) check(*http.Request) error {
	select {
	case <-s:
		return nil
	default:
		return errors.New("the caches are not in sync")
	}
}

// addProbes adds healthz and readyz. A replica that stands by is ready too.
func addProbes(mgr manager.Manager) error {
	s := make(inSync)
	if err := mgr.Add(s); err != nil {
		return fmt.Errorf("watch for caches in sync: %w", err)
	}
	return errors.Join(mgr.AddHealthzCheck("ping", healthz.Ping), mgr.AddReadyzCheck("caches", s.check))
}
