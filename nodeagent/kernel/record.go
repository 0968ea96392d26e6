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

// readRecord returns false where there is no record.
func (k *Kernel) readRecord(name string) (record, bool, error) {
	b, err := os.ReadFile(k.recordPath(name))
	if errors.Is(err, fs.ErrNotExist) {
		return record{}, false, nil
	}
	if err != nil {
		return record{}, false, err
	}
	r, err := parseRecord(b)
	if err != nil {
		return record{}, false, fmt.Errorf("read %s: %w", k.recordPath(name), err)
	}
	return r, true, nil
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
	// "." at the start: recordedSysctls skips it.
	temporary := filepath.Join(k.recordDir(), "."+url.PathEscape(name))
	if err := os.WriteFile(temporary, b, 0o644); err != nil {
		return err
	}
	if err := os.Rename(temporary, k.recordPath(name)); err != nil {
		return err
	}
	k.changed()
	return nil
}

func (k *Kernel) removeRecord(name string) error {
	if err := os.Remove(k.recordPath(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
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
	r, recorded, err := k.readRecord(name)
	if err != nil {
		return err
	}
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
	r, recorded, err := k.readRecord(name)
	if err != nil || !recorded || r.Source != k.opts.Source {
		return err
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

// recordedSysctls lists the sysctls that this source has changed.
func (k *Kernel) recordedSysctls() ([]Held, error) {
	entries, err := os.ReadDir(k.recordDir())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("list recorded sysctls: %w", err)
	}
	var held []Held
	for _, e := range entries {
		name, err := url.PathUnescape(e.Name())
		if err != nil || strings.HasPrefix(e.Name(), ".") {
			continue
		}
		r, recorded, err := k.readRecord(name)
		if err != nil {
			return nil, err
		}
		if recorded && r.Source == k.opts.Source {
			held = append(held, Held{Object: netstate.Sysctl{Link: sysctlLink(name), Path: name, Value: r.Ours, Restore: true}})
		}
	}
	return held, nil
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
