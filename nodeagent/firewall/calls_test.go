package firewall

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/patchbay-dev/patchbay/nodeagent/firewall/book"
	"github.com/patchbay-dev/patchbay/nodeagent/firewall/conntrack"
	"github.com/patchbay-dev/patchbay/nodeagent/firewall/program"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
	"github.com/patchbay-dev/patchbay/nodeagent/plan"
)

// slowDialect is a dialect whose programs take a time, or fail.
type slowDialect struct {
	dialect
	mu            sync.Mutex
	takes         time.Duration
	fails         error
	reads, writes int
	fn            func()
}

func (d *slowDialect) call(count *int) error {
	d.mu.Lock()
	takes, fails := d.takes, d.fails
	*count++
	d.mu.Unlock()
	time.Sleep(takes)
	return fails
}

func (d *slowDialect) Name() string                       { return KindNFTables }
func (d *slowDialect) Check(netstate.Object) error        { return nil }
func (d *slowDialect) Read(context.Context) error         { return d.call(&d.reads) }
func (d *slowDialect) ReadBlockers(context.Context) error { return nil }
func (d *slowDialect) Objects() []netstate.Object         { return nil }
func (d *slowDialect) Blockers() []netstate.Blocker       { return nil }
func (d *slowDialect) Standing() conntrack.Standing       { return nil }
func (d *slowDialect) Intact() bool                       { return true }
func (d *slowDialect) Object(netstate.Key) (netstate.Object, bool) {
	return nil, false
}
func (d *slowDialect) Write(context.Context, []plan.Step) (conntrack.Flows, error) {
	return nil, d.call(&d.writes)
}
func (d *slowDialect) Watch(_ context.Context, fn func()) error {
	d.fn = fn
	return nil
}

// set changes how long programs take from now on, and whether they fail.
func (d *slowDialect) set(takes time.Duration, fails error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.takes, d.fails = takes, fails
}

const testPatience = 3 * time.Second

// slow is a Firewall that was read, with the number of times that its watcher is told to
// look again.
func slow(t *testing.T) (f *Firewall, d *slowDialect, told func() int) {
	t.Helper()
	d = &slowDialect{}
	f, err := open(Options{Source: netstate.SourceLocal, Patience: testPatience}, func(book.Options) (*slowDialect, error) { return d, nil })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.Close)
	var mu sync.Mutex
	looks := 0
	if err := f.Watch(t.Context(), func() { mu.Lock(); looks++; mu.Unlock() }); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Inventory(); err != nil {
		t.Fatal(err)
	}
	return f, d, func() int {
		synctest.Wait()
		mu.Lock()
		defer mu.Unlock()
		return looks
	}
}

// unknown returns the error for the ruleset; nil if it is known.
func (f *Firewall) unknown() error {
	k := netstate.Ruleset{}.Key()
	_, errs := f.Observe([]netstate.Key{k})
	return errs[k]
}

func expectNoAnswer(t *testing.T, what string, err error) {
	t.Helper()
	if hung := (*program.NoAnswer)(nil); !errors.As(err, &hung) {
		t.Errorf("%s: %v", what, err)
	}
}

// TestCallBesideTheCaller: the caller waits for a program only a while, no second call
// begins meanwhile, and everything is unknown until the end, which the watcher is told of.
func TestCallBesideTheCaller(t *testing.T) {
	mend := []plan.Step{{Op: plan.Update, Key: netstate.Ruleset{}.Key(), New: netstate.Ruleset{}}}
	for name, call := range map[string]func(*Firewall) error{
		"read":  func(f *Firewall) error { _, err := f.Inventory(); return err },
		"write": func(f *Firewall) error { return f.Apply(mend)[0] },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f, d, told := slow(t)
				d.set(10*time.Second, nil)
				began := time.Now()
				expectNoAnswer(t, "first", call(f))
				if took := time.Since(began); took != testPatience {
					t.Errorf("the caller waited %s", took)
				}
				expectNoAnswer(t, "observe", f.unknown())
				expectNoAnswer(t, "again", call(f))
				d.fn()
				if n := told(); n != 0 {
					t.Errorf("told %d times before the end", n)
				}
				time.Sleep(10 * time.Second)
				if n := told(); n != 1 {
					t.Errorf("told %d times of the end", n)
				}
				if err := f.unknown(); err != nil {
					t.Errorf("unknown after the end: %v", err)
				}
				if d.reads+d.writes != 2 {
					t.Errorf("%d readings and %d writings", d.reads, d.writes)
				}
			})
		})
	}
}

// TestSlowFirewall: a firewall that always takes longer to read than the caller waits is
// known all the same, and is not read for ever.
func TestSlowFirewall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, d, told := slow(t)
		d.set(5*time.Second, nil)
		for round := range 3 {
			d.fn()
			for seen := told() - 1; seen < told(); {
				seen = told()
				_, err := f.Inventory()
				if err == nil {
					continue
				}
				expectNoAnswer(t, "read", err)
				time.Sleep(10 * time.Second)
			}
			if err := f.unknown(); err != nil {
				t.Errorf("unknown: %v", err)
			}
			if d.reads > 1+2*(round+1) {
				t.Errorf("read %d times for %d changes", d.reads, round+1)
			}
		}
	})
}

// TestOutdatedReading: a change that comes while the firewall is read beside the caller is
// read after that.
func TestOutdatedReading(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, d, told := slow(t)
		d.set(5*time.Second, nil)
		if _, err := f.Inventory(); err == nil {
			t.Fatal("the caller waited for the end")
		}
		d.fn()
		time.Sleep(5 * time.Second)
		before := told()
		if _, err := f.Inventory(); err != nil || told() != before+1 || d.reads != 2 {
			t.Errorf("%v; told %d times more, read %d times", err, told()-before, d.reads)
		}
	})
}

// TestFailuresPause: a first failure does not cost a flushed firewall the second in which
// it is to be back. Failures in a row are followed by longer and longer pauses, and a
// success forgets them. After each pause the watcher is told, also of changes meanwhile.
func TestFailuresPause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, d, told := slow(t)
		steps := []plan.Step{{Op: plan.Update, Key: netstate.Ruleset{}.Key(), New: netstate.Ruleset{}}}
		pause := func() time.Duration {
			t.Helper()
			d.set(0, errors.New("run iptables-restore: No chain/target/match by that name"))
			before, began := told(), time.Now()
			if f.Apply(steps)[0] == nil {
				t.Fatal("no failure")
			}
			d.fn()
			for told() == before {
				if time.Since(began) > time.Minute {
					t.Fatal("not told of the end")
				}
				time.Sleep(time.Millisecond)
			}
			d.set(0, nil)
			return time.Since(began)
		}
		first, last := pause(), time.Duration(0)
		for range 8 {
			last = pause()
		}
		if first > time.Second/4 || last < time.Second/2 || last > time.Second+time.Millisecond {
			t.Errorf("the first failure is followed by a pause of %s, the last by %s", first, last)
		}
		if err := f.Apply(steps)[0]; err != nil {
			t.Fatal(err)
		}
		if again := pause(); again > time.Second/4 {
			t.Errorf("after a success a failure is followed by a pause of %s", again)
		}
	})
}

// TestUnreadIsNotReadAllTheTime: while the pause after a reading that failed is not over,
// the same error is the answer; what a failed writing was to bring is not believed.
func TestUnreadIsNotReadAllTheTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, d, told := slow(t)
		d.set(0, errors.New("run nft: killed"))
		if f.Apply([]plan.Step{{Key: netstate.Ruleset{}.Key()}})[0] == nil {
			t.Fatal("no failure")
		}
		for range 10 {
			if f.unknown() == nil {
				t.Fatal("known after a writing that failed")
			}
		}
		if d.reads != 2 {
			t.Errorf("read %d times", d.reads)
		}
		d.set(0, nil)
		time.Sleep(time.Second)
		if err := f.unknown(); err != nil || told() != 1 || d.reads != 3 {
			t.Errorf("after the pause: %v; told %d times, read %d times", err, told(), d.reads)
		}
	})
}
