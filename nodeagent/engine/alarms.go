package engine

import (
	"time"

	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
)

// alarm is something to look at again at a time: an owner, or what the loop itself reads.
type alarm struct {
	what  what
	owner netstate.Owner
}

type what uint8

const (
	lookAtOwner what = iota
	readNode
	readRouting
	lookAtSilent
	lookAtPorts
	endBrake
	retryRetire
	returnMemory
)

const (
	// firstRetry and lastRetry bound the pauses of an owner that fails.
	firstRetry = 200 * time.Millisecond
	lastRetry  = time.Minute
	// pauseAfterError is how long to wait before the node is read again that could
	// not be read.
	pauseAfterError = time.Second
	// nodePause is the shortest time between two looks at the node's own links
	// and routes: on a busy node they change all the time.
	nodePause = 200 * time.Millisecond

	// largeBatch is how many owners leave so much garbage in a pass that memoryPause
	// later it is returned to the system. The heap may be twice the memory in use before Go
	// collects, and a loop at rest never comes that far.
	largeBatch  = 100
	memoryPause = time.Second

	idle = 24 * time.Hour
)

// soon has the loop look at something in this turn or, while that rests, later.
func (e *Engine) soon(w what) { e.alarms.By(alarm{what: w}, e.Now()) }

// rest has the loop not look at something for a while.
func (e *Engine) rest(w what, pause time.Duration) {
	e.alarms.Rest(alarm{what: w}, e.Now().Add(pause))
}

// due takes out the alarms whose time has come, and has the owners among them looked at.
func (e *Engine) due() map[what]bool {
	now := map[what]bool{}
	for _, a := range e.alarms.Due(e.Now()) {
		now[a.what] = true
		if a.what == lookAtOwner {
			e.resolver.Mark(a.owner)
		}
	}
	return now
}

// untilNext returns how long the loop may sleep.
func (e *Engine) untilNext() time.Duration {
	if e.resolver.Dirty() {
		return 0
	}
	next, ok := e.alarms.Next()
	if !ok {
		return idle
	}
	return max(min(next.Sub(e.Now()), idle), 0)
}
