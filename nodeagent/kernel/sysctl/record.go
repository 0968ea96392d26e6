package sysctl

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
	"github.com/patchbay-dev/patchbay/nodeagent/regular"
)

// Records are the records of one source. They are safe for concurrent use.
type Records struct {
	// Dir is the folder of the records.
	Dir    string
	Source netstate.Source
	// Changed is called after every write.
	Changed func()
	// mu guards the records and their sysctls.
	mu sync.Mutex
}

// record keeps the previous value of a sysctl of the node, so that a restarted agent can
// restore it too. A reboot removes the record and resets the sysctl.
type record struct {
	Source   netstate.Source `json:"source"`
	Previous string          `json:"previous"`
	Ours     string          `json:"ours"`
	// Others are sysctls that change when this one is written, with their
	// previous values where those differ from Previous.
	Others map[string]string `json:"others,omitempty"`
}

// Spreading sysctls set one value of every interface when they are written:
// the folder of the interfaces, and the value's name there.
var Spreading = map[string]struct{ folder, name string }{
	"net/ipv4/ip_forward":            {"net/ipv4/conf", "forwarding"},
	"net/ipv4/conf/all/forwarding":   {"net/ipv4/conf", "forwarding"},
	"net/ipv6/conf/all/forwarding":   {"net/ipv6/conf", "forwarding"},
	"net/ipv6/conf/all/disable_ipv6": {"net/ipv6/conf", "disable_ipv6"},
}

// parseRecord reads a record's file. It fails for one that it did not write or
// that would write outside the sysctls.
func parseRecord(b []byte) (record, error) {
	var r record
	if err := json.Unmarshal(b, &r); err != nil {
		return record{}, err
	}
	if r.Source != netstate.SourceCluster && r.Source != netstate.SourceLocal {
		return record{}, fmt.Errorf("unknown source %q", r.Source)
	}
	for name := range r.Others {
		if _, err := fileOf(name); err != nil {
			return record{}, err
		}
	}
	return r, nil
}

// File is the file of a sysctl's record.
func (all *Records) File(name string) string {
	return filepath.Join(all.Dir, url.PathEscape(name))
}

// Find returns false where there is no record, and for a damaged one.
func (all *Records) Find(name string) (record, bool) {
	b, err := regular.ReadFile(all.File(name))
	if err != nil {
		return record{}, false
	}
	r, err := parseRecord(b)
	return r, err == nil
}

// Damaged returns the files that should be records of sysctls and cannot
// be read, with the reason. The sysctl stays as it is: its previous value is lost.
func (all *Records) Damaged() map[string]error {
	bad := map[string]error{}
	for _, name := range all.names() {
		file := all.File(name)
		b, err := regular.ReadFile(file)
		if err == nil {
			_, err = parseRecord(b)
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			bad[file] = err
		}
	}
	return bad
}

// writeRecord replaces the record in one step; no crash leaves half of one.
func (all *Records) writeRecord(name string, r record) error {
	if err := os.MkdirAll(all.Dir, 0o755); err != nil {
		return err
	}
	b, err := json.Marshal(r)
	if err != nil {
		return err
	}
	// "." at the start: recordNames skips it.
	temporary := filepath.Join(all.Dir, "."+url.PathEscape(name))
	err = os.WriteFile(temporary, b, 0o644)
	if err == nil {
		err = os.Rename(temporary, all.File(name))
	}
	if err != nil {
		_ = os.Remove(temporary)
		return err
	}
	all.Changed()
	return nil
}

// removeRecord removes a record, and the folder with the last one. Where /run is
// read-only the record stays, and the next process removes it: the value that it
// would put back is in place.
func (all *Records) removeRecord(name string) error {
	err := os.Remove(all.File(name))
	if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.EROFS) {
		return err
	}
	_ = os.Remove(all.Dir)
	all.Changed()
	return nil
}

// Record records the previous value, once, and then writes.
func (all *Records) Record(name, value string) error {
	all.mu.Lock()
	defer all.mu.Unlock()
	have, err := Read(name)
	if err != nil {
		return err
	}
	r, recorded := all.Find(name)
	if !recorded {
		r = record{Source: all.Source, Previous: have, Others: overwritten(name, have)}
	}
	if !recorded || r.Ours != value {
		r.Ours = value
		if err := all.writeRecord(name, r); err != nil {
			return fmt.Errorf("record its previous value: %w", err)
		}
	}
	if have == value {
		return nil
	}
	return all.Write(name, value)
}

// overwritten reads the values that a write to a spreading sysctl would overwrite.
func overwritten(name, value string) map[string]string {
	spread, ok := Spreading[name]
	if !ok {
		return nil
	}
	found := map[string]string{}
	links, _ := os.ReadDir(path.Join(Root, spread.folder))
	for _, link := range links {
		one := path.Join(spread.folder, link.Name(), spread.name)
		v, err := Read(one)
		if err == nil && v != value && link.Name() != "all" {
			found[one] = v
		}
	}
	return found
}

// Restore restores the recorded value, unless another program has changed the value since:
// then the value is that program's.
func (all *Records) Restore(name string) error {
	all.mu.Lock()
	defer all.mu.Unlock()
	r, recorded := all.Find(name)
	if !recorded || r.Source != all.Source {
		return nil
	}
	have, err := Read(name)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err == nil && have == r.Ours && have != r.Previous {
		if err := all.putBack(name, r); err != nil {
			return err
		}
	}
	return all.removeRecord(name)
}

func (all *Records) putBack(name string, r record) error {
	if err := all.Write(name, r.Previous); err != nil {
		return err
	}
	for one, value := range r.Others {
		have, err := Read(one)
		if err != nil || have == value {
			continue // the interface has gone, or nothing to do
		}
		if err := all.Write(one, value); err != nil {
			return err
		}
	}
	return nil
}

// names lists the sysctls that have a record, of any source.
func (all *Records) names() []string {
	entries, _ := os.ReadDir(all.Dir)
	var names []string
	for _, e := range entries {
		name, err := url.PathUnescape(e.Name())
		if err == nil && !strings.HasPrefix(e.Name(), ".") {
			names = append(names, name)
		}
	}
	return names
}

// Recorded lists the sysctls that this source has changed, as far as their
// records can be read.
func (all *Records) Recorded() []netstate.Sysctl {
	var list []netstate.Sysctl
	for _, name := range all.names() {
		if r, recorded := all.Find(name); recorded && r.Source == all.Source {
			list = append(list, netstate.Sysctl{Link: linkOf(name), Path: name, Value: r.Ours, Restore: true})
		}
	}
	return list
}

// linkOf is the interface that a recorded sysctl belongs to, as compile
// names it in the key: the element after conf, unless it means all of them.
func linkOf(name string) string {
	parts := strings.Split(name, "/")
	if len(parts) != 5 || parts[2] != "conf" || slices.Contains([]string{"all", "default"}, parts[3]) {
		return ""
	}
	return parts[3]
}
