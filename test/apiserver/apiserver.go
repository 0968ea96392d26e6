// Package apiserver starts a kube-apiserver and an etcd for tests, built by
// hack/controlplane.sh, with the CRDs of this repository installed.
package apiserver

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
)

const (
	// startTimeout bounds the start of etcd, and of the API server: about 10 s
	// on two idle cores.
	startTimeout = 2 * time.Minute
	// timeout bounds the installation of the CRDs, and the end.
	timeout = time.Minute
)

// Server is a control plane that runs. It ends with this process, however this
// process ends.
type Server struct {
	// Config leads to it, as an administrator.
	Config *rest.Config

	env     *envtest.Environment
	work    string
	release func()
}

// Start returns once the CRDs can be used. The root is the repository's.
// Binaries that are not built are an error and never a reason to skip.
func Start(root string) (*Server, error) {
	if err := findBinaries(root); err != nil {
		return nil, err
	}
	work, err := os.MkdirTemp("", "patchbay-controlplane-")
	if err != nil {
		return nil, err
	}
	s := &Server{env: environment(root, work), work: work, release: func() {}}
	if err := s.start(); err != nil {
		return nil, errors.Join(err, s.Stop())
	}
	return s, nil
}

// Stop ends it and removes its files.
func (s *Server) Stop() error {
	err := s.env.Stop()
	s.release()
	return errors.Join(err, os.RemoveAll(s.work))
}

// findBinaries sets KUBEBUILDER_ASSETS, which envtest reads.
func findBinaries(root string) error {
	if os.Getenv("KUBEBUILDER_ASSETS") != "" {
		return nil
	}
	out, err := exec.Command(filepath.Join(root, "hack/controlplane.sh"), "--where").Output()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		return errors.New(strings.TrimPrefix(strings.TrimSpace(string(exit.Stderr)), "error: "))
	}
	if err != nil {
		return fmt.Errorf("look for kube-apiserver and etcd: %w", err)
	}
	return os.Setenv("KUBEBUILDER_ASSETS", strings.TrimSpace(string(out)))
}

func environment(root, work string) *envtest.Environment {
	existing := false
	crds := filepath.Join(root, "config/crd/bases")
	env := &envtest.Environment{
		CRDInstallOptions:        envtest.CRDInstallOptions{Paths: []string{crds}, ErrorIfPathMissing: true, MaxTime: timeout},
		UseExistingCluster:       &existing,
		ControlPlaneStartTimeout: startTimeout,
		ControlPlaneStopTimeout:  timeout,
	}
	env.ControlPlane.Etcd = &envtest.Etcd{DataDir: filepath.Join(work, "etcd")}
	api := env.ControlPlane.GetAPIServer()
	api.CertDir = filepath.Join(work, "certs")
	// A host without a default route has no address that it takes for its own.
	// No client connects to this one.
	api.Configure().Set("advertise-address", "192.0.2.1")
	return env
}

func (s *Server) start() error {
	for _, dir := range []string{"etcd", "certs"} {
		if err := os.Mkdir(filepath.Join(s.work, dir), 0o700); err != nil {
			return err
		}
	}
	began := time.Now()
	var err error
	if s.Config, err = s.env.Start(); err != nil {
		return fmt.Errorf("start the control plane: %w", err)
	}
	fmt.Printf("control plane with CRDs up after %v\n", time.Since(began).Round(100*time.Millisecond))
	s.release, err = guard(s.work)
	return err
}

// guard ends etcd and the API server when this process dies without doing so: a
// panic, a timeout of go test and a SIGKILL run no deferred functions. It waits
// for the end of a pipe that only this process holds open.
func guard(work string) (release func(), err error) {
	nothing := func() {}
	pids, err := exec.Command("pgrep", "-P", strconv.Itoa(os.Getpid()), "-x", "etcd|kube-apiserver").Output()
	if err != nil {
		return nothing, fmt.Errorf("find etcd and kube-apiserver among the children: %w", err)
	}
	const script = `read -r _; work=$0; kill -KILL "$@" 2>/dev/null; rm -rf "$work"`
	cmd := exec.Command("sh", append([]string{"-c", script, work}, strings.Fields(string(pids))...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	pipe, err := cmd.StdinPipe()
	if err != nil {
		return nothing, err
	}
	if err := cmd.Start(); err != nil {
		return nothing, fmt.Errorf("start the guard of the control plane: %w", err)
	}
	return func() { _ = cmd.Process.Kill(); _ = pipe.Close(); _ = cmd.Wait() }, nil
}
