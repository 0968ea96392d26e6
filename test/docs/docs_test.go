// Package docs holds the pages under docs/ and the README to the CRDs: what they
// show is valid, and every field of the API has its line, its example, its default
// and whether it may be changed. A new field without them fails here.
package docs

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const root = "../.."

// pageOf is where the fields of each kind are explained.
var pageOf = map[string]string{
	"BridgeNetwork":       "docs/networks.md",
	"NodeBridge":          "docs/networks.md",
	"NamespaceAttachment": "docs/attachments.md",
	"PortPublish":         "docs/publishes.md",
}

// pages are the README, ARCHITECTURE.md and all of docs/, by their path in the repository.
func pages(t *testing.T) map[string]page {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(root, "docs", "*.md"))
	if err != nil || len(paths) == 0 {
		t.Fatalf("%v, %d pages", err, len(paths))
	}
	out := map[string]page{}
	decisions, err := filepath.Glob(filepath.Join(root, "docs", "decisions", "*.md"))
	if err != nil || len(decisions) == 0 {
		t.Fatalf("%v, %d decisions", err, len(decisions))
	}
	for _, path := range append(append(paths, decisions...), filepath.Join(root, "README.md"), filepath.Join(root, "ARCHITECTURE.md")) {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		name, err := filepath.Rel(root, path)
		if err != nil {
			t.Fatal(err)
		}
		out[name] = parsePage(string(text))
	}
	return out
}

func report(t *testing.T, complaints []string) {
	t.Helper()
	for _, c := range complaints {
		t.Error(c)
	}
}

// TestExamples runs every example through what would read it.
func TestExamples(t *testing.T) {
	v := newValidator(t)
	for name, p := range pages(t) {
		t.Run(name, func(t *testing.T) {
			for _, b := range p.blocks {
				_, complaints := v.examples(b)
				report(t, complaints)
			}
		})
	}
}

// TestFieldsAreExplained holds the tables of each kind's page to its schema.
func TestFieldsAreExplained(t *testing.T) {
	all := pages(t)
	for kind, k := range kinds(t) {
		t.Run(kind, func(t *testing.T) {
			p, ok := all[pageOf[kind]]
			if !ok {
				t.Fatalf("pageOf has no page of %s", kind)
			}
			report(t, explained(k, p.rows[kind]))
		})
	}
}

// TestFieldsAreShown: every field that people write is in an example of docs/.
func TestFieldsAreShown(t *testing.T) {
	v := newValidator(t)
	seen := map[string]map[string]bool{}
	for name, p := range pages(t) {
		if !strings.HasPrefix(name, "docs/") {
			continue
		}
		for _, b := range p.blocks {
			examples, _ := v.examples(b)
			collect(seen, examples)
		}
	}
	for kind, k := range kinds(t) {
		t.Run(kind, func(t *testing.T) { report(t, unseen(k, seen[kind])) })
	}
}

// collect adds the fields that objects have to those seen of each kind.
func collect(seen map[string]map[string]bool, objects []map[string]any) {
	for _, o := range objects {
		kind, _ := o["kind"].(string)
		if seen[kind] == nil {
			seen[kind] = map[string]bool{}
		}
		for _, path := range pathsIn(o) {
			seen[kind][path] = true
		}
	}
}

func unseen(k kind, seen map[string]bool) []string {
	var out []string
	for _, path := range slices.Sorted(maps.Keys(k.fields)) {
		if !strings.HasPrefix(path, "status.") && !seen[path] {
			out = append(out, fmt.Sprintf("no example in docs/ has the field %s of %s", path, k.name))
		}
	}
	return out
}

// TestTables: a table that kubectl get is said to print has its columns.
func TestTables(t *testing.T) {
	headers := map[string]bool{}
	for _, k := range kinds(t) {
		headers[k.header] = true
	}
	shown := 0
	for name, p := range pages(t) {
		for _, h := range p.headers {
			shown++
			if !headers[h] {
				t.Errorf("%s: kubectl prints no table with the header %s", name, h)
			}
		}
	}
	if shown < len(headers) {
		t.Errorf("%d tables for %d kinds", shown, len(headers))
	}
}

// TestLinks: a link to a page or a place in one leads somewhere.
func TestLinks(t *testing.T) {
	all := pages(t)
	for name, p := range all {
		for _, link := range p.links {
			report(t, broken(all, name, link))
		}
	}
}

func broken(all map[string]page, from, link string) []string {
	if strings.Contains(link, "://") {
		return nil
	}
	file, place, _ := strings.Cut(link, "#")
	to := from
	if file != "" {
		to = filepath.Join(filepath.Dir(from), file)
	}
	if _, err := os.Stat(filepath.Join(root, to)); err != nil {
		return []string{fmt.Sprintf("%s: link %s: %v", from, link, err)}
	}
	if place != "" && !slices.Contains(all[to].anchors, place) {
		return []string{fmt.Sprintf("%s: link %s: %s has no such heading", from, link, to)}
	}
	return nil
}

// TestPagesAreJudged shows that no page passes that lacks something.
func TestPagesAreJudged(t *testing.T) {
	pp := kinds(t)["PortPublish"]
	row := "| `ports[].protocol` | TCP, UDP or SCTP. | `TCP` | yes |"
	bare := explained(pp, nil)
	if len(bare) != len(pp.fields) {
		t.Fatalf("an empty page has %d complaints for %d fields", len(bare), len(pp.fields))
	}
	for name, c := range map[string]struct {
		page string
		more int
	}{
		"right":          {row, -1},
		"twice":          {row + "\n" + row, 0},
		"other kind":     {"## NodeBridge\n" + row, 0},
		"in a block":     {"```\n" + row + "\n```", 0},
		"not in code":    {strings.ReplaceAll(row, "`", ""), 0},
		"no meaning":     {strings.Replace(row, "TCP, UDP or SCTP.", "", 1), 0},
		"no columns":     {"| `ports[].protocol` | TCP, UDP or SCTP. |", 0},
		"wrong default":  {strings.Replace(row, "`TCP`", "`UDP`", 1), 0},
		"wrong mutable":  {strings.Replace(row, "yes", "no", 1), 0},
		"no such field":  {"| `ports[].proto` | TCP, UDP or SCTP. | `TCP` | yes |", 1},
		"status":         {"| `status.nodeName` | The node. |", -1},
		"status is spec": {"| `status.nodeName` | The node. | none | yes |", 0},
	} {
		p := parsePage("# PortPublish\n" + c.page)
		if got := len(explained(pp, p.rows["PortPublish"])) - len(bare); got != c.more {
			t.Errorf("%s: %+d complaints, want %+d", name, got, c.more)
		}
	}
	none, one := unseen(pp, nil), unseen(pp, map[string]bool{"attachment": true})
	if len(one) == 0 || len(none) != len(one)+1 {
		t.Errorf("without an example %d fields are missing, with one of them %d", len(none), len(one))
	}
	const here = "docs/security.md"
	all := map[string]page{here: parsePage("# A `kind`, shown\n")}
	for link, want := range map[string]int{"#a-kind-shown": 0, "#b": 1, "reasons.md": 0, "nothing.md": 1, "security.md#people": 1, "https://example.com": 0} {
		if got := len(broken(all, here, link)); got != want {
			t.Errorf("link %s: %d complaints, want %d", link, got, want)
		}
	}
}
