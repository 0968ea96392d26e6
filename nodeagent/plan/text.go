package plan

import (
	"bytes"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
)

// Group is the steps of one custom resource, as a person reads them.
type Group struct {
	// Title names the resource, such as "BridgeNetwork red".
	Title string
	// Note says why nothing or not all is done; empty otherwise.
	Note  string
	Steps []Step
}

// Line is one object of a plan: all steps of one key, as a person reads them.
type Line struct {
	Key netstate.Key
	// Old and New are nil where the object was not, or will not be, there. Of a link's
	// attributes they have the ones that change.
	Old, New netstate.Object
}

// Lines merges steps by key, in building order. The ruleset has no line: it is no resource's.
func Lines(steps []Step) []Line {
	index := map[netstate.Key]int{}
	var lines []Line
	for _, s := range steps {
		if s.Key.Kind == netstate.KindRuleset {
			continue
		}
		i, ok := index[s.Key]
		if !ok {
			i, index[s.Key] = len(lines), len(lines)
			lines = append(lines, Line{Key: s.Key, Old: s.Old})
		}
		if s.New != nil {
			lines[i].New = s.New
		}
	}
	slices.SortStableFunc(lines, func(a, b Line) int { return a.Key.Compare(b.Key) })
	for i := range lines {
		lines[i].shorten()
	}
	return lines
}

// shorten leaves out the attributes of a link or port that do not change.
func (l *Line) shorten() {
	old, now := attributesOf(l.Old), attributesOf(l.New)
	l.Old, l.New = withAttributes(l.Old, old.Unlike(now)), withAttributes(l.New, now.Unlike(old))
}

func attributesOf(o netstate.Object) netstate.Attributes {
	switch o := o.(type) {
	case netstate.Link:
		return o.Attributes
	case netstate.Port:
		return o.Attributes
	}
	return netstate.Attributes{}
}

func withAttributes(o netstate.Object, s netstate.Attributes) netstate.Object {
	switch o := o.(type) {
	case netstate.Link:
		o.Attributes = s
		return o
	case netstate.Port:
		o.Attributes = s
		return o
	}
	return o
}

// Sign is + for a new object, - for a removed and ~ for a changed one.
func (l Line) Sign() string {
	switch {
	case l.New == nil:
		return "-"
	case l.Old == nil:
		return "+"
	}
	return "~"
}

// Detail is the object's text: the old, the new, or old -> new.
func (l Line) Detail() string {
	switch l.Sign() {
	case "-":
		return l.Old.String()
	case "+":
		return l.New.String()
	}
	return l.Old.String() + " -> " + l.New.String()
}

// Text writes the groups as a diff, one line per kernel object. The last line
// sums up.
func Text(w io.Writer, groups []Group) error {
	count, notes := map[string]int{}, 0
	var b bytes.Buffer
	tw := tabwriter.NewWriter(&b, 0, 8, 2, ' ', 0)
	for _, g := range groups {
		fmt.Fprintln(tw, g.Title)
		if g.Note != "" {
			notes++
			fmt.Fprintf(tw, "  ! %s\n", g.Note)
		}
		for _, l := range Lines(g.Steps) {
			count[l.Sign()]++
			fmt.Fprintf(tw, "  %s %s\t%s\t%s\n", l.Sign(), l.Key.Kind, Describe(l.Key), l.Detail())
		}
		fmt.Fprintln(tw)
	}
	if len(count)+notes == 0 {
		fmt.Fprintln(tw, "Nothing to do.")
	} else {
		fmt.Fprintf(tw, "Plan: %d to make, %d to change, %d to remove.\n", count["+"], count["~"], count["-"])
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	for line := range strings.Lines(b.String()) {
		if _, err := fmt.Fprintln(w, strings.TrimRight(line, " \n")); err != nil {
			return err
		}
	}
	return nil
}
