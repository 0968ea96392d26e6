// Package dir reads custom resources from manifests: a file, a folder, standard
// input, or a folder that it watches. It promises that an object comes out only
// if an API server with Patchbay's CRDs would have admitted it, with the same
// defaults filled in, and that a set with one invalid document yields nothing
// but the errors.
package dir

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/patchbay-dev/patchbay/api/v1alpha1"
	"github.com/patchbay-dev/patchbay/nodeagent/regular"
)

// Stdin is the path that stands for standard input.
const Stdin = "-"

// ErrEmpty says that there was nothing to read: no file, or none with an object.
var ErrEmpty = errors.New("no objects")

// Document is one valid object and where it came from.
type Document struct {
	// File is the path that was read, or Stdin.
	File string
	// Object is a *v1alpha1.BridgeNetwork, *v1alpha1.NamespaceAttachment or
	// *v1alpha1.PortPublish, defaulted, without status and with generation 1.
	Object v1alpha1.Object
}

// Read returns the objects of the paths as one set. A path is a file, a folder, of
// which every *.yaml, *.yml and *.json is read (in the order of their names, not
// recursive, dotfiles left out), or Stdin. With any invalid document it returns no
// document, and an error that joins *Error values. A set without objects is ErrEmpty.
func Read(paths []string, stdin io.Reader, v *Validator) ([]Document, error) {
	var files []source
	for _, path := range paths {
		more, err := sources(path, stdin)
		if err != nil {
			return nil, err
		}
		files = append(files, more...)
	}
	p := newParser(v)
	var docs []Document
	var errs []error
	for _, f := range files {
		if f.err != nil {
			errs = append(errs, f.err)
			continue
		}
		d, e := p.parse(f.path, f.data)
		docs, errs = append(docs, d...), append(errs, e...)
	}
	errs = append(errs, duplicates(docs)...)
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	if len(docs) == 0 {
		return nil, fmt.Errorf("%w in %s", ErrEmpty, strings.Join(paths, ", "))
	}
	return docs, nil
}

// source is the content of one file, or why it cannot be read.
type source struct {
	path string
	data []byte
	err  error
}

func sources(path string, stdin io.Reader) ([]source, error) {
	if path == Stdin {
		if stdin == nil {
			return nil, &Error{File: Stdin, Message: "there is no standard input"}
		}
		data, err := io.ReadAll(stdin)
		if err != nil {
			return nil, &Error{File: Stdin, Message: err.Error()}
		}
		return []source{{path: Stdin, data: data}}, nil
	}
	info, err := os.Stat(path)
	if err != nil {
		return nil, unreadable(path, err)
	}
	if info.IsDir() {
		return folder(path)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, unreadable(path, err)
	}
	return []source{{path: path, data: data}}, nil
}

// folder reads the manifests of a folder; the error is about the folder itself.
func folder(path string) ([]source, error) {
	entries, err := os.ReadDir(path)
	if err != nil {
		return nil, unreadable(path, err)
	}
	var out []source
	for _, e := range entries {
		if isManifest(e.Name()) {
			out = append(out, regularFile(filepath.Join(path, e.Name())))
		}
	}
	return out, nil
}

func isManifest(name string) bool {
	if strings.HasPrefix(name, ".") || strings.HasPrefix(name, "#") {
		return false
	}
	switch filepath.Ext(name) {
	case ".yaml", ".yml", ".json":
		return true
	}
	return false
}

// regularFile refuses folders, pipes and devices.
func regularFile(path string) source {
	data, err := regular.ReadFile(path)
	if errors.Is(err, regular.ErrNotRegular) {
		return source{path: path, err: &Error{File: path, Message: regular.ErrNotRegular.Error()}}
	}
	if err != nil {
		return source{path: path, err: unreadable(path, err)}
	}
	return source{path: path, data: data}
}

// key identifies an object within a set.
type key struct{ kind, namespace, name string }

func keyOf(o v1alpha1.Object) key {
	return key{o.GetObjectKind().GroupVersionKind().Kind, o.GetNamespace(), o.GetName()}
}

func duplicates(docs []Document) []error {
	first := map[key]string{}
	var errs []error
	for _, d := range docs {
		k := keyOf(d.Object)
		if file, ok := first[k]; ok {
			errs = append(errs, duplicateError(d, file))
			continue
		}
		first[k] = d.File
	}
	return errs
}

func duplicateError(d Document, other string) *Error {
	msg := "is defined twice in this file; keep one of them"
	if other != d.File {
		msg = fmt.Sprintf("is defined in %s already; keep one of them", other)
	}
	return errorAt(d.File, keyOf(d.Object), "", msg)
}
