package controllers

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
)

// controllerMetrics are the metrics that reconcilers count.
type controllerMetrics struct {
	bindings     prometheus.Counter
	statusWrites *prometheus.CounterVec
}

func newMetrics(c *cluster) (*controllerMetrics, error) {
	m := &controllerMetrics{
		bindings: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "patchbay_bindings_total", Help: "Attachments and publishes bound to a node, or to another one.",
		}),
		statusWrites: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "patchbay_status_writes_total", Help: "Attempts of the controller to write a status.",
		}, []string{"kind"}),
	}
	lost := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "patchbay_nodes_not_ready", Help: "Nodes that have not been Ready for longer than the grace period.",
	}, c.lostNodes)
	var errs []error
	for _, metric := range []prometheus.Collector{m.bindings, m.statusWrites, lost} {
		if err := c.options.Metrics.Register(metric); err != nil {
			errs = append(errs, fmt.Errorf("register metric: %w", err))
		}
	}
	return m, errors.Join(errs...)
}

// lostNodes counts at each scrape: a node is lost by the passing of time.
func (c *cluster) lostNodes() float64 {
	var nodes corev1.NodeList
	if err := c.list(context.Background(), &nodes); err != nil {
		return 0
	}
	count := 0
	for i := range nodes.Items {
		if nodeHealth(nodes.Items[i].Name, &nodes.Items[i], time.Now(), c.options.NodeGrace).lost != "" {
			count++
		}
	}
	return float64(count)
}
