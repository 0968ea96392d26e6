package docs

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"sigs.k8s.io/yaml"

	"github.com/patchbay-dev/patchbay/config/crd"
)

// kind is what a CRD promises of its kind.
type kind struct {
	name string
	// fields are the fields of spec, by their path in it, such as ports[].hostPort, and
	// the fields of status by a path that begins with status. A type of Kubernetes, a
	// label selector or a condition, is one field.
	fields map[string]field
	// header is the first line of kubectl's table.
	header string
}

type field struct {
	// fallback is the default in the schema, as YAML writes it; empty where there is
	// none, or one of several fields.
	fallback string
	mutable  string
}

// What the column "mutable" may say: of what holds other fields also that some of
// those are and some are not.
const (
	yes    = "yes"
	no     = "no"
	inPart = "in part"
)

func kinds(t *testing.T) map[string]kind {
	t.Helper()
	manifests, err := crd.Manifests()
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]kind{}
	for _, m := range manifests {
		var def apiextensionsv1.CustomResourceDefinition
		if err := yaml.UnmarshalStrict(m, &def); err != nil {
			t.Fatal(err)
		}
		k := newKind(&def)
		out[k.name] = k
	}
	return out
}

func newKind(def *apiextensionsv1.CustomResourceDefinition) kind {
	v := def.Spec.Versions[0]
	k := kind{name: def.Spec.Names.Kind, fields: map[string]field{}, header: "NAME"}
	for _, c := range v.AdditionalPrinterColumns {
		if c.Priority == 0 {
			k.header += " " + strings.ToUpper(c.Name)
		}
	}
	frozen := map[string]bool{}
	k.walk("spec", v.Schema.OpenAPIV3Schema.Properties["spec"], frozen)
	k.walk("status", v.Schema.OpenAPIV3Schema.Properties["status"], frozen)
	for path := range k.fields {
		f := k.fields[path]
		f.mutable = k.mutable(path, frozen)
		k.fields[path] = f
	}
	return k
}

// walk adds the fields below a path, and what the rules forbid to change.
func (k kind) walk(path string, s apiextensionsv1.JSONSchemaProps, frozen map[string]bool) {
	for _, r := range s.XValidations {
		if strings.Contains(r.Rule, "oldSelf") {
			frozen[short(path+r.FieldPath)] = true
		}
	}
	if path != "spec" && path != "status" && !strings.HasSuffix(path, "[]") {
		k.fields[short(path)] = field{fallback: scalar(s.Default)}
	}
	if s.Items != nil && s.Items.Schema != nil && !conditions(*s.Items.Schema) {
		k.walk(path+"[]", *s.Items.Schema, frozen)
	}
	if selector(s) {
		return
	}
	for name, p := range s.Properties {
		k.walk(path+"."+name, p, frozen)
	}
}

// short is a path as the pages write it.
func short(path string) string { return strings.TrimPrefix(path, "spec.") }

func selector(s apiextensionsv1.JSONSchemaProps) bool {
	_, labels := s.Properties["matchLabels"]
	_, expressions := s.Properties["matchExpressions"]
	return labels && expressions
}

func conditions(s apiextensionsv1.JSONSchemaProps) bool {
	_, ok := s.Properties["lastTransitionTime"]
	return ok
}

func scalar(d *apiextensionsv1.JSON) string {
	if d == nil {
		return ""
	}
	var v any
	if err := json.Unmarshal(d.Raw, &v); err != nil {
		return string(d.Raw)
	}
	switch v.(type) {
	case map[string]any, []any:
		return ""
	}
	return fmt.Sprint(v)
}

func (k kind) mutable(path string, frozen map[string]bool) string {
	if frozen["spec"] || frozen[path] {
		return no
	}
	for f := range frozen {
		if below(path, f) {
			return no
		}
	}
	for f := range frozen {
		if below(f, path) {
			return inPart
		}
	}
	return yes
}

func below(path, above string) bool {
	return strings.HasPrefix(path, above+".") || strings.HasPrefix(path, above+"[]")
}

// explained compares the rows of a kind's tables with its fields.
func explained(k kind, rows []row) []string {
	var out []string
	seen := map[string]bool{}
	for _, r := range rows {
		f, ok := k.fields[r.field]
		switch {
		case !ok:
			out = append(out, fmt.Sprintf("%s has no field %s", k.name, r.field))
		case seen[r.field]:
			out = append(out, fmt.Sprintf("%s: the field %s has two rows", k.name, r.field))
		default:
			out = append(out, rowComplaints(k.name, r, f)...)
		}
		seen[r.field] = true
	}
	for _, path := range slices.Sorted(maps.Keys(k.fields)) {
		if !seen[path] {
			out = append(out, fmt.Sprintf("no table explains the field %s of %s: add a row `%s`", path, k.name, path))
		}
	}
	return out
}

// rowComplaints: field | meaning | default | mutable in spec, field | meaning in
// status.
func rowComplaints(kind string, r row, f field) []string {
	want := 3
	if strings.HasPrefix(r.field, "status.") {
		want = 1
	}
	if len(r.cells) != want || r.cells[0] == "" {
		return []string{fmt.Sprintf("%s: the row of %s has the cells %q, want %d with a meaning", kind, r.field, r.cells, want)}
	}
	var out []string
	if want == 1 {
		return nil
	}
	if f.fallback != "" && !strings.Contains(r.cells[1], "`"+f.fallback+"`") {
		out = append(out, fmt.Sprintf("%s: the default of %s is %s in the schema, %q in its row", kind, r.field, f.fallback, r.cells[1]))
	}
	if r.cells[2] != f.mutable {
		out = append(out, fmt.Sprintf("%s: the row of %s says mutable %q, the schema %q", kind, r.field, r.cells[2], f.mutable))
	}
	return out
}

// pathsIn are the fields that an object has, spelled like the fields of its kind.
func pathsIn(object map[string]any) []string {
	var out []string
	var walk func(path string, v any)
	walk = func(path string, v any) {
		if path != "spec" && path != "status" && !strings.HasSuffix(path, "[]") {
			out = append(out, short(path))
		}
		switch v := v.(type) {
		case map[string]any:
			for name, e := range v {
				walk(path+"."+name, e)
			}
		case []any:
			for _, e := range v {
				walk(path+"[]", e)
			}
		}
	}
	for _, part := range []string{"spec", "status"} {
		if object[part] != nil {
			walk(part, object[part])
		}
	}
	return out
}
