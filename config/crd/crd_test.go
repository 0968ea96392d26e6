package crd_test

import (
	"context"
	"testing"

	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/install"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/yaml"

	"github.com/patchbay-dev/patchbay/config/crd"
)

// TestManifestsAreValid runs the API server's own checks of a new CRD: that its
// schema is structural, that its defaults validate, that its rules compile and
// that their estimated cost is within the budget.
func TestManifestsAreValid(t *testing.T) {
	scheme := runtime.NewScheme()
	install.Install(scheme)
	manifests, err := crd.Manifests()
	if err != nil {
		t.Fatal(err)
	}
	if len(manifests) != 4 {
		t.Fatalf("%d CRDs, want 4", len(manifests))
	}
	for _, m := range manifests {
		var def apiextensionsv1.CustomResourceDefinition
		if err := yaml.UnmarshalStrict(m, &def); err != nil {
			t.Fatal(err)
		}
		t.Run(def.Name, func(t *testing.T) {
			scheme.Default(&def)
			var internal apiextensions.CustomResourceDefinition
			if err := scheme.Convert(&def, &internal, nil); err != nil {
				t.Fatal(err)
			}
			// The server has set this before it validates.
			internal.Status.StoredVersions = []string{"v1alpha1"}
			for _, e := range validation.ValidateCustomResourceDefinition(context.Background(), &internal) {
				t.Error(e)
			}
		})
	}
}
