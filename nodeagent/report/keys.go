package report

import (
	"bytes"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/patchbay-dev/patchbay/api/v1alpha1"
	"github.com/patchbay-dev/patchbay/nodeagent/engine"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
	"github.com/patchbay-dev/patchbay/nodeagent/regular"
)

// Beside each record is a file with the keys of all that may be in the kernel because of the
// resource. It is written before the kernel is changed, so that a process knows what a killed
// one may have left.

const keysSuffix = ".keys"

// Keep writes the keys of a resource if they differ from the stored ones.
func (s *Store) Keep(o netstate.Owner, keys []netstate.Key) error {
	data, err := json.Marshal(append([]netstate.Key{}, keys...))
	if err != nil {
		return err
	}
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return err
	}
	if err := replace(s.keysFile(o), append(data, '\n')); err != nil {
		return err
	}
	// The keys are of these versions too.
	if err := os.Remove(s.formerFile(o)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// Kept returns the keys of each resource that can be read, and an error for each file that
// cannot.
func (s *Store) Kept() (kept map[netstate.Owner][]netstate.Key, damaged []*DamagedRecord) {
	kept = map[netstate.Owner][]netstate.Key{}
	files, _ := filepath.Glob(s.keysFile(netstate.Owner{Kind: "*", Namespace: "*", Name: "*"}))
	for _, f := range files {
		o, keys, err := readKeys(f)
		switch {
		case err == nil:
			kept[o] = keys
		case !errors.Is(err, fs.ErrNotExist):
			damaged = append(damaged, &DamagedRecord{File: f, Err: err})
		}
	}
	return kept, damaged
}

func readKeys(file string) (o netstate.Owner, keys []netstate.Key, err error) {
	data, err := regular.ReadFile(file)
	if err != nil {
		return o, nil, err
	}
	// A namespace has no dot, a name may have some.
	parts := strings.SplitN(strings.TrimSuffix(filepath.Base(file), ".yaml"+keysSuffix), ".", 3)
	o = netstate.Owner{Kind: parts[0], Namespace: parts[1], Name: parts[2]}
	if _, err := parseRecord(o.Kind, []byte("{}")); err != nil {
		return o, nil, err
	}
	return o, keys, json.Unmarshal(data, &keys)
}

func (s *Store) keysFile(o netstate.Owner) string { return s.file(o) + keysSuffix }

// formerFile is where a release that kept no keys put the versions of a resource that may be
// in the kernel beside its record.
func (s *Store) formerFile(o netstate.Owner) string { return s.file(o) + ".former" }

// Former returns sets of the objects with such versions in their place; none where there is
// no such version.
func (s *Store) Former(objects []v1alpha1.Object) (sets [][]v1alpha1.Object) {
	for i, o := range objects {
		owner := engine.InputOf(o).Owner()
		data, _ := regular.ReadFile(s.formerFile(owner))
		for round, text := range bytes.Split(data, []byte("---\n"))[1:] {
			if round == len(sets) {
				sets = append(sets, slices.Clone(objects))
			}
			// A version that was cut short by a kill was not acted upon yet.
			if former, err := parseRecord(owner.Kind, text); err == nil {
				sets[round][i] = former
			}
		}
	}
	return sets
}
