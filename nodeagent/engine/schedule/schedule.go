// Package schedule remembers when to look at what again. It promises that taking out the
// due keys costs in proportion to their number, however many keys are scheduled. It is
// pure: the caller says the time.
package schedule

import (
	"container/heap"
	"time"
)

// Schedule is a time for each of some keys. The zero value is empty.
type Schedule[K comparable] struct {
	at    map[K]time.Time
	rests map[K]time.Time
	queue queue[K]
}

// At sets the time of a key, in place of an earlier call's.
func (s *Schedule[K]) At(k K, t time.Time) {
	if rest, ok := s.rests[k]; ok && t.Before(rest) {
		t = rest
	}
	if s.at == nil {
		s.at = map[K]time.Time{}
	}
	if old, ok := s.at[k]; ok && old.Equal(t) {
		return
	}
	s.at[k] = t
	heap.Push(&s.queue, entry[K]{k, t})
}

// By sets the time of a key unless the key has an earlier one.
func (s *Schedule[K]) By(k K, t time.Time) {
	if old, ok := s.at[k]; !ok || t.Before(old) {
		s.At(k, t)
	}
}

// Rest keeps a key from being due before a time, whenever it is asked for.
func (s *Schedule[K]) Rest(k K, until time.Time) {
	if s.rests == nil {
		s.rests = map[K]time.Time{}
	}
	s.rests[k] = until
	if at, ok := s.at[k]; ok {
		s.At(k, at)
	}
}

// Clear takes a key out.
func (s *Schedule[K]) Clear(k K) {
	delete(s.at, k)
	delete(s.rests, k)
}

// Has reports whether a key has a time that has not come.
func (s *Schedule[K]) Has(k K) bool {
	_, ok := s.at[k]
	return ok
}

// Due takes out and returns the keys whose time has come, the earliest first.
func (s *Schedule[K]) Due(now time.Time) (keys []K) {
	for s.prune(); len(s.queue) > 0 && !now.Before(s.queue[0].at); s.prune() {
		k := heap.Pop(&s.queue).(entry[K]).key
		delete(s.at, k)
		keys = append(keys, k)
	}
	for k, rest := range s.rests {
		if !now.Before(rest) {
			delete(s.rests, k)
		}
	}
	return keys
}

// Next returns the earliest time; false where no key has one.
func (s *Schedule[K]) Next() (time.Time, bool) {
	if s.prune(); len(s.queue) == 0 {
		return time.Time{}, false
	}
	return s.queue[0].at, true
}

// prune drops entries at the head that a later call replaced.
func (s *Schedule[K]) prune() {
	for len(s.queue) > 0 {
		if at, ok := s.at[s.queue[0].key]; ok && at.Equal(s.queue[0].at) {
			return
		}
		heap.Pop(&s.queue)
	}
}

// BackOff is the pause after so many failures: it doubles from the first to the last.
func BackOff(first, last time.Duration, failures int) time.Duration {
	return min(first<<min(failures, 16), last)
}

type entry[K comparable] struct {
	key K
	at  time.Time
}

// queue is a heap of entries. An entry counts where Schedule.at confirms it.
type queue[K comparable] []entry[K]

func (q queue[K]) Len() int           { return len(q) }
func (q queue[K]) Less(i, j int) bool { return q[i].at.Before(q[j].at) }
func (q queue[K]) Swap(i, j int)      { q[i], q[j] = q[j], q[i] }
func (q *queue[K]) Push(x any)        { *q = append(*q, x.(entry[K])) }
func (q *queue[K]) Pop() any {
	last := (*q)[len(*q)-1]
	*q = (*q)[:len(*q)-1]
	return last
}
