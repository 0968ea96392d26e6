package dir

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/fsnotify/fsnotify"
	"golang.org/x/sys/unix"

	"github.com/patchbay-dev/patchbay/nodeagent/limit"
)

const (
	// quiet is how long a folder must rest before it is read: editors and
	// ConfigMap mounts change several names for one edit.
	quiet = 75 * time.Millisecond
	// patience bounds that wait for a folder that never rests.
	patience = time.Second
)

// Watch calls fn with the state of a folder of manifests, first at once and
// then whenever that differs, until ctx ends, which is no error. Calls do not
// overlap; changes during a call lead to one more. A folder that is missing or
// goes away is waited for. Only the folder itself is watched: where an entry is
// a link, what it leads to is read again when something in the folder changes.
func Watch(ctx context.Context, path string, v *Validator, fn func(Snapshot)) error {
	w, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("watch %s: %w", path, limit.ExplainInotify(err))
	}
	defer func() { _ = w.Close() }()
	abs, err := filepath.Abs(path)
	if err != nil {
		return fmt.Errorf("watch %s: %w", path, err)
	}
	t := newTracker(path, v)
	var last *Snapshot
	for ctx.Err() == nil {
		if err := rewatch(w, abs); err != nil {
			return fmt.Errorf("watch %s: %w", path, limit.ExplainInotify(err))
		}
		if s := t.scan(); last == nil || !s.equal(*last) {
			last = &s
			fn(s)
		}
		if err := waitForChange(ctx, w, abs); err != nil {
			return fmt.Errorf("watch %s: %w", path, err)
		}
	}
	return nil
}

// rewatch watches the folder and the nearest folder above it that exists. It
// starts anew each time, since a watch stays with a folder that was renamed or
// replaced; it comes before the scan, so nothing is missed in between.
func rewatch(w *fsnotify.Watcher, path string) error {
	for _, old := range w.WatchList() {
		// The kernel may have dropped it already.
		_ = w.Remove(old)
	}
	// Where this fails the scan says why, and the folder above tells the next
	// change; not where inotify has no watch left.
	if err := w.Add(path); errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EMFILE) {
		return err
	}
	for {
		parent := filepath.Dir(path)
		err := w.Add(parent)
		if err == nil || parent == path {
			return err
		}
		path = parent
	}
}

// waitForChange returns when something changed and then rested, or ctx ended.
func waitForChange(ctx context.Context, w *fsnotify.Watcher, path string) error {
	var rest, end <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-rest:
			return nil
		case <-end:
			return nil
		case e := <-w.Events:
			if !concerns(e.Name, path) {
				continue
			}
			rest = time.After(quiet)
			if end == nil {
				end = time.After(patience)
			}
		case err := <-w.Errors:
			// An overflow lost events, so something changed; any other error is the
			// end of watching.
			if !errors.Is(err, fsnotify.ErrEventOverflow) {
				return err
			}
			rest = time.After(quiet)
		}
	}
}

// concerns says whether a name is in the folder, the folder, or above it.
func concerns(name, path string) bool {
	if filepath.Dir(name) == path {
		return true
	}
	rel, err := filepath.Rel(name, path)
	return err == nil && (rel == "." || filepath.IsLocal(rel))
}
