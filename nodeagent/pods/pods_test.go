package pods

import (
	"errors"
	"os"
	"path/filepath"
	goruntime "runtime"
	"slices"
	"testing"
	"time"

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

// A subscriber to the events of containerd 1.x takes them from the kubelet.
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
