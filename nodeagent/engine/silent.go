package engine

import (
	"strings"
	"time"

	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
)

// silentPause is the time between two looks at silent sysctls.
const silentPause = 700 * time.Millisecond

// silent are wanted sysctls of the node on which traffic depends and of which the
// kernel sends no notification.
type silent struct {
	keys map[netstate.Key]bool
	due  time.Time
}

func (s *silent) add(k netstate.Key) {
	sysctl := k.Kind == netstate.KindSysctl || k.Kind == netstate.KindSysctlNode
	if sysctl && k.Netns == "" && strings.HasSuffix(k.Name, "/route_localnet") {
		s.keys[k] = true
	}
}

// lookAtSilent reads them when their time has come, and adds the owners of those
// that differ.
func (e *Engine) lookAtSilent(batch map[netstate.Owner]bool) {
	if len(e.silent.keys) == 0 || now().Before(e.silent.due) {
		return
	}
	e.silent.due = now().Add(silentPause)
	var keys []netstate.Key
	for k := range e.silent.keys {
		keys = append(keys, k)
	}
	e.recheck(keys, batch)
}
