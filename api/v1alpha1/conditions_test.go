package v1alpha1

import (
	"go/ast"
	"go/parser"
	"go/token"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// A reason without a line in Reasons would be one that the documentation does
// not explain.
func TestReasonsAreComplete(t *testing.T) {
	file, err := parser.ParseFile(token.NewFileSet(), "conditions.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	var want []string
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok || !strings.HasPrefix(spec.Names[0].Name, "Reason") || len(spec.Values) == 0 {
			return true
		}
		if lit, ok := spec.Values[0].(*ast.BasicLit); ok {
			value, err := strconv.Unquote(lit.Value)
			if err != nil {
				t.Fatal(err)
			}
			want = append(want, value)
		}
		return true
	})
	var got []string
	for _, r := range Reasons {
		got = append(got, r.Name)
		if r.Condition == "" || r.Writer == "" || r.Remedy == "" {
			t.Errorf("%s: a column is empty", r.Name)
		}
	}
	if len(want) == 0 || !slices.Equal(want, got) {
		t.Errorf("constants %v\nReasons   %v", want, got)
	}
}
