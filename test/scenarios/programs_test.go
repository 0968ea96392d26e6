package scenarios

import (
	"os"

	"github.com/patchbay-dev/patchbay/nodeagent/cli"
)

// programs are what scripts run as commands of the shell.
var programs = map[string]func(){"patchbay": func() {
	if backend := os.Getenv(envBackend); backend != "" {
		os.Args = append(os.Args, "--nat-backend="+backend)
	}
	os.Exit(cli.Main())
}}
