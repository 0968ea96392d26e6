package main

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
)

// limit is what limits.txt allows the packages of a pattern.
type limit struct {
	// pattern is a package, or all packages below a folder: "nodeagent/...".
	pattern string
	// files and lines count without tests and generated code.
	files, lines int
	// pronouns and testPronouns are lines of comments that may have a pronoun; two
	// percent of the lines may in any case.
	pronouns, testPronouns int
}

// parseLimits reads a limit from each line that is not a comment.
func parseLimits(r io.Reader) ([]limit, error) {
	var all []limit
	for s := bufio.NewScanner(r); s.Scan(); {
		line := strings.TrimSpace(s.Text())
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		var l limit
		if _, err := fmt.Sscan(line, &l.pattern, &l.files, &l.lines, &l.pronouns, &l.testPronouns); err != nil {
			return nil, fmt.Errorf("%q: %w", line, err)
		}
		all = append(all, l)
	}
	return all, nil
}

func (l limit) matches(dir string) bool {
	below, pattern := strings.CutSuffix(l.pattern, "...")
	if !pattern {
		return l.pattern == dir
	}
	return strings.HasPrefix(dir+"/", below)
}

// limitOf returns the last limit that matches a package.
func limitOf(all []limit, dir string) limit {
	var found limit
	for _, l := range all {
		if l.matches(dir) {
			found = l
		}
	}
	return found
}

// exceeded says which figures are above the limit.
func (l limit) exceeded(f figures) []string {
	var out []string
	if f.files > l.files {
		out = append(out, fmt.Sprintf("%d files without tests, at most %d", f.files, l.files))
	}
	if f.lines > l.lines {
		out = append(out, fmt.Sprintf("%d lines without tests, at most %d", f.lines, l.lines))
	}
	for _, c := range []struct {
		of      string
		have    comments
		allowed int
	}{{"code", f.code, l.pronouns}, {"tests", f.tests, l.testPronouns}} {
		if c.have.pronouns > c.allowed && !c.have.plain() {
			out = append(out, fmt.Sprintf("%d of %d comment lines of its %s have a pronoun for a noun, at most %d or two percent", c.have.pronouns, c.have.lines, c.of, c.allowed))
		}
	}
	return out
}

// table prints all figures, each with its limit where that is a ceiling of its own.
func table(out io.Writer, packages []figures, all []limit) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "files\tlines\tcomments\tpronouns\tof tests\tpronouns\t package")
	for _, p := range packages {
		l := limitOf(all, p.dir)
		fmt.Fprintf(w, "%d/%d\t%d/%d\t%d\t%s\t%d\t%s\t %s\n", p.files, l.files, p.lines, l.lines,
			p.code.lines, share(p.code, l.pronouns), p.tests.lines, share(p.tests, l.testPronouns), p.dir)
	}
	return w.Flush()
}

func share(c comments, allowed int) string {
	if c.lines == 0 {
		return "-"
	}
	return fmt.Sprintf("%d/%d %.1f%%", c.pronouns, allowed, 100*float64(c.pronouns)/float64(c.lines))
}

// lower returns limits.txt with each ceiling of a single package at the present
// figure where that is lower. A ceiling that its folder's pattern allows goes, as
// does one of a package that is gone.
func lower(text []byte, packages []figures) []byte {
	present := map[string]figures{}
	for _, p := range packages {
		present[p.dir] = p
	}
	var patterns []limit
	var out bytes.Buffer
	for line := range strings.Lines(string(text)) {
		parsed, _ := parseLimits(strings.NewReader(line))
		if len(parsed) == 0 || strings.HasSuffix(parsed[0].pattern, "...") {
			out.WriteString(line)
			patterns = append(patterns, parsed...)
			continue
		}
		p, there := present[parsed[0].pattern]
		l := parsed[0].loweredTo(p, limitOf(patterns, p.dir))
		if there && len(limitOf(patterns, p.dir).exceeded(p)) > 0 {
			fmt.Fprintf(&out, "%-30s %5d %6d %9d %6d\n", l.pattern, l.files, l.lines, l.pronouns, l.testPronouns)
		}
	}
	return out.Bytes()
}

func (l limit) loweredTo(f figures, aim limit) limit {
	l.files, l.lines = min(l.files, max(f.files, aim.files)), min(l.lines, max(f.lines, aim.lines))
	l.pronouns, l.testPronouns = min(l.pronouns, f.code.pronouns), min(l.testPronouns, f.tests.pronouns)
	if f.code.plain() {
		l.pronouns = 0
	}
	if f.tests.plain() {
		l.testPronouns = 0
	}
	return l
}
