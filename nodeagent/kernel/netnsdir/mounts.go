package netnsdir

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

const apartAdvice = "mounts under /run/netns do not pass between this process and the host: run it without the options of systemd that give it a mount namespace of its own (PrivateTmp=, ProtectSystem=, PrivateMounts= and the like), give a container /run/netns with mount propagation rshared (Bidirectional in Kubernetes), and start it anew"

// reach is which namespaces pass between this process and the host: their names are
// mounts.
type reach struct {
	// apart says that mounts made here do not reach the host.
	apart bool
	// hostDir is the host's folder of namespaces, where the host has other mounts than
	// this process and can be asked; nsfs is the device of namespaces.
	hostDir string
	nsfs    uint64
}

// MountsApart returns ErrMountsApart where namespaces that are made here do not
// reach the host.
func (d *Dir) MountsApart() error {
	if d.reach.apart {
		return ErrMountsApart
	}
	return nil
}

// lookAtMounts finds out by the kernel's tables, and mounts nothing. A process in
// another network namespace is no host of this one.
func (d *Dir) lookAtMounts() reach {
	r := reach{nsfs: d.HostID.Dev}
	here, err := readMounts("/proc/thread-self")
	if err != nil {
		return r
	}
	folder := here.at(d.Path)
	var network, mounts, own unix.Stat_t
	known := unix.Stat(filepath.Join(d.init, "ns/net"), &network) == nil && ID{network.Dev, network.Ino} == d.HostID &&
		unix.Stat(filepath.Join(d.init, "ns/mnt"), &mounts) == nil && unix.Stat("/proc/thread-self/ns/mnt", &own) == nil
	if !known || mounts.Ino == own.Ino {
		r.apart = folder.bound && folder.peers == ""
		return r
	}
	host, err := readMounts(d.init)
	if err != nil {
		return r
	}
	r.apart = !slices.ContainsFunc(host, func(m mount) bool { return folder.peers != "" && m.peers == folder.peers })
	dir := filepath.Join(d.init, "root", d.Path)
	if sameFile(dir, d.Path) || sameFile(filepath.Dir(dir), d.above()) {
		r.hostDir = dir
	}
	return r
}

func sameFile(a, b string) bool {
	one, err := os.Stat(a)
	if err != nil {
		return false
	}
	other, err := os.Stat(b)
	return err == nil && os.SameFile(one, other)
}

// compare returns an InsteadError where the host has not the namespace under a name
// that this process has; the zero ID is none.
func (r reach) compare(name string, id ID) error {
	if r.hostDir == "" {
		return nil
	}
	var st unix.Stat_t
	var theirs ID
	if unix.Stat(filepath.Join(r.hostDir, name), &st) == nil && st.Dev == r.nsfs {
		theirs = ID{st.Dev, st.Ino}
	}
	switch {
	case theirs == id:
		return nil
	case id == (ID{}):
		return InsteadError{What: "the host has it", Apart: true}
	case theirs == (ID{}):
		return InsteadError{What: "the host does not have it", Apart: true}
	}
	return InsteadError{What: "the host has another one of that name", Apart: true}
}

// mount is a line of mountinfo (Documentation/filesystems/proc.rst).
type mount struct {
	point, device string
	// peers is the group between whose members mounts pass both ways; empty for none.
	peers string
	// bound is a folder of a file system that is not the one above it, as container
	// runtimes mount it.
	bound bool
}

type mounts []mount

func readMounts(process string) (mounts, error) {
	text, err := os.ReadFile(filepath.Join(process, "mountinfo"))
	if err != nil {
		return nil, fmt.Errorf("read mounts: %w", err)
	}
	var list mounts
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		if len(f) < 7 {
			continue
		}
		m := mount{point: f[4], device: f[2]}
		above := list.at(filepath.Dir(m.point))
		m.bound = f[3] != "/" && above.device != m.device
		for _, tag := range f[6:] {
			if tag == "-" {
				break
			}
			if group, ok := strings.CutPrefix(tag, "shared:"); ok {
				m.peers = group
			}
		}
		list = append(list, m)
	}
	return list, nil
}

// at returns the mount that a path is on: the last of the longest.
func (list mounts) at(path string) mount {
	var best mount
	for _, m := range list {
		if len(m.point) >= len(best.point) && (m.point == "/" || m.point == path || strings.HasPrefix(path, m.point+"/")) {
			best = m
		}
	}
	return best
}
