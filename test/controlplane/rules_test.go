package controlplane

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/patchbay-dev/patchbay/nodeagent/source/dir"
	"github.com/patchbay-dev/patchbay/test/crdrules"
)

// TestRules puts every case of the validator's own test to the API server: it
// must accept the same objects with the same defaults, and refuse the same objects for
// the same causes. The table has the causes word by word.
func TestRules(t *testing.T) {
	v := validator(t)
	for _, kind := range crdrules.Kinds {
		cases, err := crdrules.Cases(kind)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range cases {
			t.Run(kind+"/"+c.Name, func(t *testing.T) {
				obj := decode(t, kind, c.Object, c.Spec)
				if c.Old == nil {
					compare(t, v, obj, nil, func(ctx context.Context, o client.Object, validation string) error {
						return api.Create(ctx, o, client.DryRunAll, client.FieldValidation(validation))
					})
					return
				}
				old := create(t, decode(t, kind, c.Object, c.Old))
				obj.SetResourceVersion(old.GetResourceVersion())
				compare(t, v, obj, old, func(ctx context.Context, o client.Object, validation string) error {
					return api.Update(ctx, o, client.DryRunAll, client.FieldValidation(validation))
				})
			})
		}
	}
}

func validator(t *testing.T) *dir.Validator {
	t.Helper()
	v, err := dir.NewValidator()
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func decode(t *testing.T, kind, name string, spec json.RawMessage) *unstructured.Unstructured {
	t.Helper()
	u := &unstructured.Unstructured{}
	if err := u.UnmarshalJSON(crdrules.Manifest(kind, name, spec)); err != nil {
		t.Fatal(err)
	}
	u.SetNamespace(namespaceOf(kind))
	return u
}

// compare sends obj strictly and, where that was about unknown fields, once
// more leniently to hear of everything else.
func compare(t *testing.T, v *dir.Validator, obj, old *unstructured.Unstructured, send func(context.Context, client.Object, string) error) {
	t.Helper()
	ctx := testContext(t)
	want := obj.DeepCopy()
	var previous map[string]any
	if old != nil {
		previous = old.DeepCopy().Object
	}
	unknown, list := split(v.Validate(want.Object, previous))
	answer := obj.DeepCopy()
	err := send(ctx, answer, metav1.FieldValidationStrict)
	if len(unknown) > 0 {
		checkUnknown(t, err, unknown)
		answer = obj.DeepCopy()
		err = send(ctx, answer, metav1.FieldValidationIgnore)
	}
	var wantErr error
	if len(list) > 0 {
		wantErr = apierrors.NewInvalid(obj.GroupVersionKind().GroupKind(), obj.GetName(), list)
	}
	if diff := gocmp.Diff(causes(wantErr), causes(err)); diff != "" {
		t.Errorf("validator -, API server +:\n%s", diff)
	}
	if err == nil {
		checkSame(t, want, answer)
	}
}

// split takes apart what the API server calls a bad request and what it calls
// invalid.
func split(all field.ErrorList) (unknown []string, list field.ErrorList) {
	for _, e := range all {
		if strings.HasPrefix(e.Detail, "unknown field") {
			unknown = append(unknown, e.Field)
			continue
		}
		list = append(list, e)
	}
	return unknown, list
}

func checkUnknown(t *testing.T, err error, fields []string) {
	t.Helper()
	if !apierrors.IsBadRequest(err) {
		t.Errorf("unknown fields %q are not refused: %v", fields, err)
		return
	}
	for _, f := range fields {
		if !strings.Contains(err.Error(), `unknown field "`+f+`"`) {
			t.Errorf("no word of unknown field %s in: %v", f, err)
		}
	}
}

// rulesSkipped is what the API server adds where the schema does not hold. It is
// a hint and no cause, and the validator does not repeat it.
const rulesSkipped = "some validation rules were not checked because the object was invalid"

// causes are the lines that kubectl prints, sorted; an error that is none of
// an invalid object is a cause too.
func causes(err error) []metav1.StatusCause {
	var status apierrors.APIStatus
	switch {
	case err == nil:
		return nil
	case !errors.As(err, &status) || !apierrors.IsInvalid(err):
		return []metav1.StatusCause{{Message: err.Error()}}
	}
	list := slices.DeleteFunc(slices.Clone(status.Status().Details.Causes), func(c metav1.StatusCause) bool {
		return strings.Contains(c.Message, rulesSkipped)
	})
	slices.SortFunc(list, func(a, b metav1.StatusCause) int {
		return cmp.Or(strings.Compare(a.Field, b.Field), strings.Compare(a.Message, b.Message))
	})
	return list
}

// checkSame compares what people write of two objects, defaults included.
func checkSame(t *testing.T, want, got *unstructured.Unstructured) {
	t.Helper()
	if diff := gocmp.Diff(written(t, want), written(t, got)); diff != "" {
		t.Errorf("validator -, API server +:\n%s", diff)
	}
}

func written(t *testing.T, u *unstructured.Unstructured) map[string]any {
	t.Helper()
	out := map[string]any{
		"name": u.GetName(), "namespace": u.GetNamespace(), "labels": u.GetLabels(), "annotations": u.GetAnnotations(),
	}
	for k, v := range u.Object {
		if k != "metadata" && k != "status" {
			out[k] = v
		}
	}
	return out
}
