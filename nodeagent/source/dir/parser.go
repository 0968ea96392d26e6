package dir

import (
	"crypto/sha256"
	"fmt"
	"strings"

	"k8s.io/apimachinery/pkg/runtime"

	"github.com/patchbay-dev/patchbay/api/v1alpha1"
)

// supportedKinds are the kinds that people write.
var supportedKinds = []string{"BridgeNetwork", "NamespaceAttachment", "PortPublish"}

func newObject(kind string) v1alpha1.Object {
	switch kind {
	case "BridgeNetwork":
		return &v1alpha1.BridgeNetwork{}
	case "NamespaceAttachment":
		return &v1alpha1.NamespaceAttachment{}
	case "PortPublish":
		return &v1alpha1.PortPublish{}
	}
	return nil
}

type checksum [sha256.Size]byte

// parser turns the text of files into documents. It remembers valid documents for
// one turn, because a watched folder is read whole when one file changes.
type parser struct {
	validator        *Validator
	previous, recent map[checksum][]v1alpha1.Object
}

func newParser(v *Validator) *parser {
	return &parser{validator: v, recent: map[checksum][]v1alpha1.Object{}}
}

// turn forgets the documents that were not parsed since the last turn.
func (p *parser) turn() {
	p.previous, p.recent = p.recent, map[checksum][]v1alpha1.Object{}
}

// parse returns the documents of one file in their order, and every error in it.
func (p *parser) parse(file string, data []byte) ([]Document, []error) {
	var docs []Document
	var errs []error
	for _, part := range split(data) {
		objects, partErrs := p.document(part)
		for _, o := range objects {
			docs = append(docs, Document{File: file, Object: o})
		}
		for _, e := range partErrs {
			e.File = file
			errs = append(errs, e)
		}
	}
	return docs, errs
}

func (p *parser) document(part part) ([]v1alpha1.Object, []*Error) {
	sum := checksum(sha256.Sum256(part.text))
	objects, ok := p.recent[sum]
	if !ok {
		objects, ok = p.previous[sum]
	}
	if !ok {
		var errs []*Error
		if objects, errs = p.objects(part); len(errs) > 0 {
			return nil, errs
		}
	}
	p.recent[sum] = objects
	return objects, nil
}

func (p *parser) objects(part part) ([]v1alpha1.Object, []*Error) {
	content, errs := decode(part)
	if len(errs) > 0 || content == nil {
		return nil, errs
	}
	items, err := unwrapList(content)
	if err != nil {
		return nil, []*Error{err}
	}
	var objects []v1alpha1.Object
	for _, item := range items {
		o, itemErrs := p.object(item)
		objects, errs = append(objects, o), append(errs, itemErrs...)
	}
	return objects, errs
}

func (p *parser) object(content map[string]any) (v1alpha1.Object, []*Error) {
	k := contentKey(content)
	if err := checkKind(content, k); err != nil {
		return nil, []*Error{err}
	}
	if list := p.validator.Validate(content, nil); len(list) > 0 {
		return nil, fieldErrors("", k, list)
	}
	o := newObject(k.kind)
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(content, o); err != nil {
		return nil, []*Error{errorAt("", k, "", err.Error())}
	}
	return o, nil
}

// unwrapList returns the items of a v1 List, or the object itself.
func unwrapList(content map[string]any) ([]map[string]any, *Error) {
	if content["kind"] != "List" || content["apiVersion"] != "v1" {
		return []map[string]any{content}, nil
	}
	list, ok := content["items"].([]any)
	if !ok && content["items"] != nil {
		return nil, &Error{Kind: "List", Field: "items", Message: "must be a list of objects"}
	}
	var items []map[string]any
	for i, item := range list {
		m, ok := item.(map[string]any)
		if !ok {
			return nil, &Error{Kind: "List", Field: fmt.Sprintf("items[%d]", i), Message: "must be an object"}
		}
		items = append(items, m)
	}
	return items, nil
}

func contentKey(content map[string]any) key {
	kind, _ := content["kind"].(string)
	meta, _ := content["metadata"].(map[string]any)
	namespace, _ := meta["namespace"].(string)
	name, _ := meta["name"].(string)
	return key{kind, namespace, name}
}

func checkKind(content map[string]any, k key) *Error {
	kinds := strings.Join(supportedKinds, ", ")
	switch version := content["apiVersion"]; {
	case version == nil || version == "":
		return errorAt("", k, "apiVersion", fmt.Sprintf("must be set to %s", v1alpha1.GroupVersion))
	case version != v1alpha1.GroupVersion.String():
		return errorAt("", k, "apiVersion", fmt.Sprintf("must be %s, with kind one of %s (is %q)", v1alpha1.GroupVersion, kinds, fmt.Sprint(version)))
	case k.kind == "NodeBridge":
		return errorAt("", k, "kind", "is written by the system; write a BridgeNetwork instead")
	case newObject(k.kind) == nil:
		return errorAt("", k, "kind", fmt.Sprintf("must be one of %s (is %q)", kinds, k.kind))
	}
	return nil
}
