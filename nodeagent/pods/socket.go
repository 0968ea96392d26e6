package pods

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// knownSockets are where runtimes listen, in the order in which they are tried:
// in the agent's pod the node's /run is /host/run.
var knownSockets = underRoots([]string{"/host", ""}, []string{
	"/run/containerd/containerd.sock",
	"/run/crio/crio.sock",
	"/run/k3s/containerd/containerd.sock",
	"/run/cri-dockerd.sock",
})

func underRoots(roots, paths []string) []string {
	var out []string
	for _, root := range roots {
		for _, path := range paths {
			out = append(out, root+path)
		}
	}
	return out
}

// ParseSocket returns the path of a socket that a person wrote as /PATH or
// unix:///PATH; nothing remains nothing.
func ParseSocket(socket string) (string, error) {
	if socket == "" {
		return "", nil
	}
	path := strings.TrimPrefix(socket, "unix://")
	if !filepath.IsAbs(path) {
		return "", fmt.Errorf("%q is no absolute path of a socket, such as /run/containerd/containerd.sock or unix:///run/containerd/containerd.sock", socket)
	}
	return filepath.Clean(path), nil
}

// connect returns a connection to the first runtime that answers. That a socket
// is there does not suffice: Docker's containerd has one and speaks no CRI. Once
// one has listed a pod it is this node's: while it restarts, the empty list of an
// idle one would unwire every pod.
func (w *watch) connect(ctx context.Context) (*client, error) {
	var errs []error
	places := w.places
	if w.home != "" {
		places = []string{w.home}
	}
	for _, path := range places {
		info, err := os.Stat(path)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			continue
		case err != nil:
			errs = append(errs, err)
			continue
		case info.Mode().Type() != fs.ModeSocket:
			errs = append(errs, fmt.Errorf("%s is no socket", path))
			continue
		}
		c, err := dial(ctx, path, w.pace.call)
		if err == nil {
			return c, nil
		}
		errs = append(errs, err)
	}
	if len(errs) == 0 {
		return nil, fmt.Errorf("no container runtime listens at any of %s", strings.Join(places, ", "))
	}
	return nil, errors.Join(errs...)
}
