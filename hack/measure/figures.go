package main

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// figures are the measures of one package, by its folder.
type figures struct {
	dir string
	// files and lines are without tests and generated code.
	files, lines int
	code, tests  comments
}

// comments counts the lines of comments, and the lines of them that have a
// pronoun where a noun can stand.
type comments struct{ lines, pronouns int }

// plain reports that less than two percent of the lines have such a pronoun.
func (c comments) plain() bool { return c.pronouns*100 < c.lines*2 || c.pronouns == 0 }

// pronouns stand for a thing that the sentence does not name.
var pronouns = regexp.MustCompile(`(?i)\b(some|any|every|no)(body|one)\b|\bno one\b|\bwho(m?ever|m)\b|` +
	`\bthose (of|that|who|which)\b|\bof which\b|\bwhat (is|was|are|were|has|had)\b|\b(others|theirs|ours)\b`)

// names of packages and scripts are no pronouns.
var names = regexp.MustCompile(`Package \w+|\w+\.sh\b`)

// measure returns the figures of all packages below a folder, in their order.
func measure(root string) ([]figures, error) {
	byDir := map[string]*figures{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (strings.HasPrefix(d.Name(), ".") && path != root || d.Name() == "testdata" || d.Name() == "bin"):
			return fs.SkipDir
		case d.IsDir() || filepath.Ext(path) != ".go":
			return nil
		}
		dir, err := filepath.Rel(root, filepath.Dir(path))
		if err != nil {
			return err
		}
		if byDir[dir] == nil {
			byDir[dir] = &figures{dir: filepath.ToSlash(dir)}
		}
		return byDir[dir].add(path)
	})
	var out []figures
	for _, dir := range slices.Sorted(maps.Keys(byDir)) {
		out = append(out, *byDir[dir])
	}
	return out, err
}

// add counts one file in.
func (f *figures) add(path string) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	set := token.NewFileSet()
	file, err := parser.ParseFile(set, path, text, parser.ParseComments)
	if err != nil {
		return err
	}
	if ast.IsGenerated(file) {
		return nil
	}
	if strings.HasSuffix(path, "_test.go") {
		f.tests.add(file)
		return nil
	}
	f.code.add(file)
	f.files++
	f.lines += strings.Count(string(text), "\n")
	return nil
}

func (c *comments) add(file *ast.File) {
	named := map[string]bool{}
	ast.Inspect(file, func(n ast.Node) bool {
		if i, ok := n.(*ast.Ident); ok {
			named[i.Name] = true
		}
		return true
	})
	for _, group := range file.Comments {
		for _, comment := range group.List {
			for line := range strings.Lines(comment.Text) {
				if directive(line) {
					continue
				}
				c.lines++
				// A comment that begins with a name of the code speaks of that.
				words := strings.Fields(line)
				if len(words) > 1 && named[words[1]] {
					line = strings.Join(words[2:], " ")
				}
				if hasPronoun(line) {
					c.pronouns++
				}
			}
		}
	}
}

func hasPronoun(line string) bool { return pronouns.MatchString(names.ReplaceAllString(line, "")) }

// directive reports that a comment speaks to a tool.
func directive(line string) bool {
	return strings.HasPrefix(line, "//go:") || strings.HasPrefix(line, "//nolint") || strings.HasPrefix(line, "// +")
}
