// Package report tells users and programs the state of the resources: as records of
// a node without a cluster, as tables, as metrics. It promises to write only when the
// meaning changed.
package report

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	kjson "sigs.k8s.io/json"
	"sigs.k8s.io/yaml"

	"github.com/patchbay-dev/patchbay/api/v1alpha1"
	"github.com/patchbay-dev/patchbay/nodeagent/engine"
	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
	"github.com/patchbay-dev/patchbay/nodeagent/regular"
)

// Store keeps the resources of a node without a cluster, with their status, as an API
// server would. It has the wanted state and the allocated addresses. It never says
// which kernel objects are Patchbay's; their marks do.
type Store struct {
	dir  string
	node Node
}

// Node says for which node and firewall backend the records were written.
type Node struct {
	Name    string `json:"name"`
	Backend string `json:"backend"`
}

// NewStore keeps its records under dir, which need not exist.
func NewStore(dir string) *Store { return &Store{dir: dir} }

// By sets the node that the next records are written for.
func (s *Store) By(n Node) { s.node = n }

// WrittenBy returns the node that the records were written for; zero without records.
func (s *Store) WrittenBy() Node {
	var n Node
	data, err := regular.ReadFile(s.nodeFile())
	if err != nil || yaml.Unmarshal(data, &n) != nil {
		return Node{}
	}
	return n
}

// nodeFile is beside the records, so that their folder is empty without them.
func (s *Store) nodeFile() string { return s.dir + ".yaml" }

// saveNode writes once for which node the records are.
func (s *Store) saveNode() error {
	if s.node == (Node{}) {
		return nil
	}
	data, err := yaml.Marshal(s.node)
	if err != nil {
		return err
	}
	if err := os.WriteFile(s.nodeFile(), data, 0o600); err != nil {
		return err
	}
	s.node = Node{}
	return nil
}

// Load returns the records that can be read, in the order of their files, and
// an error for each that cannot: those are left out.
func (s *Store) Load() (records []v1alpha1.Object, damaged []*DamagedRecord) {
	files, _ := filepath.Glob(filepath.Join(s.dir, "*.yaml"))
	for _, f := range files {
		o, err := s.read(f)
		switch {
		case err == nil:
			records = append(records, o)
		case !errors.Is(err, fs.ErrNotExist):
			damaged = append(damaged, &DamagedRecord{File: f, Err: err})
		}
	}
	return records, damaged
}

// DamagedRecord is a record that cannot be read. Nothing in the kernel depends on it:
// Patchbay finds its objects there by their marks.
type DamagedRecord struct {
	File string
	Err  error
}

func (d *DamagedRecord) Error() string { return fmt.Sprintf("read record %s: %v", d.File, d.Err) }

func (d *DamagedRecord) Unwrap() error { return d.Err }

// SetAside renames the file of a damaged record, of a resource or a sysctl, so
// that it is not read again.
func SetAside(file string) error {
	aside := asideName(file)
	if err := os.RemoveAll(aside); err != nil {
		return err
	}
	return os.Rename(file, aside)
}

// asideName starts with a dot: listings of records leave it out.
func asideName(file string) string {
	return filepath.Join(filepath.Dir(file), "."+filepath.Base(file)+".damaged")
}

// read reads a record, which must be of the resource that its name says.
func (s *Store) read(file string) (v1alpha1.Object, error) {
	data, err := regular.ReadFile(file)
	if err != nil {
		return nil, err
	}
	kind, _, _ := strings.Cut(filepath.Base(file), ".")
	o, err := parseRecord(kind, data)
	if err == nil && s.file(engine.InputOf(o).Owner()) != file {
		err = errors.New("it is of another resource than its name says")
	}
	return o, err
}

// parseRecord reads JSON, in which records are written since it takes a tenth of the time of
// YAML, and YAML.
func parseRecord(kind string, data []byte) (v1alpha1.Object, error) {
	var o v1alpha1.Object
	switch kind {
	case netstate.OwnerNetwork:
		o = &v1alpha1.BridgeNetwork{}
	case netstate.OwnerAttachment:
		o = &v1alpha1.NamespaceAttachment{}
	case netstate.OwnerPublish:
		o = &v1alpha1.PortPublish{}
	default:
		return nil, fmt.Errorf("unknown kind %q", kind)
	}
	if bytes.HasPrefix(data, []byte("{")) {
		strict, err := kjson.UnmarshalStrict(data, o)
		return o, errors.Join(append(strict, err)...)
	}
	return o, yaml.UnmarshalStrict(data, o)
}

// Get returns one record, or nil.
func (s *Store) Get(o netstate.Owner) v1alpha1.Object {
	rec, err := s.read(s.file(o))
	if err != nil {
		return nil
	}
	return rec
}

// Save writes a record if it differs from the stored one.
func (s *Store) Save(o v1alpha1.Object) error {
	data, err := json.MarshalIndent(o, "", "  ")
	if err != nil {
		return err
	}
	data = append(data, '\n')
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return err
	}
	if err := s.saveNode(); err != nil {
		return err
	}
	return replace(s.file(engine.InputOf(o).Owner()), data)
}

// replace gives a file its content at once, unless it has that already.
func replace(file string, data []byte) error {
	if old, err := regular.ReadFile(file); err == nil && bytes.Equal(old, data) {
		return nil
	}
	tmp := file + ".tmp"
	err := os.WriteFile(tmp, data, 0o600)
	if err == nil {
		err = os.Rename(tmp, file)
	}
	if err != nil {
		_ = os.Remove(tmp)
	}
	return err
}

// Remove deletes a record; the last one takes the folder along.
func (s *Store) Remove(o netstate.Owner) error {
	record, keys := s.file(o), s.keysFile(o)
	for _, file := range []string{record, record + ".tmp", keys, keys + ".tmp", s.formerFile(o)} {
		if err := os.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if err := errors.Join(os.RemoveAll(asideName(record)), os.RemoveAll(asideName(keys))); err != nil {
		return err
	}
	// Fails, as it should, while records are left.
	if os.Remove(s.dir) == nil {
		_ = os.Remove(s.nodeFile())
	}
	return nil
}

func (s *Store) file(o netstate.Owner) string {
	return filepath.Join(s.dir, strings.Join([]string{o.Kind, o.Namespace, o.Name, "yaml"}, "."))
}
