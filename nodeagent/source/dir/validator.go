package dir

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	structuralschema "k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/defaulting"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/listtype"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/objectmeta"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/pruning"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/validation"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	celconfig "k8s.io/apiserver/pkg/apis/cel"
	"sigs.k8s.io/yaml"

	"github.com/patchbay-dev/patchbay/api/v1alpha1"
	"github.com/patchbay-dev/patchbay/config/crd"
)

// unknownField is what a field that no CRD has is told.
const unknownField = "unknown field; leave it out or correct its name"

// Validator prunes, defaults and validates custom resources as an API server
// with Patchbay's CRDs does, with the same libraries. It may be used by several
// goroutines at once. Building one compiles every rule; keep it.
type Validator struct {
	kinds map[string]*kindValidator
}

type kindValidator struct {
	namespaced bool
	structural *structuralschema.Structural
	schema     validation.SchemaValidator
	rules      *cel.Validator
}

// NewValidator builds a validator from the CRDs in the binary.
func NewValidator() (*Validator, error) {
	manifests, err := crd.Manifests()
	if err != nil {
		return nil, err
	}
	v := &Validator{kinds: map[string]*kindValidator{}}
	for _, m := range manifests {
		var def apiextensionsv1.CustomResourceDefinition
		if err := yaml.Unmarshal(m, &def); err != nil {
			return nil, fmt.Errorf("decode embedded CRD: %w", err)
		}
		kind, err := newKindValidator(&def)
		if err != nil {
			return nil, fmt.Errorf("compile CRD %s: %w", def.Name, err)
		}
		v.kinds[def.Spec.Names.Kind] = kind
	}
	return v, nil
}

func newKindValidator(def *apiextensionsv1.CustomResourceDefinition) (*kindValidator, error) {
	i := versionIndex(def)
	if i < 0 {
		return nil, fmt.Errorf("version %s has no schema", v1alpha1.GroupVersion.Version)
	}
	var props apiextensions.JSONSchemaProps
	in := def.Spec.Versions[i].Schema.OpenAPIV3Schema
	if err := apiextensionsv1.Convert_v1_JSONSchemaProps_To_apiextensions_JSONSchemaProps(in, &props, nil); err != nil {
		return nil, err
	}
	structural, err := structuralschema.NewStructural(&props)
	if err != nil {
		return nil, err
	}
	schema, _, err := validation.NewSchemaValidator(&props)
	if err != nil {
		return nil, err
	}
	return &kindValidator{
		namespaced: def.Spec.Scope == apiextensionsv1.NamespaceScoped,
		structural: structural,
		schema:     schema,
		rules:      cel.NewValidator(structural, true, celconfig.PerCallLimit),
	}, nil
}

func versionIndex(def *apiextensionsv1.CustomResourceDefinition) int {
	for i, v := range def.Spec.Versions {
		if v.Name == v1alpha1.GroupVersion.Version && v.Schema != nil {
			return i
		}
	}
	return -1
}

// Validate changes obj to what an API server would store, without its status:
// unknown fields pruned and defaults filled in. It returns everything that is
// wrong with it, unknown fields and, where old is the previous state of the
// same object, forbidden changes included. Whole numbers are int64, as
// sigs.k8s.io/json reads them. old is not changed.
func (v *Validator) Validate(obj, old map[string]any) field.ErrorList {
	name, _ := obj["kind"].(string)
	kind, ok := v.kinds[name]
	if !ok {
		return field.ErrorList{field.NotSupported(field.NewPath("kind"), name, supportedKinds)}
	}
	errs := kind.decode(obj)
	meta, metaErrs := kind.meta(obj)
	errs = append(errs, metaErrs...)
	if meta == nil {
		return errs
	}
	if old != nil {
		oldMeta := metav1.ObjectMeta{Name: meta.Name, Namespace: meta.Namespace}
		errs = append(errs, identity(old, oldMeta)...)
	}
	return kind.validate(obj, old, errs)
}

// identity refuses to compare two different objects.
func identity(old map[string]any, want metav1.ObjectMeta) field.ErrorList {
	meta, _, err := objectmeta.GetObjectMeta(old, false)
	if err == nil && meta != nil && meta.Name == want.Name && meta.Namespace == want.Namespace {
		return nil
	}
	return field.ErrorList{field.Invalid(field.NewPath("metadata", "name"), want.Name, "is not the name of the previous object")}
}

// decode drops status, as a status subresource does, prunes and defaults.
func (k *kindValidator) decode(obj map[string]any) field.ErrorList {
	delete(obj, "status")
	unknown := pruning.PruneWithOptions(obj, k.structural, true, structuralschema.UnknownFieldPathOptions{TrackUnknownFieldPaths: true})
	defaulting.PruneNonNullableNullsWithoutDefaults(obj, k.structural)
	defaulting.Default(obj, k.structural)
	delete(obj, "status")
	var errs field.ErrorList
	for _, path := range unknown {
		errs = append(errs, field.Invalid(field.NewPath(path), field.OmitValueType{}, unknownField))
	}
	return errs
}

// meta checks metadata and keeps what a person can set of it; it returns nil
// where metadata cannot be read at all.
func (k *kindValidator) meta(obj map[string]any) (*metav1.ObjectMeta, field.ErrorList) {
	path := field.NewPath("metadata")
	meta, found, unknown, err := objectmeta.GetObjectMetaWithOptions(obj, objectmeta.ObjectMetaOptions{ReturnUnknownFieldPaths: true})
	if err != nil {
		return nil, field.ErrorList{field.Invalid(path, field.OmitValueType{}, err.Error())}
	}
	if !found || meta == nil {
		meta = &metav1.ObjectMeta{}
	}
	var errs field.ErrorList
	for _, p := range unknown {
		p = strings.TrimPrefix(p, "<nil>.")
		errs = append(errs, field.Invalid(field.NewPath(p), field.OmitValueType{}, unknownField))
	}
	errs = append(errs, k.namespace(meta, path)...)
	clearServerFields(meta)
	errs = append(errs, nameErrors(meta, k.namespaced, path)...)
	if err := objectmeta.SetObjectMeta(obj, meta); err != nil {
		errs = append(errs, field.Invalid(path, field.OmitValueType{}, err.Error()))
	}
	return meta, errs
}

func (k *kindValidator) namespace(meta *metav1.ObjectMeta, path *field.Path) field.ErrorList {
	if k.namespaced {
		if meta.Namespace == "" {
			meta.Namespace = metav1.NamespaceDefault
		}
		return nil
	}
	if meta.Namespace == "" {
		return nil
	}
	wrong := meta.Namespace
	meta.Namespace = ""
	return field.ErrorList{field.Invalid(path.Child("namespace"), wrong, "must be left out: the kind belongs to the whole cluster")}
}

// clearServerFields drops what only an API server sets, so that the output of
// kubectl get can be applied.
func clearServerFields(meta *metav1.ObjectMeta) {
	meta.UID, meta.ResourceVersion = "", ""
	meta.CreationTimestamp, meta.DeletionTimestamp, meta.DeletionGracePeriodSeconds = metav1.Time{}, nil, nil
	meta.ManagedFields, meta.OwnerReferences, meta.Finalizers = nil, nil, nil
	meta.Generation = 1
}

func nameErrors(meta *metav1.ObjectMeta, namespaced bool, path *field.Path) field.ErrorList {
	switch {
	case meta.Name == "" && meta.GenerateName != "":
		return field.ErrorList{field.Required(path.Child("name"), "must be set: metadata.generateName only works in a cluster")}
	case meta.Name == "":
		return field.ErrorList{field.Required(path.Child("name"), "")}
	}
	return apivalidation.ValidateObjectMeta(meta, namespaced, apivalidation.NameIsDNSSubdomain, path)
}

// validate adds to errs what the schema finds, then list types, then the rules;
// the rules only where the schema holds, because they presume it.
func (k *kindValidator) validate(obj, old map[string]any, errs field.ErrorList) field.ErrorList {
	var previous any
	if old == nil {
		errs = append(errs, validation.ValidateCustomResource(nil, obj, k.schema)...)
	} else {
		previous = old
		errs = append(errs, validation.ValidateCustomResourceUpdate(nil, obj, old, k.schema)...)
	}
	errs = append(errs, listtype.ValidateListSetsAndMaps(nil, k.structural, obj)...)
	if k.rules == nil || rulesBlocked(errs) {
		return errs
	}
	ruleErrs, _ := k.rules.Validate(context.Background(), nil, k.structural, obj, previous, celconfig.RuntimeCELCostBudget)
	return append(errs, ruleErrs...)
}

// rulesBlocked has the list of the API server's registry for custom resources.
func rulesBlocked(errs field.ErrorList) bool {
	for _, e := range errs {
		switch e.Type {
		case field.ErrorTypeNotSupported, field.ErrorTypeRequired, field.ErrorTypeTooLong, field.ErrorTypeTooMany, field.ErrorTypeTypeInvalid:
			return true
		}
	}
	return false
}

// ValidateUpdate says whether updated, valid in itself, may follow old, the
// previous state of the same object. The error joins *Error values without a
// file.
func (v *Validator) ValidateUpdate(updated, old v1alpha1.Object) error {
	var errs []error
	for _, e := range v.updateErrors("", updated, old) {
		errs = append(errs, e)
	}
	return errors.Join(errs...)
}

func (v *Validator) updateErrors(file string, updated, old v1alpha1.Object) []*Error {
	k := keyOf(updated)
	obj, err := runtime.DefaultUnstructuredConverter.ToUnstructured(updated)
	if err != nil {
		return []*Error{errorAt(file, k, "", err.Error())}
	}
	previous, err := runtime.DefaultUnstructuredConverter.ToUnstructured(old)
	if err != nil {
		return []*Error{errorAt(file, k, "", err.Error())}
	}
	return fieldErrors(file, k, v.Validate(obj, previous))
}
