package netnsdir

import (
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"strconv"

	"golang.org/x/sys/unix"
)

// InsteadError is an ErrNotFound that says what the name leads to instead of a namespace.
type InsteadError struct {
	What string
	// Apart says that it is a namespace which only one of this process and the
	// host has under the name.
	Apart bool
}

func (e InsteadError) Error() string { return e.What }
func (e InsteadError) Unwrap() error { return ErrNotFound }

// openFile opens a file that must be a network namespace, or a symbolic link to one
// of a process in /proc. It opens nothing else, and returns an InsteadError for it.
// What it returns is the namespace that the name stood for when it was looked at: no
// name is followed twice.
func openFile(path string) (int, ID, error) {
	at, err := unix.Open(path, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
		return -1, ID{}, ErrNotFound
	}
	if err != nil {
		return -1, ID{}, err
	}
	defer func() { unix.Close(at) }()
	var st unix.Stat_t
	if err := unix.Fstat(at, &st); err != nil {
		return -1, ID{}, err
	}
	if st.Mode&unix.S_IFMT == unix.S_IFLNK {
		to, err := followLink(path, at)
		if err != nil {
			return -1, ID{}, err
		}
		unix.Close(at)
		at = to
	}
	if !isNSFS(at) {
		return -1, ID{}, InsteadError{What: fmt.Sprintf("%s is %s and no namespace: unless it is just being made, remove it, and make the namespace anew (ip netns add)", path, fileType(st.Mode))}
	}
	return openNSFS(at, path)
}

// openNSFS opens for setns, which refuses O_PATH descriptors (EBADF).
func openNSFS(at int, path string) (int, ID, error) {
	fd, err := unix.Open("/proc/self/fd/"+strconv.Itoa(at), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, ID{}, err
	}
	kind, err := unix.IoctlRetInt(fd, unix.NS_GET_NSTYPE)
	if err == nil && kind != unix.CLONE_NEWNET {
		err = InsteadError{What: path + " is another kind of namespace: remove it, and make a network namespace (ip netns add)"}
	}
	var id ID
	if err == nil {
		id, err = identify(fd)
	}
	if err != nil {
		unix.Close(fd)
		return -1, ID{}, err
	}
	return fd, id, nil
}

// processNetns is the file of a process's network namespace. Only root can have put
// another file there, which a link to anywhere else would not tell.
var processNetns = regexp.MustCompile(`^/proc/[1-9][0-9]*/ns/net$`)

// followLink opens the target of a symbolic link, as an O_PATH descriptor.
func followLink(path string, at int) (int, error) {
	buffer := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(at, "", buffer)
	if err != nil {
		return -1, err
	}
	target := string(buffer[:n])
	if !filepath.IsAbs(target) {
		target = filepath.Join(filepath.Dir(path), target)
	}
	if !processNetns.MatchString(target) {
		return -1, InsteadError{What: fmt.Sprintf("%s is a symbolic link to %s, and only one to /proc/PID/ns/net is followed: remove it, and give the namespace that name by ip netns attach, or by a bind mount", path, target)}
	}
	to, err := unix.Open(target, unix.O_PATH|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ESRCH) {
		return -1, InsteadError{What: fmt.Sprintf("%s is a symbolic link to %s, and that process has ended: point it to one that runs, or remove it", path, target)}
	}
	return to, err
}

// fileType names the type of a file that is no namespace.
func fileType(mode uint32) string {
	switch mode & unix.S_IFMT {
	case unix.S_IFDIR:
		return "a folder"
	case unix.S_IFREG:
		return "a plain file"
	}
	return "a special file"
}

func isNSFS(fd int) bool {
	var fs unix.Statfs_t
	return unix.Fstatfs(fd, &fs) == nil && fs.Type == unix.NSFS_MAGIC
}

// ID tells network namespaces apart as long as one of them is open.
type ID struct{ Dev, Ino uint64 }

func identify(fd int) (ID, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return ID{}, err
	}
	return ID{Dev: st.Dev, Ino: st.Ino}, nil
}
