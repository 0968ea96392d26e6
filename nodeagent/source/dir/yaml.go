package dir

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	yamlv3 "go.yaml.in/yaml/v3"
	"sigs.k8s.io/json"
	"sigs.k8s.io/yaml"
)

// part is the text of one YAML document and the number of lines before it.
type part struct {
	text   []byte
	before int
}

// split cuts a stream at its "---" lines.
func split(data []byte) []part {
	var parts []part
	current, line := part{}, 0
	for rest := data; len(rest) > 0; line++ {
		end := bytes.IndexByte(rest, '\n') + 1
		if end == 0 {
			end = len(rest)
		}
		if isSeparator(rest[:end]) {
			parts = append(parts, current)
			current = part{before: line + 1}
		} else {
			current.text = append(current.text, rest[:end]...)
		}
		rest = rest[end:]
	}
	return append(parts, current)
}

func isSeparator(line []byte) bool {
	rest, ok := bytes.CutPrefix(line, []byte("---"))
	if !ok {
		return false
	}
	comment := bytes.TrimSpace(rest)
	return len(comment) == 0 || comment[0] == '#' && rest[0] != '#'
}

// decode reads one document strictly; nil content without errors means that it
// is empty.
func decode(p part) (map[string]any, []*Error) {
	root, err := parseNode(p)
	if err != nil || root == nil {
		return nil, err
	}
	if errs := duplicateKeys(root, "", nodeKey(root), p.before); len(errs) > 0 {
		return nil, errs
	}
	// yaml.v3 reads "yes" and octal numbers otherwise than kubectl, so it only
	// looks for duplicates; the values are read as kubectl reads them.
	data, convertErr := yaml.YAMLToJSONStrict(p.text)
	if convertErr != nil {
		return nil, syntaxError(p, convertErr)
	}
	var content map[string]any
	if jsonErr := json.UnmarshalCaseSensitivePreserveInts(data, &content); jsonErr != nil {
		return nil, syntaxError(p, jsonErr)
	}
	return content, nil
}

// parseNode returns the mapping that a document is; nil for an empty one.
func parseNode(p part) (*yamlv3.Node, []*Error) {
	decoder := yamlv3.NewDecoder(bytes.NewReader(p.text))
	var document, next yamlv3.Node
	if err := decoder.Decode(&document); errors.Is(err, io.EOF) {
		return nil, nil
	} else if err != nil {
		return nil, syntaxError(p, err)
	}
	if err := decoder.Decode(&next); !errors.Is(err, io.EOF) {
		return nil, []*Error{{Message: fmt.Sprintf("line %d: put --- on a line of its own between documents", p.before+next.Line)}}
	}
	if len(document.Content) == 0 {
		return nil, nil
	}
	root := document.Content[0]
	if root.Kind == yamlv3.ScalarNode && root.Tag == "!!null" {
		return nil, nil
	}
	if root.Kind != yamlv3.MappingNode {
		return nil, []*Error{{Message: fmt.Sprintf("line %d: must be an object with apiVersion, kind and metadata", p.before+root.Line)}}
	}
	return root, nil
}

// syntaxError parses the document again below empty lines, so that the line in
// the message is the line in the file.
func syntaxError(p part, err error) []*Error {
	var ignored yamlv3.Node
	padded := append(bytes.Repeat([]byte{'\n'}, p.before), p.text...)
	if again := yamlv3.Unmarshal(padded, &ignored); again != nil {
		err = again
	}
	return []*Error{{Message: err.Error()}}
}

// nodeKey finds who a mapping is about, as far as it says.
func nodeKey(root *yamlv3.Node) key {
	meta := child(root, "metadata")
	return key{scalar(child(root, "kind")), scalar(child(meta, "namespace")), scalar(child(meta, "name"))}
}

func child(n *yamlv3.Node, name string) *yamlv3.Node {
	if n == nil || n.Kind != yamlv3.MappingNode {
		return nil
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == name {
			return n.Content[i+1]
		}
	}
	return nil
}

func scalar(n *yamlv3.Node) string {
	if n == nil || n.Kind != yamlv3.ScalarNode {
		return ""
	}
	return n.Value
}

// duplicateKeys finds keys that a mapping sets twice. It does not follow
// aliases: their anchors stand elsewhere in the same document.
func duplicateKeys(n *yamlv3.Node, path string, k key, before int) []*Error {
	var errs []*Error
	switch n.Kind {
	case yamlv3.SequenceNode:
		for i, item := range n.Content {
			errs = append(errs, duplicateKeys(item, fmt.Sprintf("%s[%d]", path, i), k, before)...)
		}
	case yamlv3.MappingNode:
		first := map[string]int{}
		for i := 0; i+1 < len(n.Content); i += 2 {
			name, value := n.Content[i], n.Content[i+1]
			at := joinPath(path, name.Value)
			if line, ok := first[name.Value]; ok {
				errs = append(errs, errorAt("", k, at, fmt.Sprintf("is set twice, in lines %d and %d; keep one of them", line, before+name.Line)))
			} else {
				first[name.Value] = before + name.Line
			}
			errs = append(errs, duplicateKeys(value, at, k, before)...)
		}
	}
	return errs
}

func joinPath(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}
