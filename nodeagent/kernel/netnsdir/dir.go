// Package netnsdir is the folder of the named network namespaces, /run/netns: it opens,
// makes, removes and watches the files there.
package netnsdir

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Dir is the folder of the named network namespaces, with the host's own namespace.
type Dir struct {
	// Path is the folder, and init that of the host's first process in /proc.
	Path, init string
	// Host is a descriptor of the host's network namespace, and HostID its identity.
	Host   int
	HostID ID
	// changed is called after every change of the folder.
	changed func()
	reach   reach
}

// Open prepares the folder's use and changes nothing. The calling process is in the host's
// network namespace; init is the folder in /proc of a process of the host.
func Open(runDir, init string, changed func()) (*Dir, error) {
	fd, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open the host's network namespace: %w", err)
	}
	id, err := identify(fd)
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("identify the host's network namespace: %w", err)
	}
	d := &Dir{Path: filepath.Join(runDir, "netns"), init: init, Host: fd, HostID: id, changed: changed}
	d.reach = d.lookAtMounts()
	return d, nil
}

// Close releases the host's namespace.
func (d *Dir) Close() error { return unix.Close(d.Host) }

// above is the folder that has the folder of namespaces.
func (d *Dir) above() string { return filepath.Dir(d.Path) }

// Open opens a namespace by name. It fails with ErrNotFound, and with ErrHost for a
// name that leads to the host's own (kubernetes#100648: the host lost its lo).
func (d *Dir) Open(name string) (int, ID, error) {
	path, err := d.File(name)
	if err != nil {
		return -1, ID{}, err
	}
	fd, id, err := openFile(path)
	if err != nil {
		if apart := d.reach.compare(name, ID{}); apart != nil {
			err = apart
		}
		return -1, ID{}, fmt.Errorf("open network namespace %s: %w", name, err)
	}
	if id == d.HostID {
		unix.Close(fd)
		return -1, ID{}, ErrHost
	}
	if err := d.reach.compare(name, id); err != nil {
		unix.Close(fd)
		return -1, ID{}, err
	}
	return fd, id, nil
}

// Has reports whether a namespace still has a name.
func (d *Dir) Has(name string, id ID) bool {
	path, err := d.File(name)
	if err != nil {
		return false
	}
	var st unix.Stat_t
	return unix.Stat(path, &st) == nil && ID{st.Dev, st.Ino} == id
}

var (
	// ErrNotFound means that no network namespace has that name.
	ErrNotFound = errors.New("no such network namespace")
	// ErrMountsApart means that the host does not see the mounts that this process makes
	// under /run/netns, or the other way round.
	ErrMountsApart = errors.New(apartAdvice)
	// ErrHost means that the name leads to the host's own namespace.
	ErrHost = errors.New("it is the host's own network namespace")
)

// maxMark is the largest size of a file that may hold a mark.
const maxMark = 256

// File is the file of a namespace. Names come from users.
func (d *Dir) File(name string) (string, error) {
	if name == "" || name == "." || name == ".." || strings.ContainsAny(name, "/\x00") {
		return "", fmt.Errorf("%q is not the name of a network namespace", name)
	}
	return filepath.Join(d.Path, name), nil
}

// Names lists the files that may be namespaces.
func (d *Dir) Names() ([]string, error) {
	entries, err := os.ReadDir(d.Path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	var names []string
	for _, e := range entries {
		if e.Type().IsRegular() || e.Type() == os.ModeSymlink {
			names = append(names, e.Name())
		}
	}
	return names, err
}

// Share prepares the folder of namespaces as `ip netns add` does, so
// that a mount there is seen in other mount namespaces too.
func (d *Dir) Share() error {
	dir := d.Path
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	shared := func() error { return unix.Mount("", dir, "none", unix.MS_SHARED|unix.MS_REC, "") }
	err := shared()
	if !errors.Is(err, unix.EINVAL) {
		return err
	}
	// EINVAL: the folder is no mount point yet. ip takes the same lock, since a
	// second mount would hide the namespaces of the first.
	lock, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return err
	}
	if !errors.Is(shared(), unix.EINVAL) {
		return nil
	}
	if err := unix.Mount(dir, dir, "none", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("mount %s on itself: %w", dir, err)
	}
	d.changed()
	if err := shared(); err != nil {
		return fmt.Errorf("share mounts of %s: %w", dir, err)
	}
	d.changed()
	return nil
}

// CreateMarked makes the namespace's file appear with its content.
func (d *Dir) CreateMarked(path, mark string) error {
	fd, err := unix.Open(d.Path, unix.O_TMPFILE|unix.O_WRONLY|unix.O_CLOEXEC, 0o444)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), path)
	defer f.Close()
	if _, err := io.WriteString(f, mark); err != nil {
		return err
	}
	err = unix.Linkat(unix.AT_FDCWD, "/proc/self/fd/"+strconv.Itoa(fd), unix.AT_FDCWD, path, unix.AT_SYMLINK_FOLLOW)
	if err != nil {
		return err
	}
	d.changed()
	return nil
}

// HalfMade reports whether the file is left from our creation that ended before its
// mount.
func (d *Dir) HalfMade(name, mark string) bool {
	path, err := d.File(name)
	if err != nil {
		return false
	}
	at, err := unix.Open(path, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer unix.Close(at)
	var st unix.Stat_t
	// Namespaces are regular files as well.
	if unix.Fstat(at, &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFREG || st.Size > maxMark || isNSFS(at) {
		return false
	}
	content, err := os.ReadFile("/proc/self/fd/" + strconv.Itoa(at))
	return err == nil && string(content) == mark
}

// BindNew makes a namespace, prepares it and gives it its name, in this order. Its
// thread is in the new namespace then and must not be used again.
func (d *Dir) BindNew(path string, prepare func() error) error {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("unshare: %w", err)
	}
	if err := prepare(); err != nil {
		return err
	}
	if err := unix.Mount("/proc/thread-self/ns/net", path, "none", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("mount it: %w", err)
	}
	d.changed()
	return nil
}

func (d *Dir) Unmount(path string) error {
	err := unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	// EINVAL: another process was faster.
	if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("unmount %s: %w", path, err)
	}
	d.changed()
	return nil
}

// Remove removes the file of a namespace that is gone. On a read-only /run the
// file stays with our mark as content, by which a later process removes it.
func (d *Dir) Remove(path string) error {
	err := unix.Unlink(path)
	if err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EROFS) {
		return fmt.Errorf("remove %s: %w", path, err)
	}
	d.changed()
	return nil
}
