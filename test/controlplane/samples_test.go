package controlplane

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/patchbay-dev/patchbay/nodeagent/source/dir"
)

// TestSamples applies every sample as kubectl apply --server-side does: it is
// accepted, has the defaults that a node without a cluster fills in, and later
// applies change nothing.
func TestSamples(t *testing.T) {
	paths, err := filepath.Glob("../../config/samples/*.yaml")
	if err != nil || len(paths) == 0 {
		t.Fatalf("%v, %d samples", err, len(paths))
	}
	v := validator(t)
	for _, path := range paths {
		t.Run(filepath.Base(path), func(t *testing.T) {
			for _, u := range documents(t, path) {
				applySample(t, v, u)
			}
		})
	}
}

func applySample(t *testing.T, v *dir.Validator, u *unstructured.Unstructured) {
	t.Helper()
	want := u.DeepCopy()
	if errs := v.Validate(want.Object, nil); len(errs) > 0 {
		t.Fatalf("%s/%s: %v", u.GetKind(), u.GetName(), errs)
	}
	if ns := want.GetNamespace(); ns != "" {
		u.SetNamespace(ns)
		ensureNamespace(t, ns)
	}
	first := apply(t, u)
	removeAfter(t, first)
	checkSame(t, want, first)
	// The second one stores the default of status, which the first did not.
	second := apply(t, u)
	if third := apply(t, u); third.GetResourceVersion() != second.GetResourceVersion() {
		t.Errorf("%s/%s: applied again, it changes", u.GetKind(), u.GetName())
	}
	if second.GetGeneration() != 1 {
		t.Errorf("%s/%s: applied again, its generation is %d", u.GetKind(), u.GetName(), second.GetGeneration())
	}
}

func apply(t *testing.T, u *unstructured.Unstructured) *unstructured.Unstructured {
	t.Helper()
	answer := u.DeepCopy()
	err := client.WithFieldValidation(api, metav1.FieldValidationStrict).
		Apply(testContext(t), client.ApplyConfigurationFromUnstructured(answer), client.FieldOwner("kubectl"))
	if err != nil {
		t.Fatalf("apply %s/%s: %v", u.GetKind(), u.GetName(), err)
	}
	return answer
}

// documents are the objects of a file as kubectl reads them.
func documents(t *testing.T, path string) []*unstructured.Unstructured {
	t.Helper()
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	var out []*unstructured.Unstructured
	decoder := yaml.NewYAMLOrJSONDecoder(file, 4096)
	for {
		u := &unstructured.Unstructured{}
		switch err := decoder.Decode(u); {
		case errors.Is(err, io.EOF):
			return out
		case err != nil:
			t.Fatalf("%s: %v", path, err)
		}
		out = append(out, u)
	}
}
