package kube

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/rest"
	toolscache "k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"github.com/patchbay-dev/patchbay/api/v1alpha1"
	"github.com/patchbay-dev/patchbay/nodeagent/engine"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
)

// Options say which cluster and which node.
type Options struct {
	Config   *rest.Config
	NodeName string
	// HealthAddress serves /healthz and /readyz; "0" for none.
	HealthAddress string
	// Alive returns why the agent has to be started anew; nil while it works.
	Alive func() error
	// StartJitter is the longest random pause before everything is listed, so
	// that the agents of a large cluster do not all list at once.
	StartJitter time.Duration
}

// Source watches the objects that are bound to one node.
type Source struct {
	Options
	manager manager.Manager
	feed    *Feed
	seen    func(netstate.Owner)
	ready   chan struct{}
}

// Open prepares a source; Run starts it. The engine gets its objects, seen is
// told the owner of each that the watch brings.
func Open(o Options, e Engine, seen func(netstate.Owner)) (*Source, error) {
	scheme := runtime.NewScheme()
	if err := v1alpha1.AddToScheme(scheme); err != nil {
		return nil, fmt.Errorf("register the kinds: %w", err)
	}
	m, err := manager.New(o.Config, manager.Options{
		Scheme:                 scheme,
		MapperProvider:         func(*rest.Config, *http.Client) (meta.RESTMapper, error) { return v1alpha1.NewRESTMapper(), nil },
		Cache:                  cacheOptions(o.NodeName),
		Metrics:                server.Options{BindAddress: "0"},
		HealthProbeBindAddress: o.HealthAddress,
	})
	if err != nil {
		return nil, fmt.Errorf("prepare the agent: %w", err)
	}
	s := &Source{Options: o, manager: m, feed: NewFeed(e), seen: seen, ready: make(chan struct{})}
	return s, errors.Join(m.AddHealthzCheck("loop", func(*http.Request) error { return o.Alive() }), m.AddReadyzCheck("listed", s.listed))
}

// cacheOptions restrict every list and watch to the node; of the networks, which
// have no node, only what the agent acts upon is kept.
func cacheOptions(node string) cache.Options {
	here := func(field string) cache.ByObject {
		return cache.ByObject{Field: fields.OneTermEqualSelector(field, node), Transform: cache.TransformStripManagedFields()}
	}
	return cache.Options{
		ReaderFailOnMissingInformer: true,
		ByObject: map[client.Object]cache.ByObject{
			&v1alpha1.BridgeNetwork{}:       {Transform: stripNetwork},
			&v1alpha1.NodeBridge{}:          here("spec.nodeName"),
			&v1alpha1.NamespaceAttachment{}: here("status.nodeName"),
			&v1alpha1.PortPublish{}:         here("status.nodeName"),
		},
	}
}

func stripNetwork(o any) (any, error) {
	if n, ok := o.(*v1alpha1.BridgeNetwork); ok {
		n.ManagedFields = nil
		n.Status = v1alpha1.BridgeNetworkStatus{Conditions: slices.DeleteFunc(n.Status.Conditions, func(c metav1.Condition) bool {
			return c.Type != v1alpha1.ConditionAccepted
		})}
	}
	return o, nil
}

func (s *Source) listed(_ *http.Request) error {
	select {
	case <-s.ready:
		return nil
	default:
		return errors.New("not everything that is bound to this node was listed yet")
	}
}

// Run watches until the context ends. The work starts once everything was listed and
// handed over; it gets a context that ends with the watch.
func (s *Source) Run(ctx context.Context, work ...func(context.Context) error) error {
	select {
	case <-ctx.Done():
		return nil
	case <-time.After(rand.N(s.StartJitter + 1)):
	}
	if err := s.manager.Add(manager.RunnableFunc(s.list)); err != nil {
		return err
	}
	for _, w := range work {
		err := s.manager.Add(manager.RunnableFunc(func(ctx context.Context) error {
			select {
			case <-ctx.Done():
				return nil
			case <-s.ready:
				return w(ctx)
			}
		}))
		if err != nil {
			return err
		}
	}
	return s.manager.Start(ctx)
}

// list hands over all that is bound to this node, and goes on with every
// change.
func (s *Source) list(ctx context.Context) error {
	var synced []toolscache.InformerSynced
	for _, o := range []client.Object{&v1alpha1.BridgeNetwork{}, &v1alpha1.NodeBridge{}, &v1alpha1.NamespaceAttachment{}, &v1alpha1.PortPublish{}} {
		informer, err := s.manager.GetCache().GetInformer(ctx, o, cache.BlockUntilSynced(false))
		if err != nil {
			return fmt.Errorf("watch %T: %w", o, err)
		}
		registration, err := informer.AddEventHandler(s)
		if err != nil {
			return fmt.Errorf("watch %T: %w", o, err)
		}
		synced = append(synced, registration.HasSynced)
	}
	if !toolscache.WaitForCacheSync(ctx.Done(), synced...) {
		return nil
	}
	s.feed.Listed()
	close(s.ready)
	return nil
}

// OnAdd implements the informers' event handler.
func (s *Source) OnAdd(o any, _ bool) { s.set(o) }

// OnUpdate implements the informers' event handler.
func (s *Source) OnUpdate(_, o any) { s.set(o) }

// OnDelete implements the informers' event handler.
func (s *Source) OnDelete(o any) {
	last, missed := o.(toolscache.DeletedFinalStateUnknown)
	if missed {
		o = last.Obj
	}
	if object, ok := o.(v1alpha1.Object); ok {
		s.feed.Gone(object, !missed)
	}
}

func (s *Source) set(o any) {
	object, ok := o.(v1alpha1.Object)
	if !ok {
		return
	}
	s.feed.Set(object)
	s.seen(ownerOf(object))
}

func ownerOf(o v1alpha1.Object) netstate.Owner {
	if b, ok := o.(*v1alpha1.NodeBridge); ok {
		return netstate.Owner{Kind: netstate.OwnerNetwork, Name: b.Spec.Network}
	}
	return engine.InputOf(o).Owner()
}

// Current implements report.API.
func (s *Source) Current(o netstate.Owner) v1alpha1.Object { return s.feed.Current(o) }

// Apply implements report.API.
func (s *Source) Apply(ctx context.Context, o v1alpha1.Object, status map[string]any) error {
	gvk, err := s.manager.GetClient().GroupVersionKindFor(o)
	if err != nil {
		return err
	}
	u := &unstructured.Unstructured{Object: map[string]any{"status": status}}
	u.SetGroupVersionKind(gvk)
	u.SetNamespace(o.GetNamespace())
	u.SetName(o.GetName())
	u.SetUID(o.GetUID())
	err = s.manager.GetClient().Status().Apply(ctx, client.ApplyConfigurationFromUnstructured(u),
		client.FieldOwner(v1alpha1.FieldManagerAgent), client.ForceOwnership)
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil
	}
	return err
}
