package pods

import (
	"context"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// sandbox is one of the fake runtime's.
type sandbox struct {
	id, uid string
	created int64
	attempt uint32
	network cri.NamespaceMode
	info    map[string]string
	stopped bool
	// status is what to answer instead of a description; hang is to not answer.
	status error
	hang   bool
}

// runtime is a fake that does what containerd was seen to do: a sandbox is
// listed as ready before its start is told, as no longer ready before its stop
// is, and stays listed until it is removed; the filter of a list is heeded.
type runtime struct {
	cri.UnimplementedRuntimeServiceServer
	name, version string
	// silent has no events; broken ends a subscription at once.
	silent, broken bool

	mu          sync.Mutex
	server      *grpc.Server
	sandboxes   []sandbox
	listings    error
	subscribers map[chan *cri.ContainerEventResponse]bool
	// lists, statuses and subscriptions count calls.
	lists, statuses, subscriptions int
}

func newRuntime() *runtime {
	return &runtime{name: "containerd", version: "v2.1.0", subscribers: map[chan *cri.ContainerEventResponse]bool{}}
}

// serve listens on a socket until stop or the test's end.
func (r *runtime) serve(t *testing.T, socket string) {
	t.Helper()
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	r.server = serve(t, listener, func(s *grpc.Server) { cri.RegisterRuntimeServiceServer(s, r) })
}

// serve serves gRPC until the test's end.
func serve(t *testing.T, l net.Listener, register func(*grpc.Server)) *grpc.Server {
	server, done := grpc.NewServer(), make(chan struct{})
	register(server)
	go func() { defer close(done); _ = server.Serve(l) }()
	t.Cleanup(func() { server.Stop(); <-done })
	return server
}

// stop ends the runtime and removes its socket, as a restart of it does.
func (r *runtime) stop() { r.server.Stop() }

func (r *runtime) Version(context.Context, *cri.VersionRequest) (*cri.VersionResponse, error) {
	return &cri.VersionResponse{RuntimeName: r.name, RuntimeVersion: r.version}, nil
}

func (r *runtime) ListPodSandbox(_ context.Context, q *cri.ListPodSandboxRequest) (*cri.ListPodSandboxResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lists++
	if r.listings != nil {
		return nil, r.listings
	}
	out := &cri.ListPodSandboxResponse{}
	for _, s := range r.sandboxes {
		item := &cri.PodSandbox{Id: s.id, Metadata: s.metadata(), State: s.state(), CreatedAt: s.created}
		if f := q.GetFilter().GetState(); f == nil || f.GetState() == item.State {
			out.Items = append(out.Items, item)
		}
	}
	return out, nil
}

func (r *runtime) PodSandboxStatus(ctx context.Context, q *cri.PodSandboxStatusRequest) (*cri.PodSandboxStatusResponse, error) {
	r.mu.Lock()
	r.statuses++
	i := slices.IndexFunc(r.sandboxes, func(s sandbox) bool { return s.id == q.PodSandboxId })
	if i < 0 {
		r.mu.Unlock()
		return nil, status.Error(codes.NotFound, "an error occurred when try to find sandbox: not found")
	}
	s := r.sandboxes[i]
	r.mu.Unlock()
	switch {
	case s.hang:
		<-ctx.Done()
		return nil, ctx.Err()
	case s.status != nil:
		return nil, s.status
	}
	out := &cri.PodSandboxStatusResponse{Status: &cri.PodSandboxStatus{
		Id: s.id, Metadata: s.metadata(), State: s.state(), CreatedAt: s.created,
		Linux: &cri.LinuxPodSandboxStatus{Namespaces: &cri.Namespace{Options: &cri.NamespaceOption{Network: s.network}}},
	}}
	if q.Verbose {
		out.Info = s.info
	}
	return out, nil
}

func (r *runtime) GetContainerEvents(_ *cri.GetEventsRequest, stream cri.RuntimeService_GetContainerEventsServer) error {
	r.mu.Lock()
	r.subscriptions++
	r.mu.Unlock()
	switch {
	case r.silent:
		return status.Error(codes.Unimplemented, "unknown method GetContainerEvents")
	case r.broken:
		return nil
	}
	sent := make(chan *cri.ContainerEventResponse, 100)
	r.mu.Lock()
	r.subscribers[sent] = true
	r.mu.Unlock()
	defer func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.subscribers, sent)
	}()
	for {
		select {
		case <-stream.Context().Done():
			return nil
		case e := <-sent:
			if err := stream.Send(e); err != nil {
				return err
			}
		}
	}
}

func (s sandbox) metadata() *cri.PodSandboxMetadata {
	return &cri.PodSandboxMetadata{Uid: s.uid, Namespace: "lab", Name: "pod-" + s.uid, Attempt: s.attempt}
}

func (s sandbox) state() cri.PodSandboxState {
	if s.stopped {
		return cri.PodSandboxState_SANDBOX_NOTREADY
	}
	return cri.PodSandboxState_SANDBOX_READY
}

// start adds a sandbox, and tells of it after that.
func (r *runtime) start(s sandbox) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sandboxes = append(r.sandboxes, s)
	r.tell(s.id, cri.ContainerEventType_CONTAINER_CREATED_EVENT)
	r.tell(s.id, cri.ContainerEventType_CONTAINER_STARTED_EVENT)
}

// change changes a sandbox without telling.
func (r *runtime) change(id string, change func(*sandbox)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	i := slices.IndexFunc(r.sandboxes, func(s sandbox) bool { return s.id == id })
	change(&r.sandboxes[i])
}

// end stops a sandbox, which goes on being listed.
func (r *runtime) end(id string) {
	r.change(id, func(s *sandbox) { s.stopped = true })
	r.mu.Lock()
	defer r.mu.Unlock()
	r.tell(id, cri.ContainerEventType_CONTAINER_STOPPED_EVENT)
}

// remove takes a sandbox off the list; containerd tells that of containers only.
func (r *runtime) remove(id string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sandboxes = slices.DeleteFunc(r.sandboxes, func(s sandbox) bool { return s.id == id })
}

func (r *runtime) tell(id string, kind cri.ContainerEventType) {
	for s := range r.subscribers {
		s <- &cri.ContainerEventResponse{ContainerId: id, ContainerEventType: kind}
	}
}

// fail has the runtime refuse to list.
func (r *runtime) fail(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.listings = err
}

func (r *runtime) count(what *int) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return *what
}

// inNetns is a sandbox with a network namespace, as containerd describes it.
func inNetns(id, uid, name string) sandbox {
	return sandbox{id: id, uid: uid, info: spec(fmt.Sprintf(`{"type":"pid"},{"type":"network","path":"/var/run/netns/%s"}`, name))}
}

// spec is a description with a list of namespaces.
func spec(namespaces string) map[string]string {
	return map[string]string{"info": `{"pid":682,"processStatus":"running","netNamespaceClosed":false,"runtimeSpec":{"ociVersion":"1.2.0","linux":{"namespaces":[` + namespaces + `]}},"cniResult":null}`}
}

// recorder keeps what a Watch told.
type recorder struct {
	*Runtime
	mu    sync.Mutex
	lists [][]Sandbox
	log   []string
	errs  int
	more  chan struct{}
}

// quick are paces for tests: whatever a test does not want does not happen in
// its time.
var quick = pace{
	rest: 5 * time.Millisecond, poll: 20 * time.Millisecond, resync: time.Hour, urgent: 10 * time.Millisecond, hurry: 200 * time.Millisecond,
	retry: 5 * time.Millisecond, retryMax: 20 * time.Millisecond, call: 5 * time.Second, status: 5 * time.Second, patience: time.Hour,
}

// record starts a Watch that ends with the test, or by the function returned.
func record(t *testing.T, p pace, sockets ...string) (*recorder, func()) {
	t.Helper()
	rec := &recorder{more: make(chan struct{}, 1)}
	note := func(text string) {
		rec.mu.Lock()
		defer rec.mu.Unlock()
		rec.log = append(rec.log, text)
	}
	rec.Runtime = New(Options{
		Found: func(socket, runtime string) { note("found " + filepath.Base(socket) + " " + runtime) },
		Lost:  func(error) { note("lost") },
		Failed: func(error) {
			rec.mu.Lock()
			defer rec.mu.Unlock()
			rec.errs++
		},
	})
	rec.places, rec.pace = sockets, p
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); rec.Watch(ctx, rec.take) }()
	end := func() { cancel(); <-done }
	t.Cleanup(end)
	return rec, end
}

func (r *recorder) take(list []Sandbox) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lists = append(r.lists, list)
	select {
	case r.more <- struct{}{}:
	default:
	}
}

// last returns the last call's sandboxes, and the number of calls.
func (r *recorder) last() (text string, times int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.lists) == 0 {
		return "nothing", 0
	}
	return show(r.lists[len(r.lists)-1]), len(r.lists)
}

// show writes sandboxes as "ID=netns" with their problems.
func show(list []Sandbox) string {
	text := ""
	for _, s := range list {
		switch {
		case s.Problem != "":
			text += s.ID + "!" + s.Problem + " "
		case s.HostNetwork:
			text += s.ID + "=host "
		default:
			text += s.ID + "=" + s.Netns + " "
		}
	}
	return text
}

// await waits until a list was told.
func (r *recorder) await(t *testing.T, want string) {
	t.Helper()
	deadline := time.After(10 * time.Second)
	for {
		got, _ := r.last()
		if got == want {
			return
		}
		select {
		case <-r.more:
		case <-deadline:
			t.Fatalf("told was %q, want %q", got, want)
		}
	}
}

// until waits for a condition.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: not within 10 s", what)
		}
	}
}
