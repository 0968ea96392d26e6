package kernel

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/patchbay-dev/patchbay/nodeagent/netstate"
	"github.com/patchbay-dev/patchbay/nodeagent/plan"
)

// maxMark bounds what is read of a file that may hold a mark.
const maxMark = 256

// netnsPath is the file of a namespace. Names come from users.
func (k *Kernel) netnsPath(name string) (string, error) {
	if name == "" || name == "." || name == ".." || strings.ContainsAny(name, "/\x00") {
		return "", fmt.Errorf("%q is not the name of a network namespace", name)
	}
	return filepath.Join(k.netnsDir(), name), nil
}

// netnsNames lists the files that may be namespaces.
func (k *Kernel) netnsNames() ([]string, error) {
	entries, err := os.ReadDir(k.netnsDir())
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

func (s *session) observeNetns(key netstate.Key) (netstate.Object, error) {
	p, err := s.place(key.Netns)
	if errors.Is(err, ErrNetnsNotFound) && s.k.halfMade(key.Netns) {
		return netstate.Netns{Name: key.Netns, Managed: true, HalfMade: true}, nil
	}
	if other := (insteadError{}); errors.As(err, &other) {
		return netstate.Netns{Name: key.Netns, Instead: other.what, Apart: other.apart}, nil
	}
	if err != nil {
		return nil, err
	}
	managed, err := p.managed()
	if err != nil {
		return nil, err
	}
	return netstate.Netns{Name: key.Netns, Managed: managed}, nil
}

// managed reports whether the namespace's loopback bears our mark.
func (p *place) managed() (bool, error) {
	lo, err := p.link("lo")
	if err != nil {
		return false, err
	}
	return lo.alias == p.k.netnsMark(p.netns), nil
}

func (k *Kernel) netnsMark(name string) string { return netstate.NetnsMark(k.opts.Source, name) }

func (s *session) applyNetns(op plan.Op, n netstate.Netns) error {
	path, err := s.k.netnsPath(n.Name)
	switch {
	case err != nil:
	case (op == plan.Create || op == plan.Update) && n.Managed:
		// An update is of a half-made one; createNetns refuses any other.
		err = s.createNetns(n.Name, path)
	case op == plan.Create:
		err = ErrNetnsNotFound
	case op == plan.Delete:
		err = s.deleteNetns(n.Name, path)
	default:
		err = errors.ErrUnsupported
	}
	if err != nil {
		return fmt.Errorf("%s network namespace %s: %w", op, n.Name, err)
	}
	return nil
}

// createNetns leaves behind, wherever it is interrupted, nothing, a plain file
// with our mark, or a namespace whose loopback bears it.
func (s *session) createNetns(name, path string) error {
	if err := sysctlsWritable(); err != nil {
		return err
	}
	if err := s.k.MountsApart(); err != nil {
		return err
	}
	if err := s.k.shareNetnsDir(); err != nil {
		return err
	}
	err := s.k.createMarkedFile(name, path)
	if errors.Is(err, unix.EEXIST) {
		err = s.continueNetns(name)
	}
	if err != nil {
		return err
	}
	s.leave(name)
	if err := onFreshThread(func() error { return s.k.bindNewNetns(name, path) }); err != nil {
		return err
	}
	p, err := s.place(name)
	if err != nil {
		return err
	}
	return s.assignNSID(p)
}

// continueNetns looks at a file that is in the way.
func (s *session) continueNetns(name string) error {
	if s.k.halfMade(name) {
		return nil
	}
	p, err := s.place(name)
	if err != nil {
		return ErrForeign
	}
	managed, err := p.managed()
	switch {
	case err != nil:
		return err
	case managed:
		return ErrExists
	}
	return ErrForeign
}

// shareNetnsDir prepares the folder of namespaces as `ip netns add` does, so
// that what is mounted there is seen in other mount namespaces too.
func (k *Kernel) shareNetnsDir() error {
	dir := k.netnsDir()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	share := func() error { return unix.Mount("", dir, "none", unix.MS_SHARED|unix.MS_REC, "") }
	err := share()
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
	if !errors.Is(share(), unix.EINVAL) {
		return nil
	}
	if err := unix.Mount(dir, dir, "none", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("mount %s on itself: %w", dir, err)
	}
	k.changed()
	if err := share(); err != nil {
		return fmt.Errorf("share mounts of %s: %w", dir, err)
	}
	k.changed()
	return nil
}

// createMarkedFile makes the namespace's file appear with its content.
func (k *Kernel) createMarkedFile(name, path string) error {
	fd, err := unix.Open(k.netnsDir(), unix.O_TMPFILE|unix.O_WRONLY|unix.O_CLOEXEC, 0o444)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), path)
	defer f.Close()
	if _, err := io.WriteString(f, k.netnsMark(name)); err != nil {
		return err
	}
	err = unix.Linkat(unix.AT_FDCWD, "/proc/self/fd/"+strconv.Itoa(fd), unix.AT_FDCWD, path, unix.AT_SYMLINK_FOLLOW)
	if err != nil {
		return err
	}
	k.changed()
	return nil
}

// halfMade reports whether the file is what a creation of ours leaves that did
// not come to its mount.
func (k *Kernel) halfMade(name string) bool {
	path, err := k.netnsPath(name)
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
	return err == nil && string(content) == k.netnsMark(name)
}

// bindNewNetns makes a namespace, marks it and gives it its name, in this
// order. Its thread is in the new namespace then and must not be used again.
func (k *Kernel) bindNewNetns(name, path string) error {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("unshare: %w", err)
	}
	c, err := k.dial()
	if err != nil {
		return err
	}
	defer c.close()
	body := nl.NewIfInfomsg(unix.AF_UNSPEC)
	body.Index, body.Flags, body.Change = 1, unix.IFF_UP, unix.IFF_UP
	err = c.change(unix.RTM_SETLINK, 0, body, nl.NewRtAttr(unix.IFLA_IFALIAS, []byte(k.netnsMark(name))))
	if err != nil {
		return fmt.Errorf("mark its loopback: %w", err)
	}
	if err := unix.Mount("/proc/thread-self/ns/net", path, "none", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("mount it: %w", err)
	}
	k.changed()
	return nil
}

// deleteNetns removes a namespace or a half-made file of ours. The namespace
// itself ends when its last process does.
func (s *session) deleteNetns(name, path string) error {
	p, err := s.place(name)
	switch {
	case err == nil:
		managed, err := p.managed()
		if err != nil {
			return err
		}
		if !managed {
			return ErrForeign
		}
		s.leave(name)
		if err := s.k.unmount(path); err != nil {
			return err
		}
	case !errors.Is(err, ErrNetnsNotFound):
		return err
	case !s.k.halfMade(name):
		if _, err := os.Lstat(path); err == nil {
			return ErrForeign
		}
		return nil
	}
	return s.k.unlink(path)
}

func (k *Kernel) unmount(path string) error {
	err := unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	// EINVAL: somebody was faster.
	if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("unmount %s: %w", path, err)
	}
	k.changed()
	return nil
}

// unlink removes the file of a namespace that is gone. On a read-only /run the
// file stays with our mark as content, by which a later process removes it.
func (k *Kernel) unlink(path string) error {
	err := unix.Unlink(path)
	if err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EROFS) {
		return fmt.Errorf("remove %s: %w", path, err)
	}
	k.changed()
	return nil
}
