// Package crd holds the generated CustomResourceDefinitions. It promises that
// a standalone node validates with the same schemas, byte for byte, as a cluster.
package crd

import (
	"embed"
	"fmt"
	"io/fs"
)

//go:embed bases/*.yaml
var bases embed.FS

// Manifests returns the YAML of every CustomResourceDefinition, in the order of
// their file names.
func Manifests() ([][]byte, error) {
	names, err := fs.Glob(bases, "bases/*.yaml")
	if err != nil {
		return nil, fmt.Errorf("list embedded CRDs: %w", err)
	}
	var out [][]byte
	for _, name := range names {
		data, err := bases.ReadFile(name)
		if err != nil {
			return nil, fmt.Errorf("read embedded CRD %s: %w", name, err)
		}
		out = append(out, data)
	}
	return out, nil
}
