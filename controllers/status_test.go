package controllers

import (
	"testing"
	"time"
)

func TestThrottle(t *testing.T) {
	const interval = 5 * time.Second
	p := &throttle{}
	at := func(seconds int) time.Time { return noon.Add(time.Duration(seconds) * time.Second) }
	expect := func(what string, now time.Time, waiting bool, want time.Duration) {
		t.Helper()
		if got := max(p.wait(now, waiting, interval), 0); got != want {
			t.Errorf("%s: waits %v, want %v", what, got, want)
		}
	}
	expect("nodes answer at once", at(0), true, interval)
	expect("they go on", at(2), true, 3*time.Second)
	expect("the first result", at(3), false, 0)
	p.written(at(3))
	expect("the next one", at(4), false, 4*time.Second)
	expect("it is time", at(8), false, 0)
	p.written(at(8))
	expect("a new node, much later", at(100), true, interval)
	p.settled()
	expect("another", at(110), true, interval)
	expect("it never answers", at(115), true, 0)
}
