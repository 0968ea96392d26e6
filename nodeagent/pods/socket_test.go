package pods

import (
	"net"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"google.golang.org/grpc"
)

// Docker's containerd has its usual socket and speaks no CRI.
func TestFirstRuntimeThatAnswersIsTaken(t *testing.T) {
	dir := filepath.Dir(socketIn(t))
	docker, err := net.Listen("unix", filepath.Join(dir, "docker.sock"))
	if err != nil {
		t.Fatal(err)
	}
	serve(t, docker, func(*grpc.Server) {})
	if err := os.WriteFile(filepath.Join(dir, "file.sock"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	r := newRuntime()
	r.name, r.version = "cri-o", "1.34.0"
	r.serve(t, filepath.Join(dir, "crio.sock"))
	rec, _ := record(t, quick, filepath.Join(dir, "none.sock"), filepath.Join(dir, "file.sock"), filepath.Join(dir, "docker.sock"), filepath.Join(dir, "crio.sock"))
	rec.await(t, "")
	until(t, "found", func() bool { rec.mu.Lock(); defer rec.mu.Unlock(); return len(rec.log) > 0 })
	if want := "found crio.sock cri-o 1.34.0"; rec.log[0] != want {
		t.Errorf("told %q, want %q", rec.log[0], want)
	}
}

func TestParseSocket(t *testing.T) {
	for socket, want := range map[string]string{
		"/run/crio/crio.sock":                      "/run/crio/crio.sock",
		"unix:///run/containerd/containerd.sock":   "/run/containerd/containerd.sock",
		"unix:///run/../run/odd name/%2f?cri.sock": "/run/odd name/%2f?cri.sock",
		"":                     "",
		"run/crio.sock":        "",
		"tcp://127.0.0.1:1":    "",
		"unix://run/crio.sock": "",
	} {
		got, err := ParseSocket(socket)
		if got != want || (err == nil) != (want != "" || socket == "") {
			t.Errorf("%q is %q, %v, want %q", socket, got, err, want)
		}
	}
	if r := New(Options{Socket: "/run/cri.sock"}); !slices.Equal(r.places, []string{"/run/cri.sock"}) {
		t.Errorf("looks at %q", r.places)
	}
	r := New(Options{})
	if len(r.places) != 8 || r.places[0] != "/host/run/containerd/containerd.sock" || r.places[4] != "/run/containerd/containerd.sock" {
		t.Errorf("looks at %q", r.places)
	}
}

// TestRuntimeWithPodsStaysOurs shows that an idle runtime which comes first in the
// list does not make the pods of another go while that restarts.
func TestRuntimeWithPodsStaysOurs(t *testing.T) {
	dir := filepath.Dir(socketIn(t))
	idle, ours := newRuntime(), newRuntime()
	ours.start(inNetns("a1", "a", "cni-a"))
	ours.serve(t, filepath.Join(dir, "ours.sock"))
	rec, _ := record(t, quick, filepath.Join(dir, "idle.sock"), filepath.Join(dir, "ours.sock"))
	rec.await(t, "a1=cni-a ")
	idle.serve(t, filepath.Join(dir, "idle.sock"))
	errs := func() int { rec.mu.Lock(); defer rec.mu.Unlock(); return rec.errs }
	before := errs()
	ours.stop()
	until(t, "tries to reach it", func() bool { return errs() > before+3 })
	if got, times := rec.last(); got != "a1=cni-a " || times != 1 {
		t.Errorf("told %q, %d times", got, times)
	}
	ours.start(inNetns("b1", "b", "cni-b"))
	ours.serve(t, filepath.Join(dir, "ours.sock"))
	rec.await(t, "a1=cni-a b1=cni-b ")
}
