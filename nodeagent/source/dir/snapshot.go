package dir

import (
	"bytes"
	"maps"
	"os"
	"slices"

	"k8s.io/apimachinery/pkg/api/equality"

	"github.com/patchbay-dev/patchbay/api/v1alpha1"
)

// Snapshot is the state of a folder of manifests.
type Snapshot struct {
	// Documents has the documents of the valid files, and the last good documents of
	// a broken file, in the order of the files. An object that did not change is the
	// same pointer as in the snapshot before, with the status that it was given
	// since. The generation counts the changes of a spec since watching began.
	Documents []Document
	// Errors are *Error values, in the order of the files.
	Errors []error
	// Complete is false while the folder is missing or a file in it cannot be read or
	// is not valid. Nothing may be deleted then, because an object that is missing
	// from Documents may still be wanted.
	Complete bool
}

// equal relies on the tracker, which hands out the same object while nothing in
// it changes.
func (s Snapshot) equal(other Snapshot) bool {
	return slices.Equal(s.Documents, other.Documents) &&
		slices.EqualFunc(s.Errors, other.Errors, func(a, b error) bool { return a.Error() == b.Error() })
}

// tracker turns the content of a folder into snapshots, remembering the last
// good state of every file.
type tracker struct {
	path   string
	parser *parser
	good   map[string][]Document
}

func newTracker(path string, v *Validator) *tracker {
	return &tracker{path: path, parser: newParser(v), good: map[string][]Document{}}
}

// candidate has the documents that one file may contribute to the next snapshot.
type candidate struct {
	docs []Document
	errs []error
}

// fresh reports whether the documents are the file's present content; otherwise they
// are its last good state.
func (c candidate) fresh() bool { return len(c.errs) == 0 }

// scan reads the folder. A folder that cannot be read keeps everything as it was.
func (t *tracker) scan() Snapshot {
	files, err := t.files()
	if err != nil {
		return t.snapshot([]error{err})
	}
	t.parser.turn()
	before := t.objects()
	candidates := map[string]candidate{}
	for _, f := range files {
		candidates[f.path] = t.read(f, before)
	}
	t.settle(candidates, before)
	next := map[string][]Document{}
	var errs []error
	for _, path := range slices.Sorted(maps.Keys(candidates)) {
		c := candidates[path]
		errs = append(errs, c.errs...)
		next[path] = c.docs
	}
	t.good = next
	return t.snapshot(errs)
}

func (t *tracker) files() ([]source, error) {
	info, err := os.Stat(t.path)
	if err != nil {
		return nil, unreadable(t.path, err)
	}
	if !info.IsDir() {
		return nil, &Error{File: t.path, Message: "is not a folder"}
	}
	return folder(t.path)
}

func (t *tracker) snapshot(errs []error) Snapshot {
	s := Snapshot{Errors: errs, Complete: len(errs) == 0}
	for _, path := range slices.Sorted(maps.Keys(t.good)) {
		s.Documents = append(s.Documents, t.good[path]...)
	}
	return s
}

func (t *tracker) objects() map[key]Document {
	all := map[key]Document{}
	for _, docs := range t.good {
		for _, d := range docs {
			all[keyOf(d.Object)] = d
		}
	}
	return all
}

// read parses one file and compares it with what its objects were before.
func (t *tracker) read(f source, before map[key]Document) candidate {
	last := t.good[f.path]
	if f.err != nil {
		return candidate{last, []error{f.err}}
	}
	if len(last) > 0 && len(bytes.TrimSpace(f.data)) == 0 {
		// A shell truncates a file long before the command behind ">" has written
		// it: an empty file is not meant to delete every object that it had.
		return candidate{last, []error{&Error{File: f.path, Message: "is empty; delete the file to delete what was in it"}}}
	}
	docs, errs := t.parser.parse(f.path, f.data)
	errs = append(errs, duplicates(docs)...)
	if len(errs) == 0 {
		errs = t.succeedAll(docs, before)
	}
	if len(errs) > 0 {
		return candidate{last, errs}
	}
	return candidate{docs: docs}
}

func (t *tracker) succeedAll(docs []Document, before map[key]Document) []error {
	var errs []error
	for i, d := range docs {
		old, ok := before[keyOf(d.Object)]
		if !ok {
			continue
		}
		next, updateErrs := t.succeed(d.File, d.Object, old.Object)
		for _, e := range updateErrs {
			errs = append(errs, e)
		}
		docs[i].Object = next
	}
	return errs
}

// succeed says what follows old: itself where nothing changed, or the next
// generation where the spec did.
func (t *tracker) succeed(file string, updated, old v1alpha1.Object) (v1alpha1.Object, []*Error) {
	same := equality.Semantic.DeepEqual(updated.SpecPointer(), old.SpecPointer())
	if same && maps.Equal(updated.GetLabels(), old.GetLabels()) && maps.Equal(updated.GetAnnotations(), old.GetAnnotations()) {
		return old, nil
	}
	if errs := t.parser.validator.updateErrors(file, updated, old); len(errs) > 0 {
		return nil, errs
	}
	next := updated.DeepCopyObject().(v1alpha1.Object)
	next.SetGeneration(old.GetGeneration())
	if !same {
		next.SetGeneration(old.GetGeneration() + 1)
	}
	return next, nil
}

// settle finds objects that several files define. The file that had the object
// before keeps it, else the first file. The other files fall back to their last good
// state. That may collide in turn, but each round turns one file back, and the last
// good states of all files do not collide.
func (t *tracker) settle(candidates map[string]candidate, before map[key]Document) {
	for {
		path, err := collision(candidates, before)
		if err == nil {
			return
		}
		candidates[path] = candidate{t.good[path], []error{err}}
	}
}

// collision returns a file with fresh content that has to give way.
func collision(candidates map[string]candidate, before map[key]Document) (string, *Error) {
	holders := map[key]string{}
	for _, path := range slices.Sorted(maps.Keys(candidates)) {
		for _, d := range candidates[path].docs {
			k := keyOf(d.Object)
			holder, held := holders[k]
			if !held {
				holders[k] = path
				continue
			}
			loser := d
			if candidates[holder].fresh() && (before[k].File == path || !candidates[path].fresh()) {
				loser, holder = Document{File: holder, Object: d.Object}, path
			}
			return loser.File, duplicateError(loser, holder)
		}
	}
	return "", nil
}
