package dir

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
)

// FuzzRead: an accepted object is accepted again as the API would show it, and nothing in
// it changes.
func FuzzRead(f *testing.F) {
	samples, err := filepath.Glob("../../../config/samples/*.yaml")
	if err != nil || len(samples) == 0 {
		f.Fatalf("%v, %d samples", err, len(samples))
	}
	for _, path := range samples {
		data, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Add([]byte(`{"apiVersion":"v1","kind":"List","items":[{"apiVersion":"patchbay.dev/v1alpha1","kind":"BridgeNetwork","metadata":{"name":"a"}}]}`))
	f.Add([]byte("a: &a {b: *a}\n---\n- ? [x]\n: y\n--- #\n<<: {a: 1}\n"))
	v := validator(f)
	f.Fuzz(func(t *testing.T, data []byte) {
		docs, err := Read([]string{Stdin}, bytes.NewReader(data), v)
		if err != nil {
			if docs != nil {
				t.Fatal("documents with an error")
			}
			return
		}
		for _, d := range docs {
			first, err := json.Marshal(d.Object)
			if err != nil {
				t.Fatal(err)
			}
			again, err := Read([]string{Stdin}, bytes.NewReader(first), v)
			if err != nil {
				t.Fatalf("not accepted again: %v\n%s", err, first)
			}
			second, err := json.Marshal(again[0].Object)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(first, second) {
				t.Fatalf("changed when read again:\n%s\n%s", first, second)
			}
		}
	})
}
