package netlab

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"testing"
	"time"
)

// A Refutation is the answer no to a check. Every other error means that the check could
// not be carried out.
type Refutation struct{ Err error }

func (r Refutation) Error() string { return r.Err.Error() }
func (r Refutation) Unwrap() error { return r.Err }

// Refuted makes a Refutation.
func Refuted(format string, args ...any) error { return Refutation{fmt.Errorf(format, args...)} }

// IsRefuted reports whether an error is a Refutation.
func IsRefuted(err error) bool { return errors.As(err, &Refutation{}) }

// A check is repeated after a pause as long as it took: a waiting test takes at most half of
// a processor.
const shortestPause, longestPause = 10 * time.Millisecond, 100 * time.Millisecond

// Retry calls f, at least once, until it returns nil or an error that is no Refutation, or
// until the patience of an idle machine, stretched by the crowd, ends.
func Retry(patience time.Duration, f func() error) error {
	for begin := time.Now(); ; {
		called := time.Now()
		err := f()
		if err == nil || !IsRefuted(err) || time.Since(begin) > Stretched(patience) {
			return err
		}
		time.Sleep(min(max(time.Since(called), shortestPause), longestPause))
	}
}

// Eventually fails the test unless f returns nil within the patience of an idle machine.
func Eventually(t testing.TB, patience time.Duration, what string, f func() error) {
	t.Helper()
	err := Retry(patience, func() error {
		err := f()
		if err != nil {
			err = Refutation{err}
		}
		return err
	})
	if err != nil {
		t.Fatalf("%s: not within %v: %v", what, patience, err)
	}
}

// Until is Eventually for a condition.
func Until(t testing.TB, patience time.Duration, what string, holds func() bool) {
	t.Helper()
	Eventually(t, patience, what, func() error {
		if !holds() {
			return errors.New("it does not hold")
		}
		return nil
	})
}

// Stays fails the test unless a condition holds for so long.
func Stays(t testing.TB, period time.Duration, what string, holds func() bool) {
	t.Helper()
	for begin := time.Now(); time.Since(begin) < period; time.Sleep(shortestPause) {
		if !holds() {
			t.Fatalf("%s: not after %v", what, time.Since(begin))
		}
	}
}

// Stretched is the time that a task of d on an idle machine may take now.
func Stretched(d time.Duration) time.Duration { return time.Duration(float64(d) * crowd()) }

// crowd is the number of processes that want to run for each core of the machine, 1 at least.
func crowd() float64 {
	data, _ := os.ReadFile("/proc/loadavg")
	var load float64
	_, _ = fmt.Sscan(string(data), &load)
	return max(1, load/float64(runtime.NumCPU()))
}
