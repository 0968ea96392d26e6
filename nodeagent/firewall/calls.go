package firewall

import (
	"errors"
	"sync"
	"time"

	"github.com/patchbay-dev/patchbay/nodeagent/firewall/program"
)

// AgentPatience is longer than reading or writing a firewall takes on a busy node, and the
// longest time that a link waits for its repair when a program hangs.
const AgentPatience = 3 * time.Second

const (
	// firstPause and lastPause bound the pause after a failure. The first is short: a
	// program that flushes a firewall table by table is in the way of repairs meanwhile.
	firstPause = 50 * time.Millisecond
	lastPause  = time.Second
)

// calls are made one at a time, and their caller goes on while a program hangs: a call that
// takes longer than the caller waits ends beside the caller. The watcher is told to look
// again after a change by another program, the end of such a call, and the pause after a
// failure.
type calls struct {
	program string
	limit   time.Duration
	// slow says that the caller did not wait for the end of the last reading, and does not
	// wait for the next.
	slow bool

	mu   sync.Mutex
	tell func()
	// beside is closed when the call beside the caller ends; nil for no such call.
	beside chan struct{}
	// last is the error of the last call that ended beside the caller.
	last error
	// fresh says that a reading succeeded and the caller has not heard so, outdated that
	// another program changed the firewall since the reading began.
	fresh, outdated bool
	// failures are counted since a change succeeded; pause is nil for no pause.
	failures int
	pause    *time.Timer
}

// run makes a call and waits for its end as long as the caller may.
func (c *calls) run(reading bool, call func() error) error {
	if err := c.busy(); err != nil {
		return err
	}
	if reading {
		c.begin()
	}
	if c.limit == 0 {
		return call()
	}
	limit := c.limit
	if reading && c.slow {
		limit = 0
	}
	done := make(chan error, 1)
	go func() { done <- call() }()
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case err := <-done:
		return err
	case <-timer.C:
	}
	c.slow = c.slow || reading
	c.mu.Lock()
	defer c.mu.Unlock()
	c.beside = make(chan struct{})
	go c.await(done, reading)
	return c.noAnswer()
}

func (c *calls) begin() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.outdated = false
}

// await waits for the end of a call beside the caller.
func (c *calls) await(done chan error, reading bool) {
	err := <-done
	c.mu.Lock()
	defer c.mu.Unlock()
	close(c.beside)
	c.beside, c.last, c.fresh = nil, err, reading && err == nil
	c.look()
}

// noAnswer is the error of a caller that does not wait.
func (c *calls) noAnswer() error {
	if hung := (*program.NoAnswer)(nil); errors.As(c.last, &hung) {
		return hung
	}
	return &program.NoAnswer{Program: c.program, After: c.limit}
}

// busy returns an error while a call goes on beside the caller.
func (c *calls) busy() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.beside == nil {
		return nil
	}
	return c.noAnswer()
}

// hasRead reports whether a reading ended beside the caller, and counts as told of then.
// A reading that may have missed a change is repeated later.
func (c *calls) hasRead() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	fresh := c.fresh
	if c.fresh = false; fresh && c.outdated {
		c.look()
	}
	return fresh
}

// changed says that another program changed the firewall.
func (c *calls) changed() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.outdated = true
	c.look()
}

// look has the watcher look again, unless the end of a call or of a pause will.
func (c *calls) look() {
	if c.tell != nil && c.beside == nil && c.pause == nil {
		c.tell()
	}
}

// failed begins a pause, and the more failures there were the longer.
func (c *calls) failed() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.pause == nil {
		c.pause = time.AfterFunc(min(firstPause<<min(c.failures, 16), lastPause), c.resume)
	}
	c.failures++
}

func (c *calls) resume() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.pause = nil
	c.look()
}

// pauses reports whether the pause after a failure is not over.
func (c *calls) pauses() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.pause != nil
}

// calm forgets what a reading that succeeded ends, and sets how long the caller waits.
func (c *calls) calm(limit time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.limit, c.slow, c.last = limit, false, nil
}

func (c *calls) succeeded() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.failures = 0
}

// finish waits for the call beside the caller, as long as the caller may.
func (c *calls) finish() {
	c.mu.Lock()
	beside := c.beside
	c.mu.Unlock()
	if beside == nil {
		return
	}
	select {
	case <-beside:
	case <-time.After(c.limit):
	}
}
