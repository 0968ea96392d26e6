package controllers

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"sigs.k8s.io/controller-runtime/pkg/healthz"
	"sigs.k8s.io/controller-runtime/pkg/manager"
)

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
