package report

import (
	"strconv"
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/patchbay-dev/patchbay/nodeagent/firewall/program"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
	"github.com/patchbay-dev/patchbay/nodeagent/plan"
)

// Metrics are the node agent's Prometheus metrics.
type Metrics struct {
	changes *prometheus.CounterVec
	brakes  prometheus.Counter
	writes  *prometheus.CounterVec
	state   *prometheus.GaugeVec
	pods    prometheus.Gauge
	runtime prometheus.Counter

	mu     sync.Mutex
	owners map[netstate.Owner]bool
}

// NewMetrics registers the metrics.
func NewMetrics(r prometheus.Registerer) *Metrics {
	m := &Metrics{
		changes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "patchbay_kernel_changes_total",
			Help: "Kernel objects made, changed or removed, by kind and by cause: wanted, or drift where nobody had asked for a change.",
		}, []string{"object", "cause"}),
		brakes: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "patchbay_sweeps_braked_total",
			Help: "Sweeps that waited because they would have removed more than half of ten or more resources.",
		}),
		writes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "patchbay_status_writes_total",
			Help: "Status writes to the API server, by kind.",
		}, []string{"kind"}),
		state: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "patchbay_resources",
			Help: "Resources on this node, by kind and by whether they are Ready.",
		}, []string{"kind", "ready"}),
		pods: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "patchbay_pod_sandboxes",
			Help: "Running pod sandboxes of this node that the container runtime last told of.",
		}),
		runtime: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "patchbay_container_runtime_errors_total",
			Help: "Failed calls of the container runtime, and failed tries to reach it.",
		}),
		owners: map[netstate.Owner]bool{},
	}
	r.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{
		Name: "patchbay_firewall_timeouts_total",
		Help: "Runs of nft or iptables that did not end in time and were killed.",
	}, func() float64 { return float64(program.Unanswered()) }))
	r.MustRegister(m.changes, m.brakes, m.writes, m.state, m.pods, m.runtime)
	return m
}

// PodSandboxes notes how many pod sandboxes run on this node.
func (m *Metrics) PodSandboxes(n int) { m.pods.Set(float64(n)) }

// RuntimeError counts a failure of the container runtime.
func (m *Metrics) RuntimeError() { m.runtime.Inc() }

func (m *Metrics) changed(l plan.Line, drift bool) {
	cause := "wanted"
	if drift {
		cause = "drift"
	}
	m.changes.WithLabelValues(l.Key.Kind.String(), cause).Inc()
}

func (m *Metrics) statusWrite(o netstate.Owner) { m.writes.WithLabelValues(o.Kind).Inc() }

func (m *Metrics) braked() { m.brakes.Inc() }

func (m *Metrics) ready(o netstate.Owner, ready bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if old, known := m.owners[o]; known {
		m.state.WithLabelValues(o.Kind, strconv.FormatBool(old)).Dec()
	}
	m.owners[o] = ready
	m.state.WithLabelValues(o.Kind, strconv.FormatBool(ready)).Inc()
}

func (m *Metrics) removed(o netstate.Owner) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if old, known := m.owners[o]; known {
		m.state.WithLabelValues(o.Kind, strconv.FormatBool(old)).Dec()
	}
	delete(m.owners, o)
}
