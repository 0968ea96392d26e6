package dir

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/patchbay-dev/patchbay/api/v1alpha1"
)

// watched is a folder m in the test's working directory, and what Watch says of
// it.
type watched struct {
	t         *testing.T
	snapshots chan Snapshot
	latest    Snapshot
}

func watch(t *testing.T, prepare func()) *watched {
	t.Helper()
	t.Chdir(t.TempDir())
	mkdir(t, "m")
	prepare()
	w := &watched{t: t, snapshots: make(chan Snapshot, 100)}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	v := validator(t)
	go func() { done <- Watch(ctx, "m", v, func(s Snapshot) { w.snapshots <- s }) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return w
}

// until waits for a snapshot with these documents and errors.
func (w *watched) until(documents, errs []string) {
	w.t.Helper()
	deadline := time.After(10 * time.Second)
	var diff string
	for {
		select {
		case s := <-w.snapshots:
			w.latest = s
			var got []string
			for _, e := range s.Errors {
				got = append(got, e.Error())
			}
			diff = gocmp.Diff(documents, names(s.Documents)) + gocmp.Diff(errs, got)
			if s.Complete != (len(errs) == 0) {
				diff += "Complete is wrong"
			}
			if diff == "" {
				return
			}
		case <-deadline:
			w.t.Fatalf("never seen, last: want -, got +:\n%s", diff)
		}
	}
}

func mkdir(t *testing.T, path string) {
	t.Helper()
	if err := os.MkdirAll(path, 0o755); err != nil {
		t.Fatal(err)
	}
}

func remove(t *testing.T, path string) {
	t.Helper()
	if err := os.RemoveAll(path); err != nil {
		t.Fatal(err)
	}
}

func rename(t *testing.T, from, to string) {
	t.Helper()
	if err := os.Rename(from, to); err != nil {
		t.Fatal(err)
	}
}

func link(t *testing.T, target, path string) {
	t.Helper()
	if err := os.Symlink(target, path); err != nil {
		t.Fatal(err)
	}
}

var (
	redIn  = "a.yaml BridgeNetwork//red"
	net1In = "b.yaml NamespaceAttachment/default/net1"
)

func both(t *testing.T) func() {
	return func() {
		write(t, "m/a.yaml", network)
		write(t, "m/b.yaml", attachment)
	}
}

func TestWatchChanges(t *testing.T) {
	w := watch(t, func() {})
	w.until(nil, nil)
	write(t, "m/a.yaml", network)
	w.until([]string{redIn}, nil)
	write(t, "m/b.yaml", attachment)
	w.until([]string{redIn, net1In}, nil)
	remove(t, "m/a.yaml")
	w.until([]string{net1In}, nil)
	write(t, "m/a.yaml", network)
	w.until([]string{redIn, net1In}, nil)
}

func TestWatchBrokenFile(t *testing.T) {
	w := watch(t, both(t))
	w.until([]string{redIn, net1In}, nil)
	write(t, "m/a.yaml", network+"spec: {bri")
	w.until([]string{redIn, net1In}, []string{"m/a.yaml: yaml: line 3: did not find expected ',' or '}'"})
	// What leaves while another file is broken is not complete news either.
	remove(t, "m/b.yaml")
	w.until([]string{redIn}, []string{"m/a.yaml: yaml: line 3: did not find expected ',' or '}'"})
	write(t, "m/a.yaml", network+"spec: {bridge: {mtu: 1400}}")
	w.until([]string{redIn}, nil)
	if mtu := w.latest.Documents[0].Object.(*v1alpha1.BridgeNetwork).Spec.Bridge.MTU; mtu == nil || *mtu != 1400 {
		t.Errorf("mtu %v, want 1400", mtu)
	}
}

func TestWatchBrokenFromTheStart(t *testing.T) {
	w := watch(t, func() {
		both(t)()
		write(t, "m/a.yaml", "kind")
	})
	w.until([]string{net1In}, []string{"m/a.yaml: line 1: must be an object with apiVersion, kind and metadata"})
}

func TestWatchTruncatedFile(t *testing.T) {
	w := watch(t, both(t))
	w.until([]string{redIn, net1In}, nil)
	write(t, "m/a.yaml", "")
	w.until([]string{redIn, net1In}, []string{"m/a.yaml: is empty; delete the file to delete what was in it"})
	write(t, "m/a.yaml", "# nothing any more\n")
	w.until([]string{net1In}, nil)
}

func TestWatchUnreadable(t *testing.T) {
	w := watch(t, both(t))
	w.until([]string{redIn, net1In}, nil)
	remove(t, "m/a.yaml")
	mkdir(t, "m/a.yaml")
	w.until([]string{redIn, net1In}, []string{"m/a.yaml: is not a regular file"})
	remove(t, "m/a.yaml")
	link(t, "nowhere", "m/a.yaml")
	w.until([]string{redIn, net1In}, []string{"m/a.yaml: no such file or directory"})
	remove(t, "m/a.yaml")
	w.until([]string{net1In}, nil)
}

func TestWatchRenameReplace(t *testing.T) {
	w := watch(t, both(t))
	w.until([]string{redIn, net1In}, nil)
	write(t, "m/.a.yaml.tmp", strings.Replace(network, "red", "blue", 1))
	rename(t, "m/.a.yaml.tmp", "m/a.yaml")
	w.until([]string{"a.yaml BridgeNetwork//blue", net1In}, nil)
	rename(t, "m/a.yaml", "m/c.yaml")
	w.until([]string{net1In, "c.yaml BridgeNetwork//blue"}, nil)
}

// A ConfigMap mount is a link to ..data, itself a link that is replaced.
func TestWatchConfigMap(t *testing.T) {
	w := watch(t, func() {
		mkdir(t, "m/..1")
		write(t, "m/..1/a.yaml", network)
		link(t, "..1", "m/..data")
		link(t, "..data/a.yaml", "m/a.yaml")
	})
	w.until([]string{redIn}, nil)
	mkdir(t, "m/..2")
	write(t, "m/..2/a.yaml", strings.Replace(network, "red", "blue", 1))
	link(t, "..2", "m/..data_tmp")
	rename(t, "m/..data_tmp", "m/..data")
	remove(t, "m/..1")
	w.until([]string{"a.yaml BridgeNetwork//blue"}, nil)
}

func TestWatchFolderGoneAndBack(t *testing.T) {
	w := watch(t, both(t))
	w.until([]string{redIn, net1In}, nil)
	remove(t, "m")
	w.until([]string{redIn, net1In}, []string{"m: no such file or directory"})
	mkdir(t, "new")
	write(t, "new/b.yaml", attachment)
	rename(t, "new", "m")
	w.until([]string{net1In}, nil)
	// The new folder is watched, too.
	write(t, "m/a.yaml", network)
	w.until([]string{redIn, net1In}, nil)
	rename(t, "m", "old")
	w.until([]string{redIn, net1In}, []string{"m: no such file or directory"})
	write(t, "m", "")
	w.until([]string{redIn, net1In}, []string{"m: is not a folder"})
	remove(t, "m")
	mkdir(t, "m")
	w.until(nil, nil)
}

func TestWatchFolderNotThereYet(t *testing.T) {
	t.Chdir(t.TempDir())
	snapshots := make(chan Snapshot, 10)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	v := validator(t)
	go func() { done <- Watch(ctx, "etc/patchbay/m", v, func(s Snapshot) { snapshots <- s }) }()
	if s := <-snapshots; s.Complete || len(s.Errors) != 1 {
		t.Errorf("a missing folder is complete: %+v", s)
	}
	mkdir(t, "etc")
	mkdir(t, "etc/patchbay/m")
	write(t, "etc/patchbay/m/a.yaml", network)
	w := &watched{t: t, snapshots: snapshots}
	w.until([]string{redIn}, nil)
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestWatchImmutableChange(t *testing.T) {
	w := watch(t, func() { write(t, "m/a.yaml", network+"spec: {bridge: {name: br1}}\n") })
	w.until([]string{redIn}, nil)
	write(t, "m/a.yaml", network+"spec: {bridge: {name: br2}}\n")
	w.until([]string{redIn}, []string{"m/a.yaml: BridgeNetwork/red: spec.bridge.name: is immutable: delete the network and create it anew"})
	if name := w.latest.Documents[0].Object.(*v1alpha1.BridgeNetwork).Spec.Bridge.Name; name != "br1" {
		t.Errorf("bridge %s, want the last good br1", name)
	}
	remove(t, "m/a.yaml")
	w.until(nil, nil)
	write(t, "m/a.yaml", network+"spec: {bridge: {name: br2}}\n")
	w.until([]string{redIn}, nil)
}

func TestWatchDuplicates(t *testing.T) {
	w := watch(t, func() { write(t, "m/b.yaml", network) })
	w.until([]string{"b.yaml BridgeNetwork//red"}, nil)
	// The newcomer is wrong, though it stands first.
	write(t, "m/a.yaml", network)
	w.until([]string{"b.yaml BridgeNetwork//red"}, []string{"m/a.yaml: BridgeNetwork/red: is defined in m/b.yaml already; keep one of them"})
	remove(t, "m/b.yaml")
	w.until([]string{redIn}, nil)
}

func TestTrackerGenerations(t *testing.T) {
	folder := t.TempDir()
	path := filepath.Join(folder, "a.yaml")
	track := newTracker(folder, validator(t))
	write(t, path, network)
	first := track.scan().Documents[0].Object.(*v1alpha1.BridgeNetwork)
	// A reporter may fill in the status of the object that it was given.
	first.Status.Nodes.Ready = 1
	write(t, path, "# a comment\n"+network)
	if same := track.scan().Documents[0].Object; same != v1alpha1.Object(first) {
		t.Error("an object without a change is another one")
	}
	write(t, path, strings.Replace(network, "red}", "red, labels: {a: b}}", 1))
	labelled := track.scan().Documents[0].Object
	if labelled.GetGeneration() != 1 || labelled.GetLabels()["a"] != "b" {
		t.Errorf("labelled: %+v", labelled)
	}
	write(t, path, network+"spec: {bridge: {mtu: 1400}}")
	if g := track.scan().Documents[0].Object.GetGeneration(); g != 2 {
		t.Errorf("generation %d after a change of the spec, want 2", g)
	}
	write(t, path, network+"spec: {bridge: {mtu: 1400}} # again")
	if g := track.scan().Documents[0].Object.GetGeneration(); g != 2 {
		t.Errorf("generation %d without a change, want 2", g)
	}
}

// Two objects change places between two files, and one file breaks: no object is lost or
// there twice.
func TestTrackerCollisions(t *testing.T) {
	folder := t.TempDir()
	blue := strings.Replace(network, "red", "blue", 1)
	a, b, c := filepath.Join(folder, "a.yaml"), filepath.Join(folder, "b.yaml"), filepath.Join(folder, "c.yaml")
	track := newTracker(folder, validator(t))
	write(t, a, blue)
	write(t, b, network)
	track.scan()
	write(t, a, network)
	write(t, b, "{")
	write(t, c, blue)
	s := track.scan()
	want := []string{"a.yaml BridgeNetwork//blue", "b.yaml BridgeNetwork//red"}
	if diff := gocmp.Diff(want, names(s.Documents)); diff != "" {
		t.Errorf("want -, got +:\n%s", diff)
	}
	if len(s.Errors) != 3 || s.Complete {
		t.Errorf("errors %v, want one for each file", s.Errors)
	}
	remove(t, b)
	s = track.scan()
	want = []string{"a.yaml BridgeNetwork//red", "c.yaml BridgeNetwork//blue"}
	if diff := gocmp.Diff(want, names(s.Documents)); diff != "" || !s.Complete {
		t.Errorf("%v want -, got +:\n%s", s.Errors, diff)
	}
}
