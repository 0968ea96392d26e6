package controlplane

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/go-logr/logr"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
	ctrllog "sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/patchbay-dev/patchbay/api/v1alpha1"
)

const (
	// deadline bounds one test; each takes seconds.
	deadline = time.Minute
	// startTimeout bounds the start of etcd, and of the API server: about 10 s
	// on two idle cores.
	startTimeout = 2 * time.Minute
)

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
	if err := findBinaries(); err != nil {
		return 0, err
	}
	work, err := os.MkdirTemp("", "patchbay-controlplane-")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(work)
	env := environment(work)
	stop, err := start(env, work)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, stop()) }()
	if api, err = client.NewWithWatch(config, client.Options{Scheme: scheme()}); err != nil {
		return 0, err
	}
	return m.Run(), nil
}

// findBinaries sets KUBEBUILDER_ASSETS, which envtest reads. Binaries that are
// not built are an error and never a reason to skip.
func findBinaries() error {
	if os.Getenv("KUBEBUILDER_ASSETS") != "" {
		return nil
	}
	out, err := exec.Command("../../hack/controlplane.sh", "--where").Output()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		return errors.New(strings.TrimPrefix(strings.TrimSpace(string(exit.Stderr)), "error: "))
	}
	if err != nil {
		return fmt.Errorf("look for kube-apiserver and etcd: %w", err)
	}
	return os.Setenv("KUBEBUILDER_ASSETS", strings.TrimSpace(string(out)))
}

func environment(work string) *envtest.Environment {
	existing := false
	env := &envtest.Environment{
		CRDInstallOptions:        envtest.CRDInstallOptions{Paths: []string{"../../config/crd/bases"}, ErrorIfPathMissing: true, MaxTime: deadline},
		UseExistingCluster:       &existing,
		ControlPlaneStartTimeout: startTimeout,
		ControlPlaneStopTimeout:  deadline,
	}
	env.ControlPlane.Etcd = &envtest.Etcd{DataDir: work + "/etcd"}
	env.ControlPlane.GetAPIServer().CertDir = work + "/certs"
	return env
}

func start(env *envtest.Environment, work string) (stop func() error, err error) {
	for _, dir := range []string{work + "/etcd", work + "/certs"} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			return nil, err
		}
	}
	began := time.Now()
	if config, err = env.Start(); err != nil {
		return nil, errors.Join(fmt.Errorf("start the control plane: %w", err), env.Stop())
	}
	fmt.Printf("control plane with CRDs up after %v\n", time.Since(began).Round(100*time.Millisecond))
	release, err := guard(work)
	if err != nil {
		return nil, errors.Join(err, env.Stop())
	}
	return func() error {
		err := env.Stop()
		release()
		return err
	}, nil
}

// guard ends etcd and the API server when this process dies without doing so: a
// panic, a timeout of go test and a SIGKILL run no deferred functions. It waits
// for the end of a pipe that only this process holds open.
func guard(work string) (release func(), err error) {
	pids, err := exec.Command("pgrep", "-P", strconv.Itoa(os.Getpid()), "-x", "etcd|kube-apiserver").Output()
	if err != nil {
		return nil, fmt.Errorf("find etcd and kube-apiserver among the children: %w", err)
	}
	const script = `read -r _; work=$0; kill -KILL "$@" 2>/dev/null; rm -rf "$work"`
	cmd := exec.Command("sh", append([]string{"-c", script, work}, strings.Fields(string(pids))...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	pipe, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the guard of the control plane: %w", err)
	}
	return func() { _ = cmd.Process.Kill(); _ = pipe.Close(); _ = cmd.Wait() }, nil
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

// object is one of ours by its content.
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
