package netlab

import (
	"errors"
	"fmt"
	"os"
	"runtime"
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

// pollEvery is the pause before a check is repeated. A program takes the processor for
// about as long, so that waiting tests leave half of it to others.
const pollEvery = 100 * time.Millisecond

// Retry calls f, at least once, until it returns nil or an error that is no Refutation, or
// until the patience of an idle machine, stretched by the crowd, ends.
func Retry(patience time.Duration, f func() error) error {
	for begin := time.Now(); ; time.Sleep(pollEvery) {
		err := f()
		if err == nil || !IsRefuted(err) || time.Since(begin) > Stretched(patience) {
			return err
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
