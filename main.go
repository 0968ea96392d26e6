// Command patchbay wires network namespaces to bridges on a node, as custom
// resources describe them. See README.md.
package main

import (
	"os"

	"github.com/patchbay-dev/patchbay/nodeagent/cli"
)

func main() { os.Exit(cli.Main()) }
