package main

import (
	"fmt"
	"slices"
	"strings"
)

// programs read iptables' rules, of IPv4 and of IPv6.
var programs = []string{"iptables-restore", "ip6tables-restore"}

// ownRestore returns the lines of a restore's input that belong to objects, under the
// names of its tables. It remembers the other lines as the tables' frames.
func (p *page) ownRestore(program string, lines []string) ([]string, error) {
	var own []string
	for _, table := range tablesIn(lines) {
		var frame []string
		own = append(own, table[0])
		for _, line := range table[1:] {
			if isObjects(line) {
				own = append(own, line)
			} else {
				frame = append(frame, line)
			}
		}
		if err := p.learnTable(program+" "+table[0], frame); err != nil {
			return nil, err
		}
	}
	return own, nil
}

// tablesIn splits an input into its tables, each beginning with its name.
func tablesIn(lines []string) [][]string {
	var out [][]string
	for _, line := range lines {
		switch {
		case strings.HasPrefix(line, "*"):
			out = append(out, []string{line})
		case line != "COMMIT":
			out[len(out)-1] = append(out[len(out)-1], line)
		}
	}
	return out
}

// isObjects reports whether a line is of a rule or chain of an object's, not of a
// frame: the comment names the object.
func isObjects(line string) bool {
	return strings.Contains(line, `--comment "patchbay:`) || strings.HasPrefix(line, ":PATCHBAY-S-") || strings.HasPrefix(line, ":PATCHBAY-T-")
}

func (p *page) learnTable(name string, frame []string) error {
	if known, ok := p.tables[name]; ok && !slices.Equal(known, frame) {
		return fmt.Errorf("the frames of %s are not the same everywhere", name)
	}
	p.tables[name] = frame
	return nil
}

// common joins the own lines of both programs; lines that both have stand once.
func common(restores map[string][]string) []string {
	four, six := restores[programs[0]], restores[programs[1]]
	return slices.Concat(
		titled(programs[0]+" and "+programs[1], inTables(four, six, true)),
		titled(programs[0]+" alone", inTables(four, six, false)),
		titled(programs[1]+" alone", inTables(six, four, false)),
	)
}

// inTables are the lines that another input has in the same table, or has not,
// under the names of their tables.
func inTables(lines, other []string, shared bool) []string {
	has := map[string]bool{}
	for _, table := range tablesIn(other) {
		for _, line := range table {
			has[table[0]+line] = true
		}
	}
	var out []string
	for _, table := range tablesIn(lines) {
		kept := slices.DeleteFunc(slices.Clone(table[1:]), func(line string) bool { return has[table[0]+line] != shared })
		if len(kept) > 0 {
			out = append(append(out, table[0]), kept...)
		}
	}
	return out
}
