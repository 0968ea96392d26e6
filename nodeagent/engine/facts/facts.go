// Package facts remembers which reader read which fact, and so which readers a change
// concerns. It promises that a reader is dirty after each change of what it has read
// since it was last read for, and after no other. It is pure.
package facts

import (
	"reflect"
)

// Book is the facts F with their values, and the readers R. A fact that was never set has
// the value nil, which is a value too: its readers hear of the first one.
type Book[R, F comparable] struct {
	values  map[F]any
	members map[F]map[R]any
	readers map[F]map[R]bool
	reads   map[R][]F
	dirty   map[R]bool
}

// New makes an empty book.
func New[R, F comparable]() *Book[R, F] {
	return &Book[R, F]{values: map[F]any{}, members: map[F]map[R]any{}, readers: map[F]map[R]bool{}, reads: map[R][]F{}, dirty: map[R]bool{}}
}

// Begin forgets what a reader has read and that it is dirty: it reads anew.
func (b *Book[R, F]) Begin(r R) {
	for _, f := range b.reads[r] {
		if delete(b.readers[f], r); len(b.readers[f]) == 0 {
			delete(b.readers, f)
		}
	}
	delete(b.reads, r)
	delete(b.dirty, r)
}

// Get returns the value of a fact, and has the reader hear of its changes.
func (b *Book[R, F]) Get(r R, f F) any {
	if b.readers[f] == nil {
		b.readers[f] = map[R]bool{}
	}
	if !b.readers[f][r] {
		b.readers[f][r] = true
		b.reads[r] = append(b.reads[r], f)
	}
	return b.values[f]
}

// Peek returns the value of a fact to a caller that need not hear of its changes.
func (b *Book[R, F]) Peek(f F) any { return b.values[f] }

// Set gives a fact a value; nil takes the value away. The readers of a fact whose value
// differs are dirty.
func (b *Book[R, F]) Set(f F, value any) {
	if old := b.values[f]; old == nil && value == nil || old != nil && value != nil && reflect.DeepEqual(old, value) {
		return
	}
	b.Learn(f, value)
	b.Touch(f)
}

// Learn gives a fact the value that a reader is about to read for the first time: other
// readers know it already, or have to hear of it by Touch.
func (b *Book[R, F]) Learn(f F, value any) {
	if value == nil {
		delete(b.values, f)
		return
	}
	b.values[f] = value
}

// Forget is Learn with no value, for the facts that a function chooses.
func (b *Book[R, F]) Forget(which func(F) bool) {
	for f := range b.values {
		if which(f) {
			delete(b.values, f)
		}
	}
}

// Touch has the readers of a fact dirty although its value is the same.
func (b *Book[R, F]) Touch(f F) {
	for r := range b.readers[f] {
		b.dirty[r] = true
	}
}

// Join makes a reader a member of a fact, with a value. The other readers of the fact are
// dirty if that is a change.
func (b *Book[R, F]) Join(f F, member R, value any) {
	if old, is := b.members[f][member]; is && reflect.DeepEqual(old, value) {
		return
	}
	if b.members[f] == nil {
		b.members[f] = map[R]any{}
	}
	b.members[f][member] = value
	b.touchOthers(f, member)
}

// Leave ends Join.
func (b *Book[R, F]) Leave(f F, member R) {
	if _, is := b.members[f][member]; !is {
		return
	}
	if delete(b.members[f], member); len(b.members[f]) == 0 {
		delete(b.members, f)
	}
	b.touchOthers(f, member)
}

func (b *Book[R, F]) touchOthers(f F, member R) {
	for r := range b.readers[f] {
		if r != member {
			b.dirty[r] = true
		}
	}
}

// Members returns the members of a fact with their values, which the caller does not
// change, and has the reader hear of changes.
func (b *Book[R, F]) Members(r R, f F) map[R]any {
	b.Get(r, f)
	return b.members[f]
}

// PeekMembers is Members for a caller that need not hear of changes.
func (b *Book[R, F]) PeekMembers(f F) map[R]any { return b.members[f] }

// Mark has a reader dirty whatever it has read.
func (b *Book[R, F]) Mark(readers ...R) {
	for _, r := range readers {
		b.dirty[r] = true
	}
}

// Clean reports whether no reader is dirty.
func (b *Book[R, F]) Clean() bool { return len(b.dirty) == 0 }

// Take returns the dirty readers that a function chooses; they are clean then.
func (b *Book[R, F]) Take(which func(R) bool) (readers []R) {
	for r := range b.dirty {
		if which(r) {
			readers = append(readers, r)
			delete(b.dirty, r)
		}
	}
	return readers
}
