// Command gendocs prints a page of docs/: reasons.md, with a line for every reason
// in the API, or rulesets.md, with the sets, chains and rules of both firewall backends
// and examples from test/scenarios.
package main

import (
	"fmt"
	"os"
)

func main() {
	if len(os.Args) != 2 {
		fail(fmt.Errorf("usage: gendocs reasons|rulesets"))
	}
	switch os.Args[1] {
	case "reasons":
		fmt.Print(reasons())
	case "rulesets":
		page, err := rulesets(".")
		if err != nil {
			fail(err)
		}
		fmt.Print(page)
	default:
		fail(fmt.Errorf("there is no page %q", os.Args[1]))
	}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, "error:", err)
	os.Exit(1)
}
