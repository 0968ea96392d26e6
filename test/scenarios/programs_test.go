package scenarios

import (
	"os"

	"github.com/patchbay-dev/patchbay/nodeagent/cli"
)

// programs are what scripts run as commands of the shell.
var programs = map[string]func(){"patchbay": func() { os.Exit(cli.Main()) }}
