package dir

import (
	"encoding/json"
	"slices"
	"strings"
	"sync"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	structuralschema "k8s.io/apiextensions-apiserver/pkg/apiserver/schema"

	"github.com/patchbay-dev/patchbay/test/crdrules"
)

var sharedValidator = sync.OnceValues(NewValidator)

func validator(t testing.TB) *Validator {
	t.Helper()
	v, err := sharedValidator()
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func manifest(t testing.TB, kind, name string, spec json.RawMessage) map[string]any {
	t.Helper()
	text := crdrules.Manifest(kind, name, spec)
	content, errs := decode(part{text: text})
	if len(errs) > 0 {
		t.Fatalf("%v in %s", errs[0], text)
	}
	return content
}

// check returns the lines a user sees, and notes the words of the rules.
func check(t *testing.T, kind string, c crdrules.Case, seen map[string]bool) []string {
	t.Helper()
	v := validator(t)
	content := manifest(t, kind, c.Object, c.Spec)
	var old map[string]any
	if c.Old != nil {
		old = manifest(t, kind, c.Object, c.Old)
		if errs := v.Validate(old, nil); len(errs) > 0 {
			t.Fatalf("old is not valid: %v", errs)
		}
	}
	list := v.Validate(content, old)
	for _, e := range list {
		seen[e.Detail] = true
	}
	var lines []string
	for _, e := range fieldErrors("f.yaml", contentKey(content), list) {
		lines = append(lines, strings.TrimPrefix(e.Error(), "f.yaml: "+kind+"/"+c.Object+": "))
	}
	return lines
}

// TestRules has its cases in common with test/controlplane, which puts them to
// an API server.
func TestRules(t *testing.T) {
	for _, kind := range crdrules.Kinds {
		cases, err := crdrules.Cases(kind)
		if err != nil {
			t.Fatal(err)
		}
		seen := map[string]bool{}
		for _, c := range cases {
			t.Run(kind+"/"+c.Name, func(t *testing.T) {
				got := check(t, kind, c, seen)
				// The schema looks at properties in no particular order.
				slices.Sort(got)
				slices.Sort(c.Want)
				if diff := gocmp.Diff(c.Want, got); diff != "" {
					t.Errorf("want -, got +:\n%s", diff)
				}
			})
		}
		t.Run(kind+"/every rule is tried", func(t *testing.T) { everyRuleTried(t, kind, seen) })
	}
}

func everyRuleTried(t *testing.T, kind string, seen map[string]bool) {
	for _, message := range ruleMessages(validator(t).kinds[kind].structural) {
		tried := seen[message]
		if start, _, ok := strings.Cut(message, "%s"); ok {
			for m := range seen {
				tried = tried || strings.HasPrefix(m, start)
			}
		}
		if !tried {
			t.Errorf("no case is refused by the rule %q", message)
		}
	}
}

func ruleMessages(s *structuralschema.Structural) []string {
	var out []string
	for _, r := range s.XValidations {
		message := r.Message
		if message == "" {
			message = strings.TrimPrefix(r.MessageExpression, "'")
		}
		out = append(out, message)
	}
	for name, p := range s.Properties {
		if name != "status" {
			out = append(out, ruleMessages(&p)...)
		}
	}
	if s.Items != nil {
		out = append(out, ruleMessages(s.Items)...)
	}
	slices.Sort(out)
	return slices.Compact(out)
}
