package kernel

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

	"golang.org/x/sys/unix"

	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
)

// record is what is kept of a sysctl of the node before it is written, so that
// it can be put back by a restarted agent too. It lies in a folder that a
// reboot empties, as it resets the sysctls.
type record struct {
	Source   netstate.Source `json:"source"`
	Previous string          `json:"previous"`
	Ours     string          `json:"ours"`
	// Others are sysctls that change when this one is written, with their
	// previous values where those differ from Previous.
	Others map[string]string `json:"others,omitempty"`
}

// spreading sysctls set one value of every interface when they are written:
// the folder of the interfaces, and the value's name there.
var spreading = map[string]struct{ folder, name string }{
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
		if _, err := sysctlFile(name); err != nil {
			return record{}, err
		}
	}
	return r, nil
}

func (k *Kernel) recordPath(name string) string {
	return filepath.Join(k.recordDir(), url.PathEscape(name))
}

// readRecord returns false where there is no record, and for a damaged one.
func (k *Kernel) readRecord(name string) (record, bool) {
	b, err := os.ReadFile(k.recordPath(name))
	if err != nil {
		return record{}, false
	}
	r, err := parseRecord(b)
	return r, err == nil
}

// DamagedRecords returns the files that should be records of sysctls and cannot
// be read, with the reason. The sysctl stays as it is: its previous value is lost.
func (k *Kernel) DamagedRecords() map[string]error {
	damaged := map[string]error{}
	for _, name := range k.recordNames() {
		file := k.recordPath(name)
		b, err := os.ReadFile(file)
		if err == nil {
			_, err = parseRecord(b)
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			damaged[file] = err
		}
	}
	return damaged
}

// writeRecord replaces the record in one step; no crash leaves half of one.
func (k *Kernel) writeRecord(name string, r record) error {
	if err := os.MkdirAll(k.recordDir(), 0o755); err != nil {
		return err
	}
	b, err := json.Marshal(r)
	if err != nil {
		return err
	}
	// "." at the start: recordNames skips it.
	temporary := filepath.Join(k.recordDir(), "."+url.PathEscape(name))
	err = os.WriteFile(temporary, b, 0o644)
	if err == nil {
		err = os.Rename(temporary, k.recordPath(name))
	}
	if err != nil {
		_ = os.Remove(temporary)
		return err
	}
	k.changed()
	return nil
}

// removeRecord removes a record, and the folder with the last one. Where /run is
// read-only the record stays, and the next process removes it: the value that it
// would put back is in place.
func (k *Kernel) removeRecord(name string) error {
	err := os.Remove(k.recordPath(name))
	if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.EROFS) {
		return err
	}
	_ = os.Remove(k.recordDir())
	k.changed()
	return nil
}

// setNodeSysctl records the previous value, once, and then writes.
func (k *Kernel) setNodeSysctl(name, value string) error {
	k.records.Lock()
	defer k.records.Unlock()
	have, err := readSysctl(name)
	if err != nil {
		return err
	}
	r, recorded := k.readRecord(name)
	if !recorded {
		r = record{Source: k.opts.Source, Previous: have, Others: others(name, have)}
	}
	if !recorded || r.Ours != value {
		r.Ours = value
		if err := k.writeRecord(name, r); err != nil {
			return fmt.Errorf("record its previous value: %w", err)
		}
	}
	if have == value {
		return nil
	}
	return k.writeSysctl(name, value)
}

// others reads what a write to a spreading sysctl would lose.
func others(name, value string) map[string]string {
	spread, ok := spreading[name]
	if !ok {
		return nil
	}
	found := map[string]string{}
	links, _ := os.ReadDir(path.Join(procSys, spread.folder))
	for _, link := range links {
		one := path.Join(spread.folder, link.Name(), spread.name)
		v, err := readSysctl(one)
		if err == nil && v != value && link.Name() != "all" {
			found[one] = v
		}
	}
	return found
}

// restoreSysctl puts back what was recorded, unless somebody has changed the
// value since: then it is theirs.
func (k *Kernel) restoreSysctl(name string) error {
	k.records.Lock()
	defer k.records.Unlock()
	r, recorded := k.readRecord(name)
	if !recorded || r.Source != k.opts.Source {
		return nil
	}
	have, err := readSysctl(name)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err == nil && have == r.Ours && have != r.Previous {
		if err := k.putBack(name, r); err != nil {
			return err
		}
	}
	return k.removeRecord(name)
}

func (k *Kernel) putBack(name string, r record) error {
	if err := k.writeSysctl(name, r.Previous); err != nil {
		return err
	}
	for one, value := range r.Others {
		have, err := readSysctl(one)
		if err != nil || have == value {
			continue // the interface has gone, or nothing to do
		}
		if err := k.writeSysctl(one, value); err != nil {
			return err
		}
	}
	return nil
}

// recordNames lists the sysctls of which there is a record, of any source.
func (k *Kernel) recordNames() []string {
	entries, _ := os.ReadDir(k.recordDir())
	var names []string
	for _, e := range entries {
		name, err := url.PathUnescape(e.Name())
		if err == nil && !strings.HasPrefix(e.Name(), ".") {
			names = append(names, name)
		}
	}
	return names
}

// recordedSysctls lists the sysctls that this source has changed, as far as their
// records can be read.
func (k *Kernel) recordedSysctls() []Held {
	var held []Held
	for _, name := range k.recordNames() {
		if r, recorded := k.readRecord(name); recorded && r.Source == k.opts.Source {
			held = append(held, Held{Object: netstate.Sysctl{Link: sysctlLink(name), Path: name, Value: r.Ours, Restore: true}})
		}
	}
	return held
}

// sysctlLink is the interface that a recorded sysctl belongs to, as compile
// names it in the key: the element after conf, unless it means all of them.
func sysctlLink(name string) string {
	parts := strings.Split(name, "/")
	if len(parts) != 5 || parts[2] != "conf" || slices.Contains([]string{"all", "default"}, parts[3]) {
		return ""
	}
	return parts[3]
}
