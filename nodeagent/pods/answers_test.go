package pods

import (
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

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
