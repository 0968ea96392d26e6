package controlplane

import (
	"context"
	"errors"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/go-logr/logr"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	ctrllog "sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/patchbay-dev/patchbay/api/v1alpha1"
	"github.com/patchbay-dev/patchbay/test/apiserver"
)

// deadline bounds one test; each takes seconds.
const deadline = time.Minute

// config and api lead to the API server of this run, as an administrator.
var (
	config *rest.Config
	api    client.WithWatch
)

func TestMain(m *testing.M) {
	if code, played := play(); played {
		os.Exit(code)
	}
	// Tests ask a controller's log where they need it.
	ctrllog.SetLogger(logr.Discard())
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		code = 1
	}
	os.Exit(code)
}

// run has the control plane up while the tests run, and ends it however they do.
func run(m *testing.M) (code int, err error) {
	server, err := apiserver.Start("../..")
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, server.Stop()) }()
	config = server.Config
	if api, err = client.NewWithWatch(config, client.Options{Scheme: scheme()}); err != nil {
		return 0, err
	}
	return m.Run(), nil
}

func scheme() *runtime.Scheme {
	s := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{v1alpha1.AddToScheme, apiextensionsv1.AddToScheme} {
		if err := add(s); err != nil {
			panic(err)
		}
	}
	return s
}

func testContext(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	t.Cleanup(cancel)
	return ctx
}

// create stores an object until the end of the test, and returns it as the API
// server answered.
func create[T client.Object](t *testing.T, obj T, opts ...client.CreateOption) T {
	t.Helper()
	if err := api.Create(testContext(t), obj, opts...); err != nil {
		t.Fatalf("create %s: %v", obj.GetName(), err)
	}
	removeAfter(t, obj)
	return obj
}

func removeAfter(t *testing.T, obj client.Object) {
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), deadline)
		defer cancel()
		if err := client.IgnoreNotFound(api.Delete(ctx, obj)); err != nil {
			t.Errorf("delete %s: %v", obj.GetName(), err)
		}
	})
}

// object is an object of Patchbay's API with the content.
func object(kind, namespace, name string, content map[string]any) *unstructured.Unstructured {
	u := &unstructured.Unstructured{Object: map[string]any{}}
	for k, v := range content {
		u.Object[k] = v
	}
	u.SetGroupVersionKind(v1alpha1.GroupVersion.WithKind(kind))
	u.SetNamespace(namespace)
	u.SetName(name)
	return u
}

// ensureNamespace leaves the namespace behind: nothing here would finish its
// deletion.
func ensureNamespace(t *testing.T, name string) {
	t.Helper()
	u := &unstructured.Unstructured{}
	u.SetAPIVersion("v1")
	u.SetKind("Namespace")
	u.SetName(name)
	if err := api.Create(testContext(t), u); err != nil && !apierrors.IsAlreadyExists(err) {
		t.Fatalf("create namespace %s: %v", name, err)
	}
}
