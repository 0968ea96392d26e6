package engine

import (
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
)

// silentPause is the time between two looks at silent sysctls.
const silentPause = 700 * time.Millisecond

// silent are wanted sysctls of the node on which traffic depends and of which the
// kernel sends no notification.
type silent map[netstate.Key]bool

func (e *Engine) addSilent(k netstate.Key) {
	sysctl := k.Kind == netstate.KindSysctl || k.Kind == netstate.KindSysctlNode
	if sysctl && k.Netns == "" && strings.HasSuffix(k.Name, "/route_localnet") {
		e.silent[k] = true
		e.alarms.By(alarm{what: lookAtSilent}, e.Now().Add(silentPause))
	}
}

// lookAtSilent reads silent sysctls.
func (e *Engine) lookAtSilent() {
	if len(e.silent) == 0 {
		return
	}
	e.alarms.At(alarm{what: lookAtSilent}, e.Now().Add(silentPause))
	e.recheck(slices.Collect(maps.Keys(e.silent)))
}
