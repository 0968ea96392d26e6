package pods

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	goruntime "runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// socketIn returns a path for a socket: short, since the kernel allows 107 bytes.
func socketIn(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "cri")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return filepath.Join(dir, "cri.sock")
}

// eventful lists by events alone once its subscription is old enough.
func eventful(t *testing.T, r *runtime) (*recorder, func()) {
	t.Helper()
	socket := socketIn(t)
	r.serve(t, socket)
	rec, end := record(t, quick, socket)
	until(t, "subscription", func() bool { return r.count(&r.subscriptions) == 1 })
	before := -1
	until(t, "no more polling", func() bool {
		now := r.count(&r.lists)
		settled := now == before
		before = now
		time.Sleep(3 * quick.poll)
		return settled
	})
	return rec, end
}

func TestSandboxesComeAndGo(t *testing.T) {
	r := newRuntime()
	r.start(inNetns("a1", "a", "cni-a"))
	r.start(sandbox{id: "h1", uid: "h", network: cri.NamespaceMode_NODE, info: spec(`{"type":"pid"}`)})
	gone := inNetns("g1", "g", "cni-g")
	gone.stopped = true
	r.start(gone)
	rec, _ := eventful(t, r)
	rec.await(t, "a1=cni-a h1=host ")
	if got, want := rec.lists[0][0], (Sandbox{ID: "a1", UID: "a", Namespace: "lab", Name: "pod-a", Netns: "cni-a"}); got != want {
		t.Errorf("sandbox is %+v, want %+v", got, want)
	}
	r.start(inNetns("b1", "b", "cni-b"))
	rec.await(t, "a1=cni-a b1=cni-b h1=host ")
	r.end("a1")
	rec.await(t, "b1=cni-b h1=host ")
	r.remove("a1")
	// The kubelet's answer to a sandbox that was killed.
	r.end("b1")
	rec.await(t, "h1=host ")
	again := inNetns("b2", "b", "cni-b2")
	again.attempt = 1
	r.start(again)
	rec.await(t, "b2=cni-b2 h1=host ")
	if got := r.count(&r.statuses); got != 4 {
		t.Errorf("%d sandboxes were asked for, want each once: 4", got)
	}
}

func TestNewestSandboxOfAPodWins(t *testing.T) {
	for _, test := range []struct {
		name string
		list []sandbox
		want string
	}{
		{"created later", []sandbox{{id: "old", created: 1}, {id: "new", created: 2}}, "new"},
		{"listed first", []sandbox{{id: "new", created: 2}, {id: "old", created: 1}}, "new"},
		{"same moment", []sandbox{{id: "new", attempt: 1}, {id: "old"}}, "new"},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := newRuntime()
			for _, s := range test.list {
				s.uid, s.info = "a", inNetns("", "", "cni-"+s.id).info
				r.start(s)
			}
			socket := socketIn(t)
			r.serve(t, socket)
			rec, _ := record(t, quick, socket)
			rec.await(t, test.want+"=cni-"+test.want+" ")
		})
	}
}

func TestManyEventsAreOneListing(t *testing.T) {
	r := newRuntime()
	p := quick
	p.rest = 300 * time.Millisecond
	socket := socketIn(t)
	r.serve(t, socket)
	rec, _ := record(t, p, socket)
	rec.await(t, "")
	until(t, "subscription", func() bool { return r.count(&r.subscriptions) == 1 })
	before := r.count(&r.lists)
	until(t, "quiet", func() bool {
		now := r.count(&r.lists)
		settled := now == before
		before = now
		time.Sleep(3 * p.poll)
		return settled
	})
	want := ""
	for _, id := range []string{"a", "b", "c", "d", "e"} {
		r.start(inNetns(id, id, "cni-"+id))
		want += id + "=cni-" + id + " "
	}
	rec.await(t, want)
	if got := r.count(&r.lists) - before; got > 2 {
		t.Errorf("ten events led to %d listings", got)
	}
	if _, times := rec.last(); times != 2 {
		t.Errorf("told %d times, want twice: none, all", times)
	}
}

// Whoever takes events from containerd 1.x takes them from the kubelet.
func TestEventsOfOldContainerdAreLeftToTheKubelet(t *testing.T) {
	r := newRuntime()
	r.version = "1.7.24~ds1"
	socket := socketIn(t)
	r.serve(t, socket)
	rec, _ := record(t, quick, socket)
	rec.await(t, "")
	r.start(inNetns("a1", "a", "cni-a"))
	rec.await(t, "a1=cni-a ")
	if got := r.count(&r.subscriptions); got != 0 {
		t.Errorf("subscribed %d times", got)
	}
}

func TestRuntimesWithoutEventsAreListedAtIntervals(t *testing.T) {
	for _, test := range []struct {
		name string
		set  func(*runtime)
	}{
		{"unimplemented", func(r *runtime) { r.silent = true }},
		{"stream ends", func(r *runtime) { r.broken = true }},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := newRuntime()
			test.set(r)
			socket := socketIn(t)
			r.serve(t, socket)
			rec, _ := record(t, quick, socket)
			r.start(inNetns("a1", "a", "cni-a"))
			rec.await(t, "a1=cni-a ")
			r.end("a1")
			rec.await(t, "")
			until(t, "another try", func() bool { return r.count(&r.subscriptions) > 1 })
			rec.mu.Lock()
			defer rec.mu.Unlock()
			if rec.errs != 0 {
				t.Errorf("%d failures were told", rec.errs)
			}
		})
	}
}

func TestPokeLists(t *testing.T) {
	r := newRuntime()
	rec, _ := eventful(t, r)
	rec.await(t, "")
	rec.Poke()
	rec.Poke()
	// The runtime makes the namespace first and the sandbox later, without a word.
	before := r.count(&r.lists)
	until(t, "listing", func() bool { return r.count(&r.lists) > before })
	r.mu.Lock()
	r.sandboxes = append(r.sandboxes, inNetns("a1", "a", "cni-a"))
	r.mu.Unlock()
	rec.await(t, "a1=cni-a ")
}

func TestLostEventsAreMadeUpFor(t *testing.T) {
	r := newRuntime()
	p := quick
	p.resync = 50 * time.Millisecond
	socket := socketIn(t)
	r.serve(t, socket)
	rec, _ := record(t, p, socket)
	rec.await(t, "")
	until(t, "subscription", func() bool { return r.count(&r.subscriptions) == 1 })
	r.mu.Lock()
	r.sandboxes = append(r.sandboxes, inNetns("a1", "a", "cni-a"))
	r.mu.Unlock()
	rec.await(t, "a1=cni-a ")
}

func TestRuntimeIsAwaitedAndFoundAgain(t *testing.T) {
	r := newRuntime()
	r.start(inNetns("a1", "a", "cni-a"))
	socket := socketIn(t)
	rec, _ := record(t, quick, socket)
	until(t, "lost", func() bool { rec.mu.Lock(); defer rec.mu.Unlock(); return rec.errs > 3 })
	r.serve(t, socket)
	rec.await(t, "a1=cni-a ")

	r.stop()
	until(t, "lost again", func() bool { rec.mu.Lock(); defer rec.mu.Unlock(); return len(rec.log) == 3 })
	if got, times := rec.last(); times != 1 {
		t.Errorf("told %q when the runtime ended", got)
	}
	r.start(inNetns("b1", "b", "cni-b"))
	// containerd's first answers, before it knows its sandboxes.
	r.fail(status.Error(codes.Unknown, "server is not initialized yet"))
	statuses := r.count(&r.statuses)
	r.serve(t, socket)
	errs := func() int { rec.mu.Lock(); defer rec.mu.Unlock(); return rec.errs }
	before := errs()
	until(t, "refusals", func() bool { return errs() > before+3 })
	r.fail(nil)
	rec.await(t, "a1=cni-a b1=cni-b ")
	if got := r.count(&r.statuses) - statuses; got != 1 {
		t.Errorf("%d sandboxes were asked for, want the new one only", got)
	}
	rec.mu.Lock()
	defer rec.mu.Unlock()
	want := []string{"lost", "found cri.sock containerd v2.1.0", "lost", "found cri.sock containerd v2.1.0"}
	if !slices.Equal(rec.log, want) {
		t.Errorf("told %q, want %q", rec.log, want)
	}
}

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

func TestSandboxesThatCannotBeUsed(t *testing.T) {
	r := newRuntime()
	r.start(sandbox{id: "bare", uid: "1"})
	r.start(sandbox{id: "broken", uid: "2", info: map[string]string{"info": `{"runtimeSpec":`}})
	r.start(sandbox{id: "docker", uid: "3", info: spec(`{"type":"network","path":"/run/docker/netns/abc"}`)})
	r.start(inNetns("fine", "4", "cni-fine"))
	socket := socketIn(t)
	r.serve(t, socket)
	rec, _ := record(t, quick, socket)
	rec.await(t, `bare!the container runtime does not tell its network namespace: containerd and CRI-O do `+
		`broken!read what the container runtime tells of its network namespace: unexpected end of JSON input `+
		`docker!its network namespace is at "/run/docker/netns/abc": the container runtime must keep namespaces under /run/netns `+
		`fine=cni-fine `)
	before := r.count(&r.lists)
	until(t, "more listings", func() bool { rec.Poke(); return r.count(&r.lists) > before+2 })
	if got := r.count(&r.statuses); got != 4 {
		t.Errorf("%d sandboxes were asked for, want each once: 4", got)
	}
}

// The first list waits for all answers: who is missing in it was built by an
// earlier process perhaps. Later a sandbox without an answer stops no other.
func TestSlowAnswers(t *testing.T) {
	r := newRuntime()
	slow := inNetns("s1", "s", "cni-s")
	slow.hang = true
	r.start(slow)
	r.start(inNetns("a1", "a", "cni-a"))
	socket := socketIn(t)
	r.serve(t, socket)
	p := quick
	p.status = 30 * time.Millisecond
	rec, _ := record(t, p, socket)
	until(t, "three listings", func() bool { return r.count(&r.lists) > 3 })
	if got, times := rec.last(); times != 0 {
		t.Fatalf("told %q before all answered", got)
	}
	r.change("s1", func(s *sandbox) { s.hang = false })
	rec.await(t, "a1=cni-a s1=cni-s ")

	failing := inNetns("f1", "f", "cni-f")
	failing.status = status.Error(codes.Unknown, "no shim")
	r.start(failing)
	rec.await(t, "a1=cni-a f1!the container runtime does not describe its sandbox: ask for sandbox f1: rpc error: code = Unknown desc = no shim s1=cni-s ")
	r.change("f1", func(s *sandbox) { s.status = nil })
	rec.await(t, "a1=cni-a f1=cni-f s1=cni-s ")
	rec.mu.Lock()
	defer rec.mu.Unlock()
	if len(rec.log) != 1 {
		t.Errorf("told %q, want that the runtime was found", rec.log)
	}
}

func TestPatienceEnds(t *testing.T) {
	r := newRuntime()
	slow := inNetns("s1", "s", "cni-s")
	slow.hang = true
	r.start(slow)
	r.start(inNetns("a1", "a", "cni-a"))
	socket := socketIn(t)
	r.serve(t, socket)
	p := quick
	p.status, p.patience = 20*time.Millisecond, 100*time.Millisecond
	rec, _ := record(t, p, socket)
	until(t, "a list", func() bool { _, times := rec.last(); return times > 0 })
	if got, _ := rec.last(); !strings.HasPrefix(got, "a1=cni-a s1!the container runtime does not describe its sandbox: ") {
		t.Errorf("told %q", got)
	}
}

// What stops between list and question is gone, not a problem.
func TestSandboxGoneMeanwhile(t *testing.T) {
	r := newRuntime()
	gone := inNetns("g1", "g", "cni-g")
	gone.status = status.Error(codes.NotFound, "not found")
	r.start(gone)
	r.start(inNetns("a1", "a", "cni-a"))
	socket := socketIn(t)
	r.serve(t, socket)
	rec, _ := record(t, quick, socket)
	rec.await(t, "a1=cni-a ")
}

func TestNothingLeaks(t *testing.T) {
	r := newRuntime()
	r.start(inNetns("a1", "a", "cni-a"))
	socket := socketIn(t)
	r.serve(t, socket)
	round := func() {
		rec, end := record(t, quick, socket)
		rec.await(t, "a1=cni-a ")
		end()
	}
	round()
	threads, files := goruntime.NumGoroutine(), openFiles(t)
	for range 20 {
		round()
	}
	// The server's side ends a moment later.
	until(t, "all ended", func() bool { return goruntime.NumGoroutine() <= threads && openFiles(t) <= files })
	rec, end := record(t, quick, socket)
	rec.await(t, "a1=cni-a ")
	threads, files = goruntime.NumGoroutine(), openFiles(t)
	r.fail(errors.New("out of order"))
	until(t, "many tries", func() bool { rec.mu.Lock(); defer rec.mu.Unlock(); return rec.errs > 20 })
	r.fail(nil)
	until(t, "no more than before", func() bool { return goruntime.NumGoroutine() <= threads && openFiles(t) <= files })
	end()
}

func openFiles(t *testing.T) int {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
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
