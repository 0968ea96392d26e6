// Command measure checks that the packages stay small and their comments plain. It
// prints a line for each package that is above a limit of limits.txt and then fails.
//
//	measure          checks
//	measure -table   prints the figures of all packages beside their limits
//	measure -lower   lowers the ceilings in limits.txt to the present figures
package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
)

const limitsFile = "hack/measure/limits.txt"

func main() {
	mode := ""
	if len(os.Args) > 1 {
		mode = os.Args[1]
	}
	if err := run(mode, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

func run(mode string, out io.Writer) error {
	text, err := os.ReadFile(limitsFile)
	if err != nil {
		return err
	}
	all, err := parseLimits(bytes.NewReader(text))
	if err != nil {
		return fmt.Errorf("%s: %w", limitsFile, err)
	}
	packages, err := measure(".")
	if err != nil {
		return err
	}
	switch mode {
	case "":
		return check(out, packages, all)
	case "-table":
		return table(out, packages, all)
	case "-lower":
		return os.WriteFile(limitsFile, lower(text, packages), 0o644)
	}
	return fmt.Errorf("usage: measure [-table|-lower]")
}

// check prints each figure above its limit.
func check(out io.Writer, packages []figures, all []limit) error {
	above := 0
	for _, p := range packages {
		for _, excess := range limitOf(all, p.dir).exceeded(p) {
			fmt.Fprintf(out, "%s: %s\n", p.dir, excess)
			above++
		}
	}
	if above > 0 {
		return fmt.Errorf("%d figures are above %s: split the package, or write a noun for each pronoun", above, limitsFile)
	}
	return nil
}
