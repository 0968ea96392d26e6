package report

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/patchbay-dev/patchbay/api/v1alpha1"
	"github.com/patchbay-dev/patchbay/nodeagent/engine"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
)

var someKeys = []netstate.Key{{Kind: netstate.KindLink, Netns: "net1", Link: "eth0"}, {Kind: netstate.KindPublish, Name: "0.0.0.0:80/tcp"}}

// TestKeys shows that keys are read as they were written, that the same ones are not written
// twice, and that nothing is left of them once their resource is gone.
func TestKeys(t *testing.T) {
	store := NewStore(filepath.Join(t.TempDir(), "objects"))
	want := map[netstate.Owner][]netstate.Key{
		{Kind: netstate.OwnerNetwork, Name: "red.example"}:                   someKeys[:1],
		{Kind: netstate.OwnerAttachment, Namespace: "lab", Name: "net1.a.b"}: someKeys,
		{Kind: netstate.OwnerPublish, Namespace: "lab", Name: "web"}:         {},
	}
	for o, keys := range want {
		if err := store.Keep(o, keys); err != nil {
			t.Fatal(err)
		}
		file := store.keysFile(o)
		// A file that is not written to keeps its mode.
		if err := errors.Join(os.Chmod(file, 0o640), store.Keep(o, keys)); err != nil {
			t.Fatal(err)
		}
		if info, err := os.Stat(file); err != nil || info.Mode() != 0o640 {
			t.Errorf("%s: the same keys were written twice (%v)", o, err)
		}
	}
	got, damaged := store.Kept()
	if len(damaged) > 0 || !reflect.DeepEqual(got, want) {
		t.Errorf("kept %v (%v), want %v", got, damaged, want)
	}
	for o := range want {
		if err := store.Remove(o); err != nil {
			t.Error(err)
		}
	}
	if _, err := os.Stat(store.dir); !os.IsNotExist(err) {
		t.Errorf("something is left: %v", err)
	}
}

// TestDamagedKeys shows that keys that cannot be read are named and left out, and that they
// are set aside like records.
func TestDamagedKeys(t *testing.T) {
	for name, damage := range map[string]func(file string) error{
		"empty":        func(file string) error { return os.WriteFile(file, nil, 0o600) },
		"cut":          func(file string) error { return os.WriteFile(file, []byte(`[{"kind":"li`), 0o600) },
		"zeroes":       func(file string) error { return os.WriteFile(file, make([]byte, 4096), 0o600) },
		"unknown kind": func(file string) error { return os.WriteFile(file, []byte(`[{"kind":"cloud"}]`), 0o600) },
		"a folder":     func(file string) error { return os.MkdirAll(filepath.Join(file, "x"), 0o700) },
	} {
		store := NewStore(filepath.Join(t.TempDir(), "objects"))
		good, bad := netstate.Owner{Kind: netstate.OwnerNetwork, Name: "good"}, netstate.Owner{Kind: netstate.OwnerNetwork, Name: "bad"}
		if err := errors.Join(store.Keep(good, someKeys), damage(store.keysFile(bad))); err != nil {
			t.Fatal(err)
		}
		kept, damaged := store.Kept()
		if len(kept) != 1 || kept[good] == nil || len(damaged) != 1 || !strings.Contains(damaged[0].Error(), store.keysFile(bad)) {
			t.Fatalf("%s: kept %v, damaged %v", name, kept, damaged)
		}
		if err := SetAside(damaged[0].File); err != nil {
			t.Error(err)
		}
		if _, damaged := store.Kept(); len(damaged) > 0 {
			t.Errorf("%s: %v is read again", name, damaged)
		}
		if err := errors.Join(store.Remove(good), store.Remove(bad)); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(store.dir); !os.IsNotExist(err) {
			t.Errorf("%s: something is left: %v", name, err)
		}
	}
}

// TestFormer reads the versions that a release without keys kept, until keys are kept.
func TestFormer(t *testing.T) {
	store := NewStore(t.TempDir())
	record, other := attachment(metav1.Condition{}), attachment(metav1.Condition{})
	other.Name = "other"
	owner := engine.InputOf(record).Owner()
	former := "---\n{\"spec\": {\"network\": \"blue\"}}\n---\nspec: {network: green}\n---\n{\"spec\": {"
	if err := os.WriteFile(store.formerFile(owner), []byte(former), 0o600); err != nil {
		t.Fatal(err)
	}
	objects := []v1alpha1.Object{record, other}
	var got []string
	for _, set := range store.Former(objects) {
		if len(set) != 2 || set[1] != objects[1] {
			t.Errorf("a set of %v", set)
		}
		got = append(got, set[0].(*v1alpha1.NamespaceAttachment).Spec.Network)
	}
	if want := []string{"blue", "green", "red"}; !reflect.DeepEqual(got, want) {
		t.Errorf("networks %v, want %v", got, want)
	}
	if err := store.Keep(owner, someKeys); err != nil {
		t.Fatal(err)
	}
	if sets := store.Former(objects); len(sets) > 0 {
		t.Errorf("%v beside keys", sets)
	}
}
