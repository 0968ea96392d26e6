package crd_test

import (
	"context"
	"testing"

	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/install"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/validation"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel/model"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/version"
	celconfig "k8s.io/apiserver/pkg/apis/cel"
	"k8s.io/apiserver/pkg/cel/environment"
	"sigs.k8s.io/yaml"

	"github.com/patchbay-dev/patchbay/config/crd"
)

// TestManifestsAreValid runs the API server's own checks of a new CRD: that its
// schema is structural, that its defaults validate, that its rules compile and
// that their estimated cost is within the budget.
func TestManifestsAreValid(t *testing.T) {
	scheme := runtime.NewScheme()
	install.Install(scheme)
	for _, def := range definitions(t) {
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

func definitions(t *testing.T) []apiextensionsv1.CustomResourceDefinition {
	t.Helper()
	manifests, err := crd.Manifests()
	if err != nil {
		t.Fatal(err)
	}
	if len(manifests) != 4 {
		t.Fatalf("%d CRDs, want 4", len(manifests))
	}
	var out []apiextensionsv1.CustomResourceDefinition
	for _, m := range manifests {
		var def apiextensionsv1.CustomResourceDefinition
		if err := yaml.UnmarshalStrict(m, &def); err != nil {
			t.Fatal(err)
		}
		out = append(out, def)
	}
	return out
}

// TestRulesCompileOnOldestServer: the rules must not use a function that came
// after Kubernetes 1.32, the oldest version that Patchbay runs on.
func TestRulesCompileOnOldestServer(t *testing.T) {
	env := environment.MustBaseEnvSet(version.MajorMinor(1, 32))
	for _, def := range definitions(t) {
		var props apiextensions.JSONSchemaProps
		in := def.Spec.Versions[0].Schema.OpenAPIV3Schema
		if err := apiextensionsv1.Convert_v1_JSONSchemaProps_To_apiextensions_JSONSchemaProps(in, &props, nil); err != nil {
			t.Fatal(err)
		}
		structural, err := schema.NewStructural(&props)
		if err != nil {
			t.Fatal(err)
		}
		if n := compile(t, structural, true, env); n == 0 {
			t.Errorf("%s has no rules", def.Name)
		}
	}
}

// compile returns how many rules a schema has.
func compile(t *testing.T, s *schema.Structural, root bool, env *environment.EnvSet) int {
	t.Helper()
	results, err := cel.Compile(s, model.SchemaDeclType(s, root), celconfig.PerCallLimit, env, cel.NewExpressionsEnvLoader())
	if err != nil {
		t.Fatal(err)
	}
	for i, r := range results {
		if r.Error != nil || r.MessageExpressionError != nil {
			t.Errorf("%s: %v %v", s.XValidations[i].Rule, r.Error, r.MessageExpressionError)
		}
	}
	n := len(results)
	for _, p := range s.Properties {
		n += compile(t, &p, false, env)
	}
	if s.Items != nil {
		n += compile(t, s.Items, false, env)
	}
	return n
}
