package bench

import (
	"context"
	"io"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	ctrllog "sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/patchbay-dev/patchbay/api/v1alpha1"
	"github.com/patchbay-dev/patchbay/nodeagent/engine"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
	"github.com/patchbay-dev/patchbay/nodeagent/report"
	"github.com/patchbay-dev/patchbay/nodeagent/source/kube"
	"github.com/patchbay-dev/patchbay/test/apiserver"
)

const nodeName = "bench"

// untilWritten runs the parts of a cluster's agent against an API server. Each
// attachment is created, and bound as the controller does, when the former's
// Ready is written. It returns the times from what the watch brought, and from
// the creation.
func untilWritten(b *testing.B) (set, made latencies) {
	ctrllog.SetLogger(logr.Discard())
	server, err := apiserver.Start("../..")
	if err != nil {
		b.Fatal(err)
	}
	defer func() {
		if err := server.Stop(); err != nil {
			b.Error(err)
		}
	}()
	a := newAgent(b, server)
	stop := inBackground(b, a.run)
	defer stop()
	network, inputs := external()
	a.create(network.Network)
	a.judge(network.Network, nil)
	a.create(&v1alpha1.NodeBridge{
		ObjectMeta: metav1.ObjectMeta{Name: v1alpha1.NodeBridgeName(network.Network.Name, nodeName)},
		Spec:       v1alpha1.NodeBridgeSpec{Network: network.Network.Name, NodeName: nodeName},
	})
	a.until(network.Owner())
	for _, in := range inputs {
		in.Attachment.Namespace, in.Attachment.Spec.Target.Netns.NodeName = metav1.NamespaceDefault, nodeName
		start := time.Now()
		a.create(in.Attachment)
		a.judge(in.Attachment, map[string]any{"nodeName": nodeName})
		written := a.until(in.Owner())
		given, _ := a.given.Load(in.Owner())
		set, made = append(set, written.Sub(given.(time.Time))), append(made, written.Sub(start))
	}
	return set, made
}

// agent is what runs on a node of a cluster, with a look at what goes in and
// comes out. It does not remove what it made: the sandbox ends with it.
type agent struct {
	b      *testing.B
	api    client.Client
	source *kube.Source
	// given are the times when the engine first got each owner.
	given   sync.Map
	written chan mark
	run     func(context.Context) error
}

func newAgent(b *testing.B, server *apiserver.Server) *agent {
	scheme := runtime.NewScheme()
	if err := v1alpha1.AddToScheme(scheme); err != nil {
		b.Fatal(err)
	}
	api, err := client.New(server.Config, client.Options{Scheme: scheme})
	if err != nil {
		b.Fatal(err)
	}
	log := slog.New(slog.NewTextHandler(io.Discard, nil))
	k, n := drivers(b, netstate.SourceCluster, newStopwatch())
	cluster := report.NewCluster(report.NewMetrics(prometheus.NewRegistry()), log)
	e := engine.New(engine.Options{Source: netstate.SourceCluster, Kernel: k, Firewall: n, Reporter: cluster, Log: log})
	a := &agent{b: b, api: api, written: make(chan mark, 100*attachments)}
	config := *server.Config
	config.QPS = -1
	if a.source, err = kube.Open(kube.Options{Config: &config, NodeName: nodeName, HealthAddress: "0", Alive: e.Alive}, watchedEngine{e, a}, cluster.Seen); err != nil {
		b.Fatal(err)
	}
	cluster.API = watchedAPI{a.source, a}
	a.run = func(ctx context.Context) error { return a.source.Run(ctx, cluster.Run, e.Run) }
	return a
}

// watchedEngine notes when the watch brought an owner.
type watchedEngine struct {
	*engine.Engine
	agent *agent
}

func (e watchedEngine) Update(set []engine.Input, gone []netstate.Owner) {
	for _, in := range set {
		e.agent.given.LoadOrStore(in.Owner(), time.Now())
	}
	e.Engine.Update(set, gone)
}

// watchedAPI notes when the API server has taken a Ready.
type watchedAPI struct {
	report.API
	agent *agent
}

func (w watchedAPI) Apply(ctx context.Context, o v1alpha1.Object, status map[string]any) error {
	err := w.API.Apply(ctx, o, status)
	if err == nil && isReady(w.agent.b, status) {
		w.agent.written <- mark{owner: ownerOf(o), told: time.Now()}
	}
	return err
}

func isReady(b *testing.B, status map[string]any) bool {
	var s v1alpha1.NamespaceAttachmentStatus
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(map[string]any{"conditions": status["conditions"]}, &s); err != nil {
		b.Error(err)
	}
	return meta.IsStatusConditionTrue(s.Conditions, v1alpha1.ConditionReady)
}

func ownerOf(o v1alpha1.Object) netstate.Owner {
	if bridge, is := o.(*v1alpha1.NodeBridge); is {
		return netstate.Owner{Kind: netstate.OwnerNetwork, Name: bridge.Spec.Network}
	}
	return engine.InputOf(o).Owner()
}

// until waits for the first Ready of an owner.
func (a *agent) until(o netstate.Owner) time.Time {
	a.b.Helper()
	for {
		if m := receive(a.b, a.written); m.owner == o {
			return m.told
		}
	}
}

func (a *agent) create(o client.Object) {
	a.b.Helper()
	if err := a.api.Create(a.b.Context(), o); err != nil {
		a.b.Fatalf("create %s: %v", o.GetName(), err)
	}
}

// judge accepts an object, with what else the controller says of it.
func (a *agent) judge(o client.Object, fields map[string]any) {
	a.b.Helper()
	gvk, err := a.api.GroupVersionKindFor(o)
	if err != nil {
		a.b.Fatal(err)
	}
	status := map[string]any{"conditions": []any{map[string]any{
		"type": v1alpha1.ConditionAccepted, "status": string(metav1.ConditionTrue), "reason": "Accepted", "message": "",
		"observedGeneration": o.GetGeneration(), "lastTransitionTime": time.Now().UTC().Format(time.RFC3339),
	}}}
	for k, v := range fields {
		status[k] = v
	}
	u := &unstructured.Unstructured{Object: map[string]any{"status": status}}
	u.SetGroupVersionKind(gvk)
	u.SetNamespace(o.GetNamespace())
	u.SetName(o.GetName())
	if err := a.api.Status().Apply(a.b.Context(), client.ApplyConfigurationFromUnstructured(u), client.FieldOwner(v1alpha1.FieldManagerController), client.ForceOwnership); err != nil {
		a.b.Fatalf("judge %s: %v", o.GetName(), err)
	}
}
