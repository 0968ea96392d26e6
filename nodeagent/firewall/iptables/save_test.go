package iptables

import (
	"os"
	"testing"

	"github.com/patchbay-dev/patchbay/nodeagent/firewall/foreign"
	"github.com/patchbay-dev/patchbay/nodeagent/firewall/iptsave"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
)

func FuzzSave(f *testing.F) {
	text, err := os.ReadFile("../testdata/iptables.rules")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Add([]byte("*filter\n:FORWARD DROP [0:0]\n-A FORWARD -i a+ -g SITE\n-A FORWARD -j SITE\n-A SITE -j FORWARD\n-A SITE ! -i\n-A SITE -j\n"))
	f.Add([]byte("*nat\n:FORWARD DROP [0:0]\n-A PREROUTING ! -s\n-A PATCHBAY-ANY -m comment --comment \"patchbay:local:publish [::]:80-/tcp\" -j DNAT --to-destination :-\n"))
	f.Fuzz(func(_ *testing.T, text []byte) {
		s := iptsave.Parse(true, text)
		m := newMemory(netstate.SourceLocal, s)
		m.restores(ipChanges{}, []bool{true}, maxRestore())
		foreign.Blockers(s)
	})
}
