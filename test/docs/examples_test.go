package docs

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	clientscheme "k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/yaml"

	"github.com/patchbay-dev/patchbay/api/v1alpha1"
	"github.com/patchbay-dev/patchbay/controllers/accept"
	"github.com/patchbay-dev/patchbay/nodeagent/source/dir"
)

// validator reads examples as the binary reads manifests, and objects of
// Kubernetes' own kinds as an API server does.
type validator struct {
	ours  *dir.Validator
	kinds map[string]kind
}

func newValidator(t *testing.T) validator {
	t.Helper()
	v, err := dir.NewValidator()
	if err != nil {
		t.Fatal(err)
	}
	return validator{v, kinds(t)}
}

var separator = regexp.MustCompile(`(?m)^---\s*$`)

// examples returns the objects of Patchbay's kinds in a block as they are written,
// and the faults of the block. A block of YAML holds whole objects and nothing else;
// objects of Patchbay's kinds are in no other block.
func (v validator) examples(b block) (objects []map[string]any, complaints []string) {
	if b.language != "yaml" {
		if strings.Contains(b.text, "apiVersion: "+v1alpha1.GroupVersion.String()) || slices.Contains([]string{"yml", "YAML"}, b.language) {
			complaints = append(complaints, fmt.Sprintf("not tried, for its fence says %q: write yaml\n%s", b.language, b.text))
		}
		return nil, complaints
	}
	var manifests []string
	for _, text := range separator.Split(b.text, -1) {
		var o map[string]any
		if err := yaml.UnmarshalStrict([]byte(text), &o); err != nil {
			return objects, append(complaints, fmt.Sprintf("%v\n%s", err, text))
		}
		version, _ := o["apiVersion"].(string)
		kind, _ := o["kind"].(string)
		if version != v1alpha1.GroupVersion.String() {
			complaints = append(complaints, foreign(version, kind, text)...)
			continue
		}
		objects = append(objects, o)
		complaints = append(complaints, v.status(o, text)...)
		if kind == "NodeBridge" {
			complaints = append(complaints, v.nodeBridge(text)...)
		} else {
			manifests = append(manifests, text)
		}
	}
	return objects, append(complaints, v.read(manifests)...)
}

// read is what patchbay plan, apply and agent do with a manifest.
func (v validator) read(manifests []string) []string {
	if len(manifests) == 0 {
		return nil
	}
	text := strings.Join(manifests, "---\n")
	documents, err := dir.Read([]string{dir.Stdin}, strings.NewReader(text), v.ours)
	if err != nil {
		return []string{fmt.Sprintf("%v\n%s", err, text)}
	}
	var out []string
	for _, d := range documents {
		n, ok := d.Object.(*v1alpha1.BridgeNetwork)
		if !ok {
			continue
		}
		if c := accept.Network(n, accept.World{}); c.Status != metav1.ConditionTrue {
			out = append(out, fmt.Sprintf("BridgeNetwork %s is not accepted: %s", n.Name, c.Message))
		}
	}
	return out
}

// nodeBridge: no manifest may have one, but the pages show some.
func (v validator) nodeBridge(text string) []string {
	var o map[string]any
	if err := yaml.Unmarshal([]byte(text), &o); err != nil {
		return []string{err.Error()}
	}
	if errs := v.ours.Validate(o, nil); len(errs) > 0 {
		return []string{fmt.Sprintf("%v\n%s", errs.ToAggregate(), text)}
	}
	return nil
}

// status: the validator drops it, as an API server does.
func (v validator) status(o map[string]any, text string) []string {
	name, _ := o["kind"].(string)
	var out []string
	for _, path := range pathsIn(o) {
		_, known := v.kinds[name].fields[path]
		if strings.HasPrefix(path, "status.") && !known && !below(path, "status.conditions") {
			out = append(out, fmt.Sprintf("%s has no field %s\n%s", name, path, text))
		}
	}
	return out
}

var strict = serializer.NewCodecFactory(clientscheme.Scheme, serializer.EnableStrict).UniversalDeserializer()

// foreign objects are Kubernetes' own, or kustomize's, whose schema is not at hand.
func foreign(version, kind, text string) []string {
	if version == "kustomize.config.k8s.io/v1beta1" && kind == "Kustomization" {
		return nil
	}
	if version == "" || kind == "" {
		return []string{"not a whole object: apiVersion or kind is missing\n" + text}
	}
	if _, _, err := strict.Decode([]byte(text), nil, nil); err != nil {
		return []string{fmt.Sprintf("%v\n%s", err, text)}
	}
	return nil
}

// TestExamplesAreJudged shows that no wrong example passes.
func TestExamplesAreJudged(t *testing.T) {
	v := newValidator(t)
	const ours = "apiVersion: patchbay.dev/v1alpha1\n"
	for name, b := range map[string]block{
		"unknown field":        {"yaml", ours + "kind: BridgeNetwork\nmetadata: {name: red}\nspec: {subnet: 10.68.0.0/24}\n"},
		"broken rule":          {"yaml", ours + "kind: BridgeNetwork\nmetadata: {name: red}\nspec: {subnets: [10.68.0.1/24]}\n"},
		"not accepted":         {"yaml", ours + "kind: BridgeNetwork\nmetadata: {name: red}\nspec: {subnets: [10.68.0.0/24], gateway: {addresses: [10.68.0.255]}}\n"},
		"twice":                {"yaml", strings.Repeat("---\n"+ours+"kind: BridgeNetwork\nmetadata: {name: red}\n", 2)[4:]},
		"fragment":             {"yaml", "spec: {subnets: [10.68.0.0/24]}\n"},
		"unknown kind":         {"yaml", ours + "kind: Bridge\nmetadata: {name: red}\n"},
		"wrong NodeBridge":     {"yaml", ours + "kind: NodeBridge\nmetadata: {name: red.w1}\nspec: {network: red}\n"},
		"wrong status":         {"yaml", ours + "kind: NodeBridge\nmetadata: {name: red.w1}\nspec: {network: red, nodeName: w1}\nstatus: {bridges: br-red}\n"},
		"wrong Deployment":     {"yaml", "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web}\nspec: {replica: 3}\n"},
		"unknown group":        {"yaml", "apiVersion: example.com/v1\nkind: Thing\n"},
		"not YAML":             {"yaml", "a: [\n"},
		"untagged":             {"", ours + "kind: BridgeNetwork\nmetadata: {name: red}\n"},
		"other spelling":       {"yml", "a: b\n"},
		"fence with arguments": {"yaml fragment", ours},
	} {
		if _, complaints := v.examples(b); len(complaints) == 0 {
			t.Errorf("%s: no complaint", name)
		}
	}
	good := block{"yaml", ours + "kind: BridgeNetwork\nmetadata: {name: red}\nspec: {subnets: [10.68.0.0/24]}\n"}
	objects, complaints := v.examples(good)
	if err := errors.Join(asErrors(complaints)...); err != nil || len(objects) != 1 {
		t.Errorf("%d objects, %v", len(objects), err)
	}
}

func asErrors(complaints []string) []error {
	var out []error
	for _, c := range complaints {
		out = append(out, errors.New(c))
	}
	return out
}
