package docs

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var (
	testName  = regexp.MustCompile(`\bTest[A-Z]\w*`)
	testFunc  = regexp.MustCompile(`(?m)^func (Test\w+)\(`)
	scriptTag = regexp.MustCompile("`([a-z0-9-]+\\.txtar)`")
	// pathTag is a folder or file of the repository in code, in ARCHITECTURE.md.
	pathTag = regexp.MustCompile("`((?:api|config|controllers|docs|hack|nodeagent|test)/[\\w./-]+)`")
	// placeTag is a function and, in parentheses, its file.
	placeTag = regexp.MustCompile("`(?:\\w+\\.)?(\\w+)` \\(`([\\w./-]+\\.go)`\\)")
)

// TestNamesExist: a test, a scenario, a folder or a function that a page for engineers
// names is in the repository.
func TestNamesExist(t *testing.T) {
	functions := testFunctions(t)
	for name, text := range engineersPages(t) {
		for _, m := range testName.FindAllString(text, -1) {
			if !functions[m] {
				t.Errorf("%s: there is no test %s", name, m)
			}
		}
		for _, m := range scriptTag.FindAllStringSubmatch(text, -1) {
			exists(t, name, filepath.Join("test/scenarios", m[1]))
		}
		for _, m := range pathTag.FindAllStringSubmatch(text, -1) {
			exists(t, name, m[1])
		}
		for _, m := range placeTag.FindAllStringSubmatch(text, -1) {
			declares(t, name, m[2], m[1])
		}
	}
}

// TestDecisionsAreWhole: every decision has its four parts.
func TestDecisionsAreWhole(t *testing.T) {
	decisions := 0
	for name, text := range engineersPages(t) {
		if !strings.HasPrefix(text, "# Decisions: ") {
			continue
		}
		for _, one := range strings.Split(text, "\n## ")[1:] {
			decisions++
			title, _, _ := strings.Cut(one, "\n")
			for _, part := range []string{"Problem", "Decision", "Rejected", "Tested"} {
				if strings.Count(one, "- **"+part+".** ") != 1 {
					t.Errorf("%s: %q has not one %s", name, title, part)
				}
			}
		}
	}
	if decisions == 0 {
		t.Error("no decisions")
	}
}

// engineersPages are ARCHITECTURE.md and docs/decisions.
func engineersPages(t *testing.T) map[string]string {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(root, "docs/decisions/*.md"))
	if err != nil || len(paths) == 0 {
		t.Fatalf("%v, %d decisions", err, len(paths))
	}
	out := map[string]string{}
	for _, path := range append(paths, filepath.Join(root, "ARCHITECTURE.md")) {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		out[strings.TrimPrefix(path, root+"/")] = string(text)
	}
	return out
}

func testFunctions(t *testing.T) map[string]bool {
	t.Helper()
	found := map[string]bool{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		text, err := os.ReadFile(path)
		for _, m := range testFunc.FindAllSubmatch(text, -1) {
			found[string(m[1])] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// declares: the file has the function or type that the page places there.
func declares(t *testing.T, page, file, name string) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, file))
	if err != nil {
		t.Errorf("%s: %v", page, err)
		return
	}
	if !regexp.MustCompile(`(?m)^(func (\([^)]*\) )?` + name + `\(|type ` + name + ` )`).Match(text) {
		t.Errorf("%s: %s declares no %s", page, file, name)
	}
}

func exists(t *testing.T, page, path string) {
	t.Helper()
	if _, err := os.Stat(filepath.Join(root, path)); err != nil {
		t.Errorf("%s: %v", page, err)
	}
}
