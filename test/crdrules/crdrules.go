// Package crdrules holds objects that the CRDs accept or refuse, with the lines
// a user sees. The validator in the binary and a real API server are both held
// to it, so that they cannot differ.
package crdrules

import (
	"embed"
	"encoding/json"
	"fmt"

	"sigs.k8s.io/yaml"
)

//go:embed *.yaml
var files embed.FS

// Kinds are the kinds that have cases.
var Kinds = []string{"BridgeNetwork", "NamespaceAttachment", "NodeBridge", "PortPublish"}

// Case is one object of a kind by its spec. With Old it is an update of that
// spec.
type Case struct {
	Name string `json:"name"`
	// Object is the name of the object; x where it does not matter.
	Object string          `json:"object,omitempty"`
	Old    json.RawMessage `json:"old,omitempty"`
	Spec   json.RawMessage `json:"spec"`
	// Want is what the validator's user reads, after file, kind and name; empty
	// where the object is accepted.
	Want []string `json:"want,omitempty"`
}

// Cases returns the cases of a kind.
func Cases(kind string) ([]Case, error) {
	data, err := files.ReadFile(kind + ".yaml")
	if err != nil {
		return nil, fmt.Errorf("read cases of %s: %w", kind, err)
	}
	var cases []Case
	if err := yaml.UnmarshalStrict(data, &cases); err != nil {
		return nil, fmt.Errorf("decode cases of %s: %w", kind, err)
	}
	for i := range cases {
		if cases[i].Object == "" {
			cases[i].Object = "x"
		}
	}
	return cases, nil
}

// Manifest is an object of a kind as JSON.
func Manifest(kind, name string, spec json.RawMessage) []byte {
	return fmt.Appendf(nil, `{"apiVersion": "patchbay.dev/v1alpha1", "kind": %q, "metadata": {"name": %q}, "spec": %s}`, kind, name, spec)
}
