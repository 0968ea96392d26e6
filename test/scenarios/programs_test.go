package scenarios

import (
	"fmt"
	"os"
	"strings"

	"github.com/patchbay-dev/patchbay/test/netlab"
)

// programs are what scripts run as commands of the shell.
var programs = map[string]func(){
	"patchbay": func() { os.Exit(patchbay()) },
	"listener": func() { os.Exit(listener()) },
}

func choosesBackend(arg string) bool { return strings.HasPrefix(arg, "--nat-backend") }

// listener NETWORK ADDRESS:PORT answers every client until it is killed.
func listener() int {
	if _, err := netlab.Serve(netlab.Node, os.Args[1], os.Args[2], "a process"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	select {}
}
